"""The reference, as Markdown: flags from the dataclasses of the commands, names from docstrings, recipes from configs.

What a page says of a name is what the code says of it, so it cannot be out of date. A signature is read from the
source and not from the running function, because there the shapes of arrays are written as their author wrote them.
"""

import ast
import contextlib
import inspect
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from bertjax.cli import COMMANDS, LIBRARY
from bertjax.engine.fields import describe, leaves
from bertjax.engine.help import field_docs
from bertjax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_ALL = """
    api student predict params prune.criteria prune.second_order distill.progressive quantize.transforms
    quantized.formats text.masking text.sources metrics.scores metrics.uncertainty metrics.bound
"""
"""Public modules that do not list their names: those are the functions and classes which they define."""


def flags() -> str:
    """Every command with its flags; groups of flags that several commands share are at the end."""
    configs = {command: config for command in COMMANDS if (config := _config(command))}
    groups = Counter((name, type(value)) for config in configs.values() for name, value in _branches(config))
    shared = {group for group, count in groups.items() if count > 1}
    text = []
    for command, meaning in (COMMANDS | LIBRARY).items():
        text += [f"## bertjax {command}", _prose(meaning[:1].upper() + meaning[1:]) + "."]
        if command not in configs:
            text.append(_arguments(command))
            continue
        others = [name for name, value in _branches(configs[command]) if (name, type(value)) in shared]
        text.append(_table(configs[command], "", leave_out=others))
        if others:
            links = ", ".join(f"[{name}](#group-{name})" for name in others)
            text.append(f"Groups that several commands share: {links}.")
    for name, cls in sorted(shared, key=lambda group: group[0]):
        text += [f"## Group {name}", _docstring(cls), _table(cls(), f"{name}.")]
    return _page(text)


def names() -> str:
    """Every public name, by module."""
    text = []
    for module in public_modules():
        text += [f"## {_plain(module)}", _docstring(import_module(module))]
        for name in public_names(module):
            text += _entry(module, name, getattr(import_module(module), name))
    return _page(text)


def recipes() -> str:
    """The lab note of every shipped config."""
    files = sorted((ROOT / "configs").glob("*.py"))
    return _page([part for file in files for part in (f"## {file.stem}", _prose(_module_docstring(file)))])


def public_modules() -> list[str]:
    """Packages that list their names, and `WITHOUT_ALL`."""
    listed = [
        file.parent for file in sorted((ROOT / "bertjax").rglob("__init__.py")) if "\n__all__ = " in file.read_text()
    ]
    packages = [".".join(folder.relative_to(ROOT).parts) for folder in listed]
    return ["bertjax", *sorted({*packages, *(f"bertjax.{name}" for name in WITHOUT_ALL.split())} - {"bertjax"})]


def public_names(module: str) -> list[str]:
    """What a module lists, or else what it defines: functions, classes and constants."""
    found = import_module(module)
    if hasattr(found, "__all__"):
        return sorted(found.__all__)
    names = [
        node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else ast.unparse(_target(node))
        for node in ast.parse(inspect.getsource(found)).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign)
    ]
    return [name for name in names if re.fullmatch(r"[A-Za-z]\w*", name)]


def _target(node: ast.Assign | ast.AnnAssign) -> ast.expr:
    return node.targets[0] if isinstance(node, ast.Assign) else node.target


def _entry(module: str, name: str, value: Any) -> Iterator[str]:
    if inspect.ismodule(value) and callable(value):  # a package that is a command, too
        value = getattr(import_module("bertjax.api"), name)
    yield f"### {_plain(module)}.{_plain(name)}"
    if inspect.isclass(value):
        yield _code(f"class {name}" + ("" if is_dataclass(value) else _signature(getattr(value, "__init__", None))))
        yield _docstring(value)
        if is_dataclass(value):
            yield _fields(value)
        for method, body in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(body) and inspect.getdoc(body):
                yield f"**{method}**`{_signature(body)}`"
                yield _docstring(body)
    elif callable(value) and hasattr(value, "__code__"):
        yield _code(name + _signature(value))
        yield _docstring(value)
    elif inspect.ismodule(value):
        yield f"The module [{value.__name__}](#{value.__name__.replace('.', '')})."
    else:
        yield f"`{name}`: {_named(value)}"
        yield _docs_under(ast.parse(inspect.getsource(import_module(module))).body).get(name, "")


def _named(value: Any) -> str:
    """What a constant or alias holds, shortened."""
    text = value if isinstance(value, str) else describe(value) if not isinstance(value, dict) else ", ".join(value)
    return f"`{text}`" if len(text) < 300 else f"`{text[:300]} ...`"


def _signature(function: Any) -> str:
    """Parameters and result as the source has them; nothing for what is not written in Python."""
    try:
        node = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function))).body[0]
    except (TypeError, OSError, SyntaxError):
        return ""
    if not isinstance(node, ast.FunctionDef):
        return ""
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _fields(cls: type) -> str:
    """The fields of a dataclass with their defaults and docstrings."""
    said = _field_docs(cls)
    rows = [(f"`{field.name}`", _default(field), said.get(field.name, "")) for field in fields(cls) if field.init]
    return _rows(("field", "default", "meaning"), rows) if rows else ""


def _default(field: Field) -> str:
    if field.default is not MISSING:
        return _value(field.default)
    return "-" if field.default_factory is MISSING else _value(field.default_factory())


def _value(value: Any) -> str:
    text = re.sub(r"\s+", " ", "none" if value is None else repr(value))
    return f"`{text if len(text) < 60 else text[:56] + ' ...'}`"


def _branches(config: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        if field.init and is_dataclass(getattr(config, field.name)):
            yield field.name, getattr(config, field.name)


def _table(config: Any, prefix: str, leave_out: list[str] | tuple[str, ...] = ()) -> str:
    """The leaves of a config as flags, with type and default."""
    rows = []
    for path, leaf in sorted(leaves(config).items(), key=lambda item: item[0].count(".0") + item[0].count(".1")):
        if path.partition(".")[0] not in leave_out:
            owner, _, name = path.rpartition(".")
            said = _field_docs(type(_at(config, owner))).get(name, "")
            rows.append((f"`--{prefix}{path}`", f"{_value(leaf.value)}", f"{said} *{_prose(describe(leaf.type))}*"))
    return _rows(("flag", "default", "meaning and values"), rows)


def _at(config: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        config = config[int(name)] if name.isdigit() else getattr(config, name)
    return config


def _config(command: str) -> Any:
    """The default config of a command; None if its flags are parsed otherwise."""
    if command not in COMMANDS:
        return None
    return import_module(f"bertjax.recipes.{command}").Config()


def _arguments(command: str) -> str:
    """The help of a command that argparse reads, as it prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit, UserError):
        import_module(f"bertjax.{command}.__main__").main(["--help"], f"bertjax {command}")
    return _code(printed.getvalue(), "text")


@cache
def _field_docs(cls: type) -> dict[str, str]:
    """The strings under the fields of a class and of those it inherits from, as `--help` has them."""
    return {name: _prose(text) for name, text in field_docs(cls).items()}


def _docs_under(body: list[ast.stmt]) -> dict[str, str]:
    """The string under each assignment."""
    return {
        ast.unparse(_target(line)): _prose(" ".join(after.value.value.split()))
        for line, after in pairwise(body)
        if isinstance(line, ast.Assign | ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


@cache
def _module_docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _docstring(thing: Any) -> str:
    """A docstring of its own, and none that a dataclass or a base class brings."""
    text = getattr(thing, "__doc__", None) or ""
    own = inspect.isclass(thing) and text.startswith(f"{thing.__name__}(")
    return "" if own else _prose(inspect.cleandoc(text))


def _prose(text: str) -> str:
    """Docstring text as Markdown: lists of arguments become bullets, and outside of code nothing is markup."""
    lines, bullets, code = [], False, False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            lines += ["", f"**{line[:-1]}**", ""]
            bullets = True
        elif bullets and line.startswith("  "):
            lines.append(("- " if line[2] != " " else "  ") + _plain(line.strip()))
        else:
            bullets = bullets and not line
            code = line.startswith("    ") and (code or not lines or not lines[-1].strip())
            lines.append(line if code else _plain(line.strip()))
    return "\n".join(lines).strip("\n")


def _plain(line: str) -> str:
    """A line without markup but for `code`."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>$\[\]|#])", r"\\\1", part) for part in parts)


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def _rows(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    bars = re.compile(r"(?<!\\)[|]")
    lines = [heading, ("---",) * len(heading), *([bars.sub(r"\|", cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: list[str]) -> str:
    return "\n\n" + "\n\n".join(part for part in parts if part) + "\n"


PAGES: dict[str, Callable[[], str]] = {"reference_flags": flags, "reference_python": names, "recipes": recipes}
"""Pages whose rest is generated."""
