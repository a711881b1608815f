"""One module, one name: the same classes and the same config file from a wheel, a checkout and a notebook."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
from bertjax.distill.terms import SoftTargets
from bertjax.recipes.distill import Config

config = Config(steps=3, losses=(SoftTargets(temperature=2.0),))
"""
CELL = """
import importlib, pickle, sys
from typing import get_type_hints
from bertjax.engine.command_line import load_config
from bertjax.recipes.distill import Config

script, config, given, kept = sys.argv[1:]
found = load_config(config, Config)
assert type(found) is Config
assert get_type_hints(importlib.import_module(script).main)["config"] is Config
with open(kept, "wb") as file:
    pickle.dump(found, file)
if given:
    with open(given, "rb") as file:
        assert pickle.load(file) == found
print(Config.__module__, type(found.losses[0]).__module__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel holds, which is what pip makes of it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def cell(path: Path, *arguments: str | Path) -> str:
    """Runs the cell in a namespace of its own, as a notebook does, with the package from `path`."""
    command = [sys.executable, "-c", f"exec({CELL!r}, {{'__name__': '__main__'}})", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=path, env={**os.environ, "PYTHONPATH": str(path)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_checkout_and_notebook_share_classes_config_files_and_pickles(installed: Path, tmp_path: Path):
    config, ours, theirs = tmp_path / "mine.py", tmp_path / "checkout.pickle", tmp_path / "wheel.pickle"
    config.write_text(CONFIG)
    [names] = {
        cell(ROOT, "train.distill", config, "", ours),
        cell(installed, "bertjax.train.distill", config, ours, theirs),
        cell(ROOT, "train.distill", config, theirs, ours),
    }
    assert names.startswith("bertjax.recipes.distill bertjax.distill.")


@pytest.mark.slow
def test_pyright_sees_the_names_of_the_wheel(installed: Path, tmp_path: Path):
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{installed}"]}}')
    (tmp_path / "right.py").write_text(CONFIG + "name: str | None = config.model\n")
    (tmp_path / "wrong.py").write_text(CONFIG.replace("steps=3", "stpes=3"))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    assert len(errors) == 1, done.stdout
    assert "wrong.py" in errors[0]
    assert 'No parameter named "stpes"' in errors[0]
