import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertjax import __version__, cli

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
    shown = bertjax(command, "--help").stdout.splitlines()  # on a terminal of 80 columns, as others have 100
    assert len(shown) <= 50
    assert sum(line.startswith("  --") for line in shown) <= 15
    assert max(map(len, shown)) <= 110


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
