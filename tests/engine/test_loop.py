"""The loop: what was cut anywhere ends like what was not, and several processes do what one does."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bertjax.checkpoint import steps as stored_steps
from bertjax.engine.compiled_step import CompiledSteps
from bertjax.engine.log import Log
from bertjax.engine.loop import fit
from bertjax.errors import UserError
from bertjax.machine.signals import SIGNALS, Stopped
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding
from bertjax.recipes.training import Training
from bertjax.text.batches import BatchIterator
from tests.train.problem import batches, learning, terms
from tests.train.tiny import ROOT, metrics

ONE = Sharding(1, 1)


def train(folder: Path, steps: int = 20, terms=terms, **settings):
    training = Training(**{"steps": steps, "batch_size": 16, "save_every": 10, "sharding": ONE, **settings})
    return fit(training, folder, "test", learning(terms), batches(training.batch_size))


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(folder) if "loss" in line}


@pytest.mark.slow
def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path):
    class Cut(Exception):
        pass

    averaging = Optimiser(swa_fraction=0.8)  # from before the cut to after it
    whole = train(tmp_path / "whole", optimiser=averaging)

    # The schedule depends on the number of steps, so the run is cut by force and not by asking for fewer.
    class Breaking(BatchIterator):
        def __init__(self):
            vars(self).update(vars(batches(16)))
            self.left = 13

        def __next__(self):
            self.left -= 1
            if not self.left:
                raise Cut
            return super().__next__()

    training = Training(steps=20, batch_size=16, save_every=5, sharding=ONE, optimiser=averaging)
    with pytest.raises(Cut):
        fit(training, tmp_path / "cut", "test", learning(), Breaking())
    resumed = train(tmp_path / "cut", save_every=5, optimiser=averaging)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert [line["step"] for line in metrics(tmp_path / "cut") if line.get("event") == "restart"] == [10]


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_while_metrics_are_read_loses_no_step(number: int, tmp_path: Path, monkeypatch):
    write = Log.metrics

    def interrupted(self, step, values):
        write(self, step, values)
        if step == 10:
            os.kill(os.getpid(), number)

    whole = train(tmp_path / "whole")
    monkeypatch.setattr(Log, "metrics", interrupted)
    with pytest.raises(Stopped) as left:
        train(tmp_path / "cut", save_every=100)
    assert left.value.code == 128 + number
    assert stored_steps(tmp_path / "cut" / "checkpoints") == [11]
    jax.tree.map(np.testing.assert_array_equal, train(tmp_path / "cut", save_every=100), whole)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["computing", "metrics"])
def test_a_signal_in_the_last_step_ends_the_run_with_that_step_stored(place: str, tmp_path: Path, monkeypatch):
    """Whether the loop still looks for it or not: what is waiting behind the loop does not begin."""

    owner, name, last = {
        "computing": (CompiledSteps, "__call__", lambda state, *_: int(state.step) == 19),
        "metrics": (Log, "metrics", lambda step, _: step == 20),
    }[place]
    function = getattr(owner, name)

    def interrupting(self, *given):
        if last(*given):
            os.kill(os.getpid(), signal.SIGTERM)
        return function(self, *given)

    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupting)
        with pytest.raises(Stopped) as left:
            train(tmp_path / "cut", save_every=100)
    assert left.value.code == 143
    assert stored_steps(tmp_path / "cut" / "checkpoints") == [20]
    jax.tree.map(np.testing.assert_array_equal, train(tmp_path / "cut", save_every=100), whole)


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_continues_on_one(tmp_path: Path):
    whole = train(tmp_path / "one")
    train(tmp_path / "many", sharding=Sharding(2, 4))
    for step in (20,):
        os.rename(tmp_path / "many" / "checkpoints" / str(step), tmp_path / "gone")
    resumed = train(tmp_path / "many")
    assert [line["step"] for line in metrics(tmp_path / "many") if line.get("event") == "restart"] == [10]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), resumed, whole)


def test_a_profile_holds_the_steps_that_were_asked_for(tmp_path: Path):
    train(tmp_path, profile="5:8")
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")  # which Perfetto opens
    names = [event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    assert sum(bool(re.search(r"batches\.py:\d+ __next__", name)) for name in names) == 3
    assert any(trace.parent.glob("*.xplane.pb"))  # which TensorBoard does
    with pytest.raises(UserError, match="expected START:STOP"):
        Training(profile="5")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_the_last_good_state(tmp_path: Path):
    def breaks(params, extra, state, batch, update, key):
        (term,) = terms(params, extra, state, batch, update, key)[0].values()
        return {"task": term._replace(total=term.total * jax.numpy.where(update.step == 13, jax.numpy.nan, 1.0))}, {}

    with pytest.raises(UserError, match=r"not finite at step 13 \(learning rate"):
        train(tmp_path / "burst", terms=breaks)
    assert stored_steps(tmp_path / "burst" / "checkpoints") == [10, 13]
    # What was stored is the state before that step: going on without the fault gives what an unhurt run gives.
    jax.tree.map(np.testing.assert_array_equal, train(tmp_path / "burst"), train(tmp_path / "unhurt"))


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="choose a multiple of 8"):
        train(tmp_path / "odd", batch_size=12, sharding=Sharding(8, 1))


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path):
    """With data divided among them, and with parameters divided."""
    train(tmp_path / "one", optimiser=Optimiser(clip=1.0))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engine.two_processes", str(port), str(index), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for index in (0, 1)
    ]
    said = [worker.communicate(timeout=280) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    sums = [json.loads(out.splitlines()[-1]) for out, _ in said]
    assert sums[0] == sums[1]
    one = losses(tmp_path / "one")
    assert sums[0].keys() == {"4-1", "1-4"}
    for folder in sums[0]:
        two = losses(tmp_path / folder)
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5, atol=1e-5, err_msg=folder)
