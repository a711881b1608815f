"""What `--help` prints: the everyday flags of a command first, and all of them, by group, with `--help=all`.

The meaning of a flag is the docstring below its field, so help, reference and notebook say the same. A config lists its
everyday flags in the class variable `everyday`. The first tier is for a reader who knows the technique and not this
project: one screen, with the first sentence of each docstring.
"""

import ast
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

from bertjax.engine.fields import Leaf, describe, is_branch, leaves

WIDTH = 26
"""Columns for a flag and its default."""


def everyday(config: Any) -> list[str]:
    """The paths of the everyday fields; all paths of a config that names none."""
    known = leaves(config)
    return [path for path in getattr(config, "everyday", ()) if path in known] or list(known)


def help_text(config: Any, description: str, command: str, everything: bool, configs: Sequence[str]) -> str:
    """The help of a command, whose flags have the values of this config as defaults."""
    known, docs = leaves(config), full_docs(config)
    shown, width = everyday(config), min(shutil.get_terminal_size((100, 0)).columns, 120)
    parts = [f"usage: {command} [--FIELD=VALUE ...]"]
    blocks = inspect.cleandoc(description).split("\n\n")
    for block in blocks if everything else first_blocks(blocks):
        parts.append(block.rstrip() if block.startswith(" ") else textwrap.fill(" ".join(block.split()), width))
    if not everything:
        parts.append(flags_text({path: known[path] for path in shown}, short_docs(config), width))
        others = f"{len(known) - len(shown)} more flags" if len(known) > len(shown) else "all flags in full"
        about = f"--help=all explains {others}. --config=NAME starts from a recipe or your own config file."
    else:
        groups: dict[str, dict[str, Leaf]] = {}
        for path, leaf in known.items():
            groups.setdefault(path.rpartition(".")[0], {})[path] = leaf
        for group, flags in groups.items():
            heading = f"{group}: {group_doc(config, group)}".rstrip(": ") if group else "options"
            parts.append(f"{textwrap.fill(heading, width)}\n{flags_text(flags, docs, width)}")
        hosts = " ".join(f"--processes.{name}" for name in ("coordinator=HOST:PORT", "count=N", "index=I"))
        parts.append(
            textwrap.fill(
                f"To train in several processes (not needed on a TPU slice): {hosts}, with another index in each", width
            )
        )
        about = f"--config=FILE starts from a config file. Shipped configs, by name: {', '.join(configs)}."
    spelling = (
        "A dash is an underscore, and a group may be left out where it is clear: --max-length is --data.max_length."
    )
    return "\n\n".join([*parts, textwrap.fill(f"{about} {spelling}", width)])


def first_blocks(blocks: Sequence[str]) -> list[str]:
    """Of a description the first paragraph and the examples that follow it."""
    examples = [block for block in blocks[1:3] if block.startswith(" ")]
    return [*blocks[:1], *examples[:1]]


def flags_text(flags: dict[str, Leaf], docs: dict[str, str], width: int) -> str:
    """One entry for each flag: its name with the default, and its meaning."""
    lines = []
    for path, leaf in flags.items():
        name = f"  --{path}={default_text(leaf)}"
        meaning = f"{docs.get(path, '')} {choices_text(leaf, docs.get(path, ''))}".strip()
        indent = " " * (WIDTH + 4)
        wrapped = textwrap.wrap(meaning, width, initial_indent=indent, subsequent_indent=indent) or [""]
        if len(name) < WIDTH + 3:
            wrapped[0] = name.ljust(WIDTH + 4) + wrapped[0].strip()
        else:
            wrapped.insert(0, name)
        lines += [line.rstrip() for line in wrapped]
    return "\n".join(lines)


def default_text(leaf: Leaf) -> str:
    """The default of a flag, or in capitals what it takes where there is none."""
    if leaf.value is None or leaf.value == ():
        return describe(leaf.type).removesuffix(" | none").upper() if len(describe(leaf.type)) < 20 else "VALUE"
    text = ",".join(map(str, leaf.value)) if isinstance(leaf.value, tuple) else str(leaf.value)
    text = text.lower() if isinstance(leaf.value, bool) else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def choices_text(leaf: Leaf, said: str) -> str:
    """The choices of a flag that its meaning does not name."""
    members = (leaf.type, *get_args(leaf.type))
    choices = [str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)]
    new = [choice for choice in choices if not re.search(rf"\b{re.escape(choice)}\b", said)]
    return f"({' | '.join(dict.fromkeys(choices))})" if new else ""


def short_docs(config: Any) -> dict[str, str]:
    """The first sentence on each field, without what it says of each choice."""
    end = r"(?<=[.])\s+(?=[A-Z-]|[\w, ]+: )"
    return {path: re.split(end, doc, maxsplit=1)[0] for path, doc in full_docs(config).items()}


def full_docs(branch: Any, prefix: str = "") -> dict[str, str]:
    """The docstring of each leaf, by its path."""
    found = {}
    named = field_docs(type(branch)) if dataclasses.is_dataclass(branch) else {}
    for path in leaves(branch):
        name = path.partition(".")[0]
        value = getattr(branch, name) if dataclasses.is_dataclass(branch) else branch[int(name)]
        if not is_branch(value):
            found[prefix + path] = named.get(name, "")
        elif prefix + path not in found:
            found |= full_docs(value, f"{prefix}{name}.")
    return found


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstrings that stand below the fields of a dataclass and of the classes that it inherits from."""
    found = {}
    for one in reversed(cls.__mro__):
        try:
            body: Any = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        except (OSError, TypeError):  # a class of C, or one that was typed in
            continue
        for line, below in pairwise(body.body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[line.target.id] = " ".join(text.value.split())
    return found


def group_doc(config: Any, group: str) -> str:
    """The first sentence on the class of a group."""
    value = config
    for name in group.split("."):
        value = value[int(name)] if isinstance(value, tuple) else getattr(value, name)
    lines = (type(value).__doc__ or "").split("\n\n")[0]
    return "" if lines.startswith(f"{type(value).__name__}(") else " ".join(lines.split())
