"""The experiment on lists, run as a process; and that a higher ponder weight means fewer steps."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.recipes.optimiser import Optimiser
from tests.benchmarks import lists
from tests.benchmarks.halting import cell_predictions
from tests.benchmarks.lists_data import Lists, as_batch
from tests.benchmarks.lists_report import p_text
from tests.train.test_scripts import wait_for
from tests.train.tiny import ROOT, metrics, weights

SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "recurrence_steps": 3}
FLAGS = [*(f"--{name}={value}" for name, value in SIZES.items()), "--depths=2", "--steps=6", "--save_every=3"]
FLAGS += ["--batch_size=8", "--test=40", "--timed=4"]

COMMAND = [sys.executable, "-m", "tests.benchmarks.lists"]


def run(*flags: str) -> str:
    """What the experiment prints, run in a process with one device."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lists") / "straight"
    assert "| longest chain |" in run(*FLAGS, f"--out={out}")
    return out


@pytest.mark.slow
def test_stopped_after_three_steps_and_started_again_the_bits_are_the_same(straight: Path):
    out = straight.parent / "stopped"
    command = [*COMMAND, *FLAGS, f"--out={out}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(out / "checkpoints" / "3", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    events = [line["event"] for line in metrics(out) if "event" in line]
    # The signal may come after the last step; then the next training is stopped, or the run simply ends.
    assert process.returncode in (0, 143), errors
    assert events[0] == "start"
    run(*FLAGS, f"--out={out}")
    assert weights(out) == weights(straight)
    assert weights(out / "depth-2") == weights(straight / "depth-2")


@pytest.mark.slow
def test_the_bundle_loads_and_the_report_holds_what_was_measured(straight: Path):
    bundle = bertjax.load(straight / "bundle")
    assert json.loads((straight / "bundle" / "config.json").read_text())["model_type"] == "bertjax"
    assert bundle.config.recurrence == lists.Config(**SIZES).model(3, lists.Config().halting()).recurrence
    report = json.loads((straight / "report.json").read_text())
    assert sum(row["count"] for row in report["by_difficulty"]) == 40
    assert sum(row["count"] * row["steps"] for row in report["by_difficulty"]) == pytest.approx(40 * report["steps"])
    assert [row["depth"] for row in report["fixed"]] == [2]
    assert report["time"]["early_ms"] > 0


def average_steps(weight: float, out: Path) -> float:
    """Average steps after training with this ponder weight."""
    config = lists.Config(
        **SIZES, steps=60, batch_size=8, ponder=weight, optimiser=Optimiser(learning_rate=0.01), out=str(out)
    )
    bundle = lists.trained(config, config.model(3, config.halting()), out, "weighted")
    batch = as_batch(Lists(), 1, np.arange(20))
    return float(cell_predictions(bundle.model, bundle.params, [batch]).steps.mean())


@pytest.mark.slow
def test_a_higher_ponder_weight_means_fewer_steps(tmp_path: Path):
    assert average_steps(10.0, tmp_path / "dear") < average_steps(0.01, tmp_path / "cheap") == 3


def test_an_impossible_number_of_steps_is_refused():
    with pytest.raises(bertjax.UserError, match="steps is 0; expected a whole number from 1"):
        lists.Config(depths=(1, 0))
    with pytest.raises(bertjax.UserError, match="--test=0: expected at least 1 list"):
        lists.Config(test=0)


def test_a_p_value_too_small_for_a_number_is_not_called_zero():
    assert p_text(0.0) == "p < 1e-300"
    assert p_text(0.0123) == "p = 0.012"
