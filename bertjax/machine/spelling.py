"""How flags may be spelled where argparse reads them, in the commands that have to start without jax.

The other commands are read by `bertjax.engine.command_line`, where a dash is an underscore and `--max_length` is
`--data.max_length`; these do the same.
"""

from collections.abc import Sequence


def with_underscores(argv: Sequence[str]) -> list[str]:
    """The arguments with underscores in the names of flags; `--help=all` is `--help`, which shows everything here."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(f"{name.replace('-', '_').replace('__', '--', 1)}{equals}{value}" if word[:2] == "--" else word)
    return ["--help" if word == "--help=all" else word for word in words]


def spellings(flag: str) -> list[str]:
    """The names of a flag: with its group and, shorter, without."""
    return [f"--{flag}", f"--{flag.rpartition('.')[2]}"] if "." in flag else [f"--{flag}"]
