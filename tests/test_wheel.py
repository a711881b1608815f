"""One module, one name: the same classes and the same config file from a wheel, a checkout and a notebook."""

import os
import re
import shutil
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


PAGE = """
import sys
from pathlib import Path

import bertjax.jobs.search
import bertjax.report.build
import bertjax.text.demo
from bertjax.jobs.compress import run_stages
from tests.train.tiny import write_model, write_table

model = write_model(Path("small-demo"))
write_table(Path("train.tsv"), 32, filler=(10, 12))
write_table(Path("dev.tsv"), 32, seed=1, filler=(10, 12))
bertjax.text.demo.demo_model_folder = lambda: model
bertjax.report.build.one_process_only = lambda: True  # times are not looked at
bertjax.jobs.search.search = lambda job: (run_stages(job), [])  # a search takes minutes, and has tests of its own
"""
"""Before the snippets of a page: small stand-ins for the demo model and for the text of a user."""


def run_page(page: Path, installed: Path, folder: Path) -> str:
    """Runs the snippets of a page in a fresh process, one after another as in a notebook, with the installed package;
    returns what they print."""
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    shutil.copytree(ROOT / "tests", folder / "tools" / "tests", ignore=lambda *_: ["data"])
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{folder / 'tools'}", "XLA_FLAGS": ""}
    code = "\n".join([PAGE, *snippets, "assert 'site' in bertjax.__file__"])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_jobs_typed_from_the_docs_run_from_the_wheel(installed: Path, tmp_path: Path):
    shown = run_page(ROOT / "docs" / "python.md", installed, tmp_path)
    assert re.search(r"^\[('(good|bad)'(, )?){2}\]$", shown, flags=re.M)
    assert "{'accuracy': " in shown
    assert "'int8'" in shown
    assert (tmp_path / "runs" / "pruned" / "bundle" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_readme_runs_from_the_wheel(installed: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="an extra")
    shown = run_page(ROOT / "README.md", installed, tmp_path)
    assert re.search(r"^\[('(good|bad)'(, )?){2}\]$", shown, flags=re.M)


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
