"""The house as a graph: what may import what, where classes live, how long a function may be.

Imports inside functions count; those for type checkers alone do not.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORDER = """
    callable_package errors renamed machine storage params text metrics quantized model adaptive predict bundle learn
    share prune token_dropping quantize distill student search checkpoint baselines measure report
    export verify recipes engine jobs api cli
"""
"""A room imports only rooms that stand before it. Where that differs from a plain reading:

`metrics` and `adaptive` stand before `predict`, which answers through an executor of the one in the terms of the other.
`quantized` is integers with their scales, which a model may hold; `quantize` is the technique and needs the model.
`learn` stands before the techniques, because what they give to a training step is defined there.
`recipes` stand late, because a config checks its values with the rules of the rooms before them. They import no jax.
"""
ROOMS = tuple[str, ...](ORDER.split())
LONGEST, ANY = 80, 0.10


@cache
def modules() -> dict[str, Path]:
    """Every module of the library and of the scripts, by name."""
    files = [file for folder in ("bertjax", "train") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(name: str) -> set[str]:
    """The modules of the house that a module imports."""
    file, found = modules()[name], set()
    for node in visible(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (start, node.module)))
            found |= {whole if (whole := f"{origin}.{alias.name}") in modules() else origin for alias in node.names}
    return (found & set(modules())) - {name, "bertjax"}  # whose names arrive when they are asked for


def visible(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from visible(child)


def place(name: str) -> int:
    """Where a module of the library stands among the rooms; the scripts stand behind all of them."""
    top, _, rest = name.partition(".")
    return ROOMS.index(rest.split(".")[0]) if top == "bertjax" else len(ROOMS)


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, file in modules().items():
        if any(file.is_relative_to(ROOT / folder) for folder in folders):
            yield from ((name, node) for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef))


def test_no_modules_import_each_other_in_a_circle():
    packages = {name for name, file in modules().items() if file.name == "__init__.py"}  # they re-export what is inside
    graphlib.TopologicalSorter({name: imports(name) - packages for name in modules()}).prepare()


def test_a_room_imports_only_rooms_before_it():
    for name in sorted(modules().keys() - {"bertjax"}):
        assert [other for other in imports(name) if place(other) > place(name)] == [], name


def test_only_the_model_room_knows_linen():
    for name, file in modules().items():
        used = {ast.unparse(node) for node in ast.walk(tree(file)) if isinstance(node, ast.Import | ast.ImportFrom)}
        assert name.startswith("bertjax.model.") or not any("linen" in line for line in used), name


def test_scripts_hold_functions_alone():
    for name, file in modules().items():
        if name.split(".")[0] == "train":
            assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree(file))), name


def test_no_function_is_long():
    lengths = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{name}:{node.name}")
        for name, node in functions("bertjax", "train")
    ]
    assert [found for found in lengths if found[0] > LONGEST] == []


def test_parameters_have_real_types_where_rooms_meet():
    annotations = [
        argument.annotation
        for _, node in functions("bertjax/recipes", "bertjax/engine", "bertjax/jobs", "train")
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if argument.arg not in ("self", "cls")
    ]
    count = sum(
        annotation is not None and ast.unparse(annotation) in ("Any", "typing.Any") for annotation in annotations
    )
    assert count < ANY * len(annotations), f"{count} of {len(annotations)} parameters are Any"


def test_recipes_import_no_jax():
    recipes = [name for name in modules() if name.startswith("bertjax.recipes")]
    heavy = ("jax", "flax", "orbax", "transformers")
    code = f"import sys, {', '.join(recipes)}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
