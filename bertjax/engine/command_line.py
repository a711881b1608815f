"""The command line: arguments become a frozen config, and mistakes become one clear message.

    bertjax distill --config=quickstart --data.max_length=64 --losses.0.weight=0.5 --out=runs/mine

A file with several recipes names them: --config=tinybert:prediction. Flags override the `config` of the config file,
which overrides the defaults of the command's `Config`. A config file is plain Python. Flags are parsed here, so that a
typing mistake names the nearest valid spelling, and so that flags which a dataclass checks together are applied
together; tyro converts their values.
"""

import dataclasses
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar, get_type_hints

from bertjax.engine import commands, hosts
from bertjax.engine.fields import Leaf, convert, describe, fits, full_path, leaves, replace
from bertjax.engine.help import help_text
from bertjax.engine.hosts import Processes
from bertjax.errors import UserError, nearest
from bertjax.machine.allocator import keep_freed_memory
from bertjax.machine.signals import Stopped, listening, raise_if_stopped
from bertjax.renamed import FIELDS

C = TypeVar("C")
Job = Callable[[Any], object]


def shipped_folder(name: str) -> Path:
    """`train` or `configs`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


CONFIGS = shipped_folder("configs")


def run(main: Job, description: str | None, argv: Sequence[str] | None = None, *, trains: bool = True) -> NoReturn:
    """Runs `main(config)` on a command line and exits: with 0, or with 2 and a few lines on stderr after a user error.

    The config has the class that `main` declares. With several processes (hosts.py), only the main process runs a
    command that does not train.
    """
    with listening():
        _run(main, description or "", sys.argv[1:] if argv is None else argv, trains)


def _run(main: Job, description: str, argv: Sequence[str], trains: bool) -> NoReturn:
    keep_freed_memory()
    cls, command = get_type_hints(main)["config"], Path(main.__code__.co_filename).stem
    code: Any = 0
    reason = ""
    try:
        processes, argv = take_group("processes", Processes(), argv)
        config = parse(cls, argv, description, f"bertjax {command}")
        commands.remember(config, argv)
        if getattr(config, "compile_only", None):
            from bertjax.engine.compile_only import dry_run

            dry_run(main, config)
            sys.exit(0)
        hosts.join(processes)
        if trains:
            main(config)
        else:
            hosts.on_main_process(lambda: main(config))
        raise_if_stopped()
        sys.stdout.flush()
    except UserError as error:
        code, reason = 2, str(error)
        print(*reason.strip().splitlines()[:5], sep="\n", file=sys.stderr)
    except Stopped as stop:
        # With several processes SIGTERM ends all of them together; another signal ends this one, and the others follow.
        code, reason = stop.code, "" if stop.number == signal.SIGTERM else str(stop)
        print(stop, file=sys.stderr)
    except SystemExit as stop:
        code = stop.code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        code, reason = 141, "its output was closed"  # 128 + SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            code = 2
            reason = f"cannot write {error.filename or 'a file'}: {error.strerror}. Free space and run it again."
            print(reason, file=sys.stderr)
        elif hosts.has_other_processes():
            traceback.print_exc()
            code, reason = 1, f"{type(error).__name__}: {error}"
        else:
            raise
    hosts.exit_process(code, reason)


def parse(cls: type[C], argv: Sequence[str], description: str = "", prog: str | None = None) -> C:
    """The config for these arguments. Every field of `cls` needs a default. `--help` prints and exits."""
    flags = _split(argv)
    config = load_config(" ".join(flags.pop("config")), cls) if "config" in flags else cls()
    if "help" in flags:
        everything = flags["help"] == ["all"]
        print(help_text(config, description, prog or "bertjax", everything, _shipped()))
        sys.exit(0)
    known, values = leaves(config), {}
    for name, words in flags.items():
        path = full_path(name, known)
        if path not in known:
            raise UserError(_unknown(name, known))
        values[path] = convert(path, known[path], words)
    try:
        return replace(config, values)
    except ValueError as error:  # from a dataclass's own check
        raise UserError(str(error)) from error


def take_group(name: str, group: C, argv: Sequence[str]) -> tuple[C, list[str]]:
    """Parses a group of flags that every command has and no config holds; returns it and the remaining arguments."""
    own, rest, inside = [], [], False
    for word in argv:
        if word.startswith("--"):
            inside = word.startswith(f"--{name}.")
        (own if inside else rest).append(word)
    known = {f"{name}.{path}": leaf for path, leaf in leaves(group).items()}
    values = {}
    for path, words in _split(own).items():
        if path not in known:
            raise UserError(_unknown(path, known))
        values[path.removeprefix(f"{name}.")] = convert(path, known[path], words)
    return replace(group, values), rest


def load_config(name: str, cls: type[C]) -> C:
    """The `config` of a config file, by its path or by the name of a shipped one. NAME:OTHER is its variable OTHER, for
    files with several recipes."""
    source, (name, which) = name, re.fullmatch(r"(.*?)(?::(\w+))?", name).groups(default="config")  # type: ignore[union-attr]
    path = CONFIGS / f"{name}.py" if re.fullmatch(r"\w+", name) else Path(name)
    if not path.is_file():
        shipped = _shipped()
        raise UserError(
            f'no config file "{source}"{nearest(path.stem, shipped)}\nshipped configs: {", ".join(shipped)}'
        )
    module = _execute(path)
    config = getattr(module, which, None)
    if not isinstance(config, cls):
        problem = f"it is a {_name(type(config))}" if hasattr(module, which) else "the file has no such name"
        others = [f"{path.stem}:{other}" for other, value in vars(module).items() if isinstance(value, cls)]
        hint = f". It has: {', '.join(others)}" if others else ""
        raise UserError(f"{path}: `{which}` must be a {_name(cls)}; {problem}{hint}")
    for field, leaf in leaves(config).items():
        if not fits(leaf):
            raise UserError(f"{path}: {field} is {leaf.value!r}; expected {describe(leaf.type)}")
    return config


def _split(argv: Sequence[str]) -> dict[str, list[str]]:
    """Flags with their values: `--a.b=v` or `--a.b v w`; dashes count as underscores."""
    flags: dict[str, list[str]] = {}
    words: list[str] | None = None
    for word in argv:
        if word.startswith("--") or word == "-h":
            name, equals, value = ("help" if word == "-h" else word[2:]).partition("=")
            words = flags[name.replace("-", "_")] = [value] if equals else []
        elif words is None:
            raise UserError(f'unexpected argument "{word}"; fields are set as --field=value, and --help lists them')
        else:
            words.append(word)
    return flags


def _unknown(path: str, known: dict[str, Leaf]) -> str:
    inside = [f"--{name}" for name in known if name.startswith(f"{path}.")]
    if inside:
        return f"--{path} is a group of fields; set one of: {', '.join(inside)}"
    group, _, name = path.rpartition(".")
    if (new := f"{group}.{FIELDS.get(name)}".lstrip(".")) in known:
        return f"--{path} is called --{new} now"
    return f"unknown field --{path}{nearest(path, list(known), '--')}\n--help lists every field"


def _execute(path: Path) -> ModuleType:
    module = sys.modules[f"config_file_{path.stem}"] = ModuleType(f"config_file_{path.stem}")
    # With the entry in sys.modules, dataclasses and the help find the source of the classes.
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except Exception as error:
        raise UserError(_explain(path, module, error)) from error
    return module


def _explain(path: Path, module: ModuleType, error: Exception) -> str:
    """One line for a config file that failed: the line number, and the nearest valid field."""
    if isinstance(error, SyntaxError):
        return f"{path}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if match := re.match(r"TypeError: (\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        cls = getattr(module, match[1], None)
        fields = [field.name for field in dataclasses.fields(cls)] if cls else []
        new = FIELDS.get(match[2])
        text = (
            f"{match[1]}: {match[2]} is called {new} now" if new in fields else match[0] + nearest(match[2], fields)
        )  # Python 3.13 adds a hint of its own, which this replaces
    return f"{path}, line {lines[-1] if lines else 1}: {text}"


def _shipped() -> list[str]:
    return sorted(file.stem for file in CONFIGS.glob("*.py"))


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
