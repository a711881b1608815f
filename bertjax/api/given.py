"""What is given to a call: models and text in memory become files in the folder of the run, and arguments become the
fields of its config, if they have the right types."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from bertjax.api.results import Exported, Trained
from bertjax.engine.fields import Leaf, describe, fits, full_path, leaves
from bertjax.engine.fields import replace as replace_fields
from bertjax.engine.inputs import MODELS, TEXTS
from bertjax.errors import UserError, nearest
from bertjax.storage.paths import write_text

if TYPE_CHECKING:
    from bertjax.bundle import Bundle


Model = Any
"""A folder, hf:NAME, demo, a `Bundle`, or the result of another run."""
Text = Any
"""A file, tfds:NAME/SPLIT, demo, or what `bertjax.text.sources.memory_table` reads: a list of texts, of pairs (text,
label) or of dicts, a dict of columns, or a table of pandas, Polars, Arrow or Hugging Face `datasets`."""
COMMANDS = {"add_exits": "exits"}
"""The commands of functions that are not called like them."""


class Memory:
    """What was given in memory, and how it is written, by the names of the files and folders inside a run's folder.
    The names hold digests of the contents, so that equal arguments give equal configs."""

    def __init__(self) -> None:
        self.writers: dict[str, Callable[[Any], None]] = {}

    def text(self, role: str, source: Text) -> str:
        """The name of a source of text."""
        if isinstance(source, str | os.PathLike):
            return os.fspath(source)
        from bertjax.text.sources import memory_table

        columns = memory_table(source).columns
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        try:
            form = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=date_text)
            lines = "".join(f"{form.encode(row)}\n" for row in rows)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{role}: a cell cannot be stored ({error}); give columns of text, numbers and lists"
            ) from None
        name = f"given/{role}-{digest(lines)}.jsonl"
        self.writers[name] = partial(write_text, text=lines)
        return name

    def model(self, model: Model) -> str:
        """The name of a model."""
        if isinstance(model, Trained | Exported):
            return str(model.path)
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        from bertjax.bundle import Bundle, save
        from bertjax.storage import manifest

        if not isinstance(model, Bundle):
            raise UserError(
                f"model is {repr(model)[:60]}; expected a folder, hf:NAME, demo, a Bundle, or the result of a run"
            )
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder, "model"))
            name = f"given/model-{digest(manifest.fingerprint(Path(folder, 'model')))}"
        self.writers[name] = partial(save_once, model)
        return name

    def value(self, name: str, given: Any) -> Any:
        """The value of a field: models and texts by their names, other lists as tuples."""
        if name in TEXTS:
            return self.text(name, given)
        if name in (*MODELS, "against") and isinstance(given, list | tuple):
            named = [one if is_part(one) else self.model(one) for one in given]
            return tuple(named)
        if name in MODELS and not is_part(given):
            return self.model(given)
        return tuple(given) if isinstance(given, list) else given

    def write(self, out: Any) -> None:
        """Writes everything, unless it is there already."""
        for name, writer in self.writers.items():
            if not (out / name).exists():
                writer(out / name)

    def located(self, value: Any, out: str) -> Any:
        """The value of a field with the paths of what was written."""
        if isinstance(value, tuple):
            return tuple(self.located(one, out) for one in value)
        return os.path.join(out, value) if isinstance(value, str) and value in self.writers else value


def date_text(cell: Any) -> str:
    """A date or time as text, so that a column which nobody asked for is no obstacle.

    Raises:
      TypeError: Something else that JSON does not know.
    """
    if hasattr(cell, "isoformat"):
        return cell.isoformat()
    raise TypeError(f"{type(cell).__name__} {repr(cell)[:40]}")


def is_part(value: Any) -> bool:
    """Whether this is a stage, as `teacher` of `compare` may hold."""
    from bertjax.recipes.stage import Stage

    return isinstance(value, Stage)


def save_once(model: Bundle, folder: Any) -> None:
    from bertjax.bundle import save

    save(model, folder)


def config_class(command: str) -> type[Any]:
    return import_module(f"bertjax.recipes.{command}").Config


def started_from(command: str, given: Any) -> Any:
    """The config that the arguments change: the defaults, that of a file, or the one given."""
    from bertjax.engine.command_line import load_config

    cls = config_class(command)
    if given is None:
        return cls()
    if isinstance(given, str | os.PathLike):
        return load_config(os.fspath(given), cls)
    if not isinstance(given, cls):
        raise UserError(f"config is {repr(given)[:60]}; expected a {cls.__module__}.Config, or its file or name")
    return given


def placed(command: str, config: Any, given: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Each argument with the path of its field in the config."""
    known, own = leaves(config), [one.name for one in fields(config) if one.init]
    found = []
    for name, value in given.items():
        path = name if name in own else full_path(name, known)
        if path is None or (path not in known and path not in own) or name == "compile_only":
            function = next((key for key, other in COMMANDS.items() if other == command), command)
            short = [other.rpartition(".")[2] for other in known]
            raise UserError(f"{function}() has no argument {name}{nearest(name, [*own, *short])}")
        found.append((name, path, value))
    return found


def checked(config: Any, changes: dict[str, Any]) -> Any:
    """The config with these fields, if they have the right types."""
    declared = {name: leaf.type for name, leaf in leaves(config).items()} | get_type_hints(type(config))
    for path, value in changes.items():
        if not has_type(value, declared[path]):
            raise UserError(f"{path.rpartition('.')[2]} is {value!r}; expected {describe(declared[path])}")
    return replace_fields(config, changes)


def has_type(value: Any, declared: Any) -> bool:
    """Whether a value fits its declared type, and the items of a tuple fit theirs."""
    if get_origin(declared) is not tuple:
        return fits(Leaf(declared, value))
    item, *rest = get_args(declared)
    return isinstance(value, tuple) and (rest != [...] or all(has_type(one, item) for one in value))


def digest(content: Any) -> str:
    """Twelve digits that tell contents apart."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
