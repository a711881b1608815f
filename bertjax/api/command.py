"""A call runs the `main` of its command, with a config made of the arguments."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from bertjax.api.given import COMMANDS, Memory, checked, config_class, digest, placed, started_from
from bertjax.engine.fields import replace as replace_fields
from bertjax.engine.fields import to_dict
from bertjax.storage.paths import as_path

Function = TypeVar("Function", bound=Callable[..., Any])


def explained(function: Function) -> Function:
    """The function with its arguments explained in the docstring, from the config of its command."""
    from bertjax.engine.help import everyday, short_docs

    config = config_class(COMMANDS.get(function.__name__, function.__name__))()
    docs = short_docs(config)
    shown = [path for path in everyday(config) if path != "out"]
    others = sorted({path.rpartition(".")[2] for path in docs} - {path.rpartition(".")[2] for path in shown} - {"out"})
    lines = [f"  {path.rpartition('.')[2]}: {docs[path]}" for path in shown]
    command = COMMANDS.get(function.__name__, function.__name__)
    function.__doc__ = "\n".join(
        [
            *(function.__doc__ or "").splitlines(),
            "",
            "Args:",
            *lines,
            "  out: The folder of the run. Default: runs/COMMAND-DIGEST, see bertjax.api.",
            "  config: What the other arguments change: a config, or NAME or FILE as for --config.",
            f"  more: More fields, which `bertjax {command} --help=all` explains: {', '.join(others)}.",
        ]
    )
    return function


def run(command: str, result: type[Any], arguments: Mapping[str, Any]) -> Any:
    """Runs a command with the arguments of its function (its `locals()`), and returns the result."""
    from bertjax.engine.record import release_locks
    from bertjax.jobs.stages import Incomplete
    from bertjax.machine.allocator import keep_freed_memory

    given = {name: value for name, value in arguments.items() if name != "more" and value is not None}
    given |= arguments["more"]
    memory, out = Memory(), given.pop("out", None)
    start = started_from(command, given.pop("config", None))
    changes = {path: memory.value(name, value) for name, path, value in placed(command, start, given)}
    config = checked(start, changes)
    if out is None:
        settings = {name: value for name, value in to_dict(config).items() if name != "out"}
        out = f"runs/{command}-{digest([command, settings])}"
    out = os.fspath(out)
    config = replace(config, out=out)
    config = replace_fields(config, {path: memory.located(value, out) for path, value in changes.items()})
    memory.write(as_path(out))
    keep_freed_memory()
    problem = None
    try:
        main_of(command)(config)
    except Incomplete as left:
        problem = left.sentence
    finally:
        release_locks()
    return result(as_path(out), problem)


def main_of(command: str) -> Callable[[Any], None]:
    """The `main` of a command's script, found as `bertjax.cli` finds it."""
    from bertjax.engine.command_line import shipped_folder

    file = shipped_folder("train") / f"{command}.py"
    spec = importlib.util.spec_from_file_location(f"bertjax_command_{command}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main
