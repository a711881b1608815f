"""Complete, quoted commands for reports and messages: how to repeat this run, or what to run next.

A config file is Python and cannot be written as flags, so the arguments of the command line are kept when they are
parsed (command_line.py). For a config made in Python, the fields that differ from their defaults become flags.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.engine.fields import Dataclass, full_path, leaves

_parsed: tuple[Dataclass | None, list[str]] = (None, [])
"""The config that was parsed last, and its arguments."""


def remember(config: Dataclass, arguments: Sequence[str]) -> None:
    """Keeps the arguments that a config was parsed from."""
    global _parsed  # a process has one command line
    _parsed = config, list(arguments)


def command_for(script: str, config: Dataclass, **changes: Any) -> str:
    """The command for a config, with other values for some fields; `__` stands for the dot in their names."""
    new = {name.replace("__", "."): value for name, value in changes.items()}
    kept, keep = [], True
    for argument in _parsed[1] if config is _parsed[0] else flags(config):
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            keep = full_path(name, new) is None
        if keep:
            kept.append(argument)
    return line(script, *kept, *as_flags(new))


def line(*arguments: str) -> str:
    """A bertjax command, quoted for a shell."""
    return shlex.join(["bertjax", *arguments])


def flags(config: Dataclass) -> list[str]:
    """The fields of a config that differ from the defaults of its class, as flags."""
    usual = leaves(type(config)())
    return as_flags(
        {n: leaf.value for n, leaf in leaves(config).items() if n in usual and leaf.value != usual[n].value}
    )


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """These values as flags, as command_line.py parses them."""
    flags = []
    for name, value in values.items():
        if isinstance(value, tuple) and len(value) > 1:
            flags += [f"--{name}", *map(str, value)]
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            flags.append(
                f"--{name}={'none' if text is None else str(text).lower() if isinstance(text, bool) else text}"
            )
    return flags
