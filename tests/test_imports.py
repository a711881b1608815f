import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bertjax

ROOT = Path(bertjax.__file__).parent.parent
HEAVY = (
    "jax",
    "flax",
    "transformers",
    "grain",
    "tensorflow_datasets",
    "sklearn",
    "matplotlib",
    "torch",
    "orbax",
    "tyro",
)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import bertjax",
        "import bertjax.cli",
        "import bertjax.verify.__main__",
        "import bertjax.engine.command_line, bertjax.recipes.data",
    ],
)
def test_the_front_doors_import_nothing_heavy(statement):
    assert loaded_after(statement) == set()


def test_config_files_import_nothing_heavy():
    files = [str(file) for file in (ROOT / "configs").glob("*.py")]
    assert loaded_after(f"import runpy; [runpy.run_path(file) for file in {files}]") == set()


def test_every_public_name_arrives_when_it_is_asked_for():
    assert bertjax.UserError is __import__("bertjax.errors", fromlist=["UserError"]).UserError
    assert set(bertjax.__all__) <= set(dir(bertjax))
    for name in bertjax.__all__:
        assert getattr(bertjax, name) is not None


@pytest.mark.parametrize("package", ["adaptive", "model", "quantize"])
def test_names_that_a_room_imports_late_are_there(package: str):
    room = importlib.import_module(f"bertjax.{package}")
    for name in room.__all__:
        assert getattr(room, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        bertjax.laod  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
