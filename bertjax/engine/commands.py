"""Complete, quoted commands for reports and messages: how to repeat this run, or what to run next.

A config file is Python and cannot be written as flags, so the arguments of the command line are kept when they are
parsed (command_line.py). For a config made in Python, the fields that differ from their defaults become flags.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.engine.fields import Dataclass, leaves

_parsed: tuple[Dataclass | None, list[str]] = (None, [])
"""The config that was parsed last, and its arguments."""


def remember(config: Dataclass, words: Sequence[str]) -> None:
    """Keeps the arguments that a config was parsed from."""
    global _parsed  # a process has one command line
    _parsed = config, list(words)


def asked(script: str, config: Dataclass, **changes: Any) -> str:
    """The command for a config, with other values for some fields; `__` stands for the dot in their names."""
    new = {name.replace("__", "."): value for name, value in changes.items()}
    kept, keep = [], True
    for word in _parsed[1] if config is _parsed[0] else flags(config):
        if word.startswith("--"):
            keep = word[2:].partition("=")[0].replace("-", "_") not in new
        if keep:
            kept.append(word)
    return line(script, *kept, *spelled(new))


def line(*words: str) -> str:
    """A bertjax command, quoted for a shell."""
    return shlex.join(["bertjax", *words])


def flags(config: Dataclass) -> list[str]:
    """The fields of a config that differ from the defaults of its class, as flags."""
    usual = leaves(type(config)())
    return spelled({n: leaf.value for n, leaf in leaves(config).items() if n in usual and leaf.value != usual[n].value})


def spelled(values: Mapping[str, Any]) -> list[str]:
    """These values as flags, as command_line.py parses them."""
    flags = []
    for name, value in values.items():
        if isinstance(value, tuple) and len(value) > 1:
            flags += [f"--{name}", *map(str, value)]
        else:
            only = ",".join(map(str, value)) if isinstance(value, tuple) else value
            flags.append(
                f"--{name}={'none' if only is None else str(only).lower() if isinstance(only, bool) else only}"
            )
    return flags
