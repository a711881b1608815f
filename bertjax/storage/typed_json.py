"""Reads untrusted JSON into dataclasses, and checks every value against the type of its field.

The type and range of a field are declared once, as its annotation: `Annotated[int, Within(1)]`. `build` and `value`
check everything they read, at every depth; `check` checks a dataclass that was made in Python.
"""

import dataclasses
import functools
import json
import numbers
import reprlib
import types
from collections import Counter
from collections.abc import Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bertjax.errors import UserError
from bertjax.renamed import renamed

Built = TypeVar("Built")
Json = dict[str, Any] | list[Any] | str | int | float | bool | None
LARGEST = 2**31 - 1  # ids and sizes are 32-bit integers in every runtime


@dataclasses.dataclass(frozen=True)
class Within:
    """The range of a number: from `least` to `most`, and below `under`."""

    least: int | float = -inf
    most: int | float = inf
    under: int | float = inf

    def __contains__(self, number: int | float) -> bool:
        return self.least <= number <= self.most and (number < self.under or self.under == inf)

    def __str__(self) -> str:
        if self.most < inf:
            return f" from {self.least:.10g} to {self.most:.10g}"
        return f" of at least {self.least:.10g}" + (f", below {self.under:.10g}" if self.under < inf else "")


Size = Annotated[int, Within(1, LARGEST)]
Count = Annotated[int, Within(0, LARGEST)]
Rate = Annotated[float, Within(0, under=1)]


# --- files -----------------------------------------------------------------------------------------------------------


def read_json(path: Path, kind: type = dict) -> Any:
    """The object in a file, or the list; empty if the file does not exist.

    Raises:
      UserError: Not JSON, or JSON that parsers read differently: NaN, numbers beyond float64, duplicate keys.
    """
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=checked_pairs)
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (lists or objects nested too deeply)") from None
    except ValueError as error:
        reason = "a number of thousands of digits" if "integer string conversion" in str(error) else error
        raise UserError(f"{path}: not valid JSON ({str(reason)[:200]})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(content, kind):
        expected = {dict: "a JSON object", list: "a JSON list"}[kind]
        raise UserError(f"{path}: expected {expected}, found {shown(content)}")
    return content


def checked_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, after a check that every parser reads it in the same way: no duplicate keys, only finite
    numbers."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(repeated)} occurs twice")
    for name, given in pairs:
        if not is_finite(given):
            raise ValueError(f"{shown(name)} holds {shown(given)}, which is not a finite number")
    return content


def is_finite(given: Any) -> bool:
    """Whether this is neither NaN nor infinite, nor a list that contains such a number."""
    return all(map(is_finite, given)) if isinstance(given, list) else not isinstance(given, float) or isfinite(given)


# --- values ----------------------------------------------------------------------------------------------------------


def build(cls: type[Built], content: Any, name: str) -> Built:
    """The dataclass of a JSON object called `name` in errors. Missing fields take their defaults.

    Raises:
      UserError: An unknown field, a missing field without default, or a value of another type or range.
    """
    if not isinstance(content, dict):
        raise UserError(f"{name} is {shown(content)}; expected an object.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    content = renamed(content, fields)
    for given in content:
        if given not in fields:
            raise UserError(
                f"{name} has a field {shown(given)} that this version does not know and that may change the outputs: "
                "open it with the version of bertjax that wrote it."
            )
    needed = [key for key, field in fields.items() if {field.default, field.default_factory} == {dataclasses.MISSING}]
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"{name} lacks the field {missing[0]}.")
    values = {key: value(hints(cls)[key], given, f"{name}.{key}") for key, given in content.items()}
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def value(annotation: Any, given: Any, name: str) -> Any:
    """A JSON value converted to this type: lists become tuples, objects become dataclasses."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return given if isinstance(given, annotation) else build(annotation, given, name)
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind in (Union, types.UnionType):
        chosen = [part for part in parts if (part is type(None)) == (given is None)]
        if len(chosen) == 1:
            return value(chosen[0], given, name) if given is not None else None
    elif kind is tuple and isinstance(given, list | tuple):
        each = parts[:1] * len(given) if parts[1:] == (...,) else parts
        if len(each) == len(given):
            return tuple(
                value(part, item, f"{name}[{i}]") for i, (part, item) in enumerate(zip(each, given, strict=True))
            )
    if not fits(annotation, given):
        raise UserError(f"{name} is {shown(given)}; expected {expected(annotation)}.")
    number: Any = given
    return float(number) if float in (annotation, *parts[:1]) else given


def check(instance: Any) -> None:
    """Checks the fields of a dataclass against their annotations."""
    for name, annotation in hints(type(instance)).items():
        value(annotation, getattr(instance, name), name)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def fits(annotation: Any, given: Any) -> bool:
    """Whether a plain value is of the type and within the range."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return fits(parts[0], given) and given in parts[1]
    if kind in (Union, types.UnionType):
        return any(fits(part, given) for part in parts)
    if kind is Literal:
        return any(given == choice and type(given) is type(choice) for choice in parts)
    if kind in (dict, Mapping):
        return isinstance(given, Mapping)
    if annotation in (int, float):
        wide: Any = numbers.Integral if annotation is int else numbers.Real  # NumPy's, too
        return isinstance(given, wide) and not isinstance(given, bool) and -1e300 < given < 1e300  # type: ignore[operator]
    return is_unicode(given) if annotation is str else kind is None and isinstance(given, annotation)


def is_unicode(text: Any) -> bool:
    """Whether this is a string that UTF-8 can encode. JSON and badly decoded input may contain unpaired surrogates."""
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:
        return False


# --- descriptions ----------------------------------------------------------------------------------------------------

PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "Unicode text",
    type(None): "null",
    list: "a list",
}


def expected(annotation: Any) -> str:
    """A description of a type and its range."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return f"{expected(parts[0])}{parts[1]}"
    if kind in (Union, types.UnionType):
        return " or ".join(map(expected, parts))
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind is tuple:
        return f"a list ({', '.join('...' if part is ... else expected(part) for part in parts)})"
    return PLAIN.get(annotation, "an object")


def shown(given: Any) -> str:
    """A value as JSON, shortened if it is long."""
    nested = isinstance(given, dict | list | tuple)
    text = reprlib.repr(given) if nested else json.dumps(given, ensure_ascii=not is_unicode(given), default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
