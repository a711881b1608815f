"""A config as a tree: dataclasses and tuples of dataclasses are branches, every other value is a leaf.

`data.max_length` and `losses.0.weight` are paths of leaves. Paths follow the actual values and not the declared types,
so a dataclass from a user's own config file works like ours. tyro converts strings into typed values.
"""

import contextlib
import dataclasses
import inspect
import io
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from bertjax.errors import UserError, nearest


@runtime_checkable
class Dataclass(Protocol):
    """Any instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Leaf(NamedTuple):
    """One value that a flag can set, and its declared type."""

    type: Any
    value: Any


def leaves(branch: Any, prefix: str = "") -> dict[str, Leaf]:
    """Every leaf by its dotted path; items of a tuple are numbered from 0."""
    hints = get_type_hints(type(branch)) if dataclasses.is_dataclass(branch) else {}
    result = {}
    for name, value in _children(branch):
        declared = hints.get(name, Any)
        if is_branch(value):
            result |= leaves(value, f"{prefix}{name}.")
        else:
            kind = type(value) if declared is Any and value is not None else _by_flag(declared)
            result[prefix + name] = Leaf(kind, value)
    return result


def is_branch(value: Any) -> bool:
    """Whether flags address the fields of this value: a dataclass, or a tuple of dataclasses."""
    items = value if isinstance(value, tuple) else (value,)
    return any(map(dataclasses.is_dataclass, items))


def full_path(name: str, known: Iterable[str]) -> str | None:
    """The path that a name stands for: the name itself, or `data.max_length` for `max_length` if one group alone has a
    field of this name. A group is not a short name, and items of tuples are named in full. None: there is no such
    field."""
    paths = list(known)
    if name in paths or any(path.startswith(f"{name}.") for path in paths):
        return name
    inside = [path for path in paths if path.endswith(f".{name}") and not re.search(r"\.\d+\.", path)]
    return inside[0] if len(inside) == 1 else None


def replace(branch: Any, changes: dict[str, Any]) -> Any:
    """The tree with new leaves, by dotted path; all at once, so that each dataclass checks its new values together."""
    below: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = value
    new = {
        name: deeper[""] if "" in deeper else replace(value, deeper)
        for name, value in _children(branch)
        if (deeper := below.get(name))
    }
    if dataclasses.is_dataclass(branch) and not isinstance(branch, type):
        return dataclasses.replace(branch, **new)
    return tuple(new.get(name, value) for name, value in _children(branch))


def to_dict(value: Any) -> Any:
    """A config as plain JSON, each dataclass with the name of its class as `_type`: for reports and checkpoints."""
    if dataclasses.is_dataclass(value):
        return {"_type": class_name(type(value)), **{name: to_dict(child) for name, child in _children(value)}}
    if isinstance(value, dict):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"a config may hold numbers, text, paths, tuples, dicts and dataclasses; found {value!r}")


def class_name(cls: type) -> str:
    """The qualified name of a class. Classes of this package go without their module, because another version may move
    them to another one."""
    package = cls.__module__.partition(".")[0]
    return f"{package if package == 'bertjax' else cls.__module__}.{cls.__qualname__}"


def convert(path: str, leaf: Leaf, words: list[str]) -> Any:
    """The typed value of a flag: `1e-4`, `true`, `none`, `1,2` or `1 2` for a pair, `0:1,1:3` for a dict."""
    import tyro

    text = " ".join(words)
    members = _members(leaf.type)
    if type(None) in members and text.lower() == "none":
        return None
    if {*members} <= {str, type(None)} and len(words) == 1:
        return text  # also if tyro would parse it as a flag
    if bool in members:
        words = [text.capitalize() or "True"]
    elif len(words) == 1 and (origins := {get_origin(member) for member in members}) & {tuple, list, dict}:
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]", "{}") else text
        words = [word for word in re.split(r"[,:\s]+" if dict in origins else r"[,\s]+", inner) if word]
    # tyro 1.0.17 prints its own error even with console_outputs=False; it is replaced by the message below
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        return tyro.cli(leaf.type, args=words, console_outputs=False)
    choices = [str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)]
    flag = f"--{path}={text}" if words else f"--{path}"
    raise UserError(f"{flag}: expected {describe(leaf.type)}{nearest(text, choices)}")


def fits(leaf: Leaf) -> bool:
    """Whether a value has its declared type; what is inside of a tuple or dict is not looked at."""
    return any(_is_a(leaf.value, member) for member in _members(leaf.type))


def describe(annotation: Any) -> str:
    """A type in words: `a | b | None` for a choice, `int, int` for a pair."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(describe, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return ", ".join("..." if item is ... else describe(item) for item in get_args(annotation))
    words = {bool: "true | false", type(None): "none", Any: "a value that only a config file can set"}
    return words.get(annotation) or inspect.formatannotation(annotation)


def _children(branch: Any) -> list[tuple[str, Any]]:
    if dataclasses.is_dataclass(branch):
        return [(field.name, getattr(branch, field.name)) for field in dataclasses.fields(branch) if field.init]
    return [(str(position), item) for position, item in enumerate(branch)]


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _by_flag(annotation: Any) -> Any:
    """What a flag can set: of a choice between names and an object, the names."""
    names = [member for member in _members(annotation) if get_origin(member) is Literal]
    classes = [member for member in _members(annotation) if inspect.isclass(member) and member.__module__ != "builtins"]
    return names[0] if names and classes and len(_members(annotation)) == 2 else annotation


def _is_a(value: Any, member: Any) -> bool:
    if get_origin(member) is Literal:
        return value in get_args(member)
    if member in (int, float):
        return isinstance(value, (int, member)) and not isinstance(value, bool)
    if not inspect.isclass(member) or member is Any or is_protocol(member):
        return True
    return isinstance(value, member)


def is_protocol(cls: type) -> bool:
    """Whether this is a protocol, which says what a value can do and not of which class it is."""
    return Protocol in cls.__bases__
