import ast
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import pytest

from bertjax import __version__, cli
from bertjax.engine.command_line import parse

ROOT = Path(cli.__file__).parent.parent


def bertjax(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bertjax.cli", *argv]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={"PYTHONPATH": str(ROOT), "COLUMNS": "80"}, check=False
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(argv):
    done = bertjax(*argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_version_is_printed():
    assert bertjax("--version").stdout == f"bertjax {__version__}\n"


@pytest.mark.parametrize(("command", "said"), [("distil", "did you mean distill?"), ("shrink", "compress, finetune")])
def test_an_unknown_command_names_the_nearest(command, said):
    done = bertjax(command)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_commands_are_the_scripts():
    assert all((ROOT / "train" / f"{name}.py").is_file() for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_is_its_script_and_its_help_needs_no_jax(command, tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('the help must not wait for jax')")
    (tmp_path / "train.py").write_text("raise ImportError('another train on the path')")
    ours = bertjax(command, "--help", cwd=tmp_path)
    script = [sys.executable, "-m", f"train.{command}", "--help"]
    theirs = subprocess.run(
        script, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, check=False
    )
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout == theirs.stdout
    assert f"usage: bertjax {command}" in ours.stdout
    assert "python -m" not in ours.stdout  # which an installed package does not have


@pytest.mark.parametrize("command", [*cli.COMMANDS, *cli.LIBRARY])
def test_the_help_of_a_command_fits_a_screen(command):
    lines = bertjax(command, "--help").stdout.splitlines()
    assert sum(max(1, -(-len(line) // 80)) for line in lines) <= 50
    assert command in cli.LIBRARY or sum(line.startswith("  --") for line in lines) <= 15


def examples(command: str) -> list[list[str]]:
    """The commands in the text of a script or a package's main module, each as its words."""
    script = ROOT / "train" / f"{command}.py"
    file = script if script.is_file() else ROOT / "bertjax" / command / "__main__.py"
    text = (ast.get_docstring(ast.parse(file.read_text())) or "").replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^    (?:.* \| )?bertjax (.*)$", text, flags=re.M)]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_examples_are_flags_that_there_are(command):
    for name, *flags in examples(command):
        main = importlib.import_module(f"train.{name}").main
        parse(get_type_hints(main)["config"], flags)


def test_the_first_example_of_every_command_needs_nothing_but_what_the_others_make():
    first = {command: examples(command)[0] for command in [*cli.COMMANDS, *cli.LIBRARY]}
    made = {word.partition("=")[2] for words in first.values() for word in words if word.startswith("--out=")}
    for command, words in first.items():
        assert words[0] == command
        needed = [word for word in words if "/" in word and not word.startswith("--out=")]
        paths = [word.partition("=")[2] or word for word in needed]
        assert all(any(path.startswith(f"{out}/") for out in made) for path in paths), paths
        assert not re.search(r"\.(tsv|txt|jsonl)", " ".join(words))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_mistake_on_the_command_line_ends_with_code_two_and_a_hint(command, tmp_path):
    done = bertjax(command, "--otu=runs/x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean --out?" in done.stderr
    assert done.stderr.count("\n") <= 5


@pytest.mark.parametrize("command", cli.LIBRARY)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_commands_of_the_library_in_a_line(command, number, monkeypatch, capsys):
    def works(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(f"bertjax.{command}.__main__.main", works)
    with pytest.raises(SystemExit) as left:
        cli.main([command])
    assert left.value.code == 128 + number
    assert capsys.readouterr().err == f"stopped by {number.name}\n"
