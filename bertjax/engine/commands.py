"""Commands that are printed for somebody to run: whole, quoted, and with what this run was asked for.

A config file is Python and cannot be spelled as flags, so the words of the command line are remembered when they are
read (settings.py). Of a config that came from Python, the fields that differ from their defaults are spelled out.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.engine.fields import leaves

_read: tuple[Any, list[str]] = (None, [])
"""The config that was read last, and the words that asked for it."""


def remember(config: Any, words: Sequence[str]) -> None:
    """Says with which flags a config was asked for."""
    global _read  # a command line belongs to the process, and is read once in it
    _read = config, list(words)


def asked(script: str, config: Any, **changes: Any) -> str:
    """The command that asked for a config, with other values for some fields; `__` is the dot in their names."""
    new = {name.replace("__", "."): value for name, value in changes.items()}
    kept, keep = [], True
    for word in _read[1] if config is _read[0] else flags(config):
        if word.startswith("--"):
            keep = word[2:].partition("=")[0].replace("-", "_") not in new
        if keep:
            kept.append(word)
    return line(script, *kept, *spelled(new))


def line(*words: str) -> str:
    """A command of bertjax, each word quoted where a shell needs it."""
    return shlex.join(["bertjax", *words])


def flags(config: Any) -> list[str]:
    """The fields of a config that differ from the defaults of its class, as flags."""
    usual = leaves(type(config)())
    return spelled({n: leaf.value for n, leaf in leaves(config).items() if n in usual and leaf.value != usual[n].value})


def spelled(values: Mapping[str, Any]) -> list[str]:
    """Flags with these values, as settings.py reads them."""
    found = []
    for name, value in values.items():
        if isinstance(value, tuple) and len(value) > 1:
            found += [f"--{name}", *map(str, value)]
        else:
            only = ",".join(map(str, value)) if isinstance(value, tuple) else value
            found.append(
                f"--{name}={'none' if only is None else str(only).lower() if isinstance(only, bool) else only}"
            )
    return found
