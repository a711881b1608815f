"""The training loop around one jitted step: batches in, parameters out.

A checkpoint holds everything that the next step depends on: parameters, optimiser state, step and data position. The
random key of a step is a function of seed and step. So a run that was interrupted anywhere and resumed ends with the
same bits as a run that was not. The trade-off: metrics are fetched only every few steps, because fetching waits for the
devices; a loss that is not finite is therefore noticed late, which is harmless, since the step itself then keeps the
last good state.
"""

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bertjax.checkpoint import Checkpoints
from bertjax.engine.compile_only import compile_and_exit
from bertjax.engine.compiled_step import CompiledSteps, TrainingProgram, build_program
from bertjax.engine.hosts import has_other_processes, heartbeat, is_main_process, should_preempt
from bertjax.engine.log import Log
from bertjax.engine.optimiser import shipped_params
from bertjax.engine.record import update_record
from bertjax.engine.sharding import put_batch
from bertjax.engine.throughput import Profile, Throughput
from bertjax.errors import UserError
from bertjax.learn.assemble import Learning
from bertjax.learn.step import TrainState
from bertjax.machine.signals import Stopped, deferred
from bertjax.params import Tree
from bertjax.recipes.training import Training
from bertjax.text.batches import BatchIterator

LOG_EVERY = 10
"""Steps between two fetches of the metrics."""


class Trained(NamedTuple):
    """The trained trees, as NumPy arrays."""

    params: Tree
    extra: Tree
    state: Tree


def fit(
    training: Training,
    out: Path,
    label: str,
    learning: Learning,
    batches: BatchIterator,
    peak: float | None = None,
) -> Trained:
    """Trains, or resumes from the newest checkpoint in `out/checkpoints`.

    Args:
      label: Name of the run in the progress line.
      peak: FLOP/s that a device can reach; the log then holds the fraction of it that was used.
    """
    total = training.total_steps(batches.steps_per_epoch)
    program = build_program(training, total, learning)
    if training.compile_only:
        compile_and_exit(training, program, learning.add_to_batch(batches.longest()), learning.constants)
    with Checkpoints(out / "checkpoints", keep=2, every=training.save_every) as checkpoints, stop_signal() as received:
        run = Run(training, out, program, checkpoints, batches, learning, peak)
        run.begin(label, total)
        try:
            while run.step < total:
                examples = run.train_step()
                stop = received()  # once per step: a signal that arrives while metrics are fetched is for the next step
                run.log_and_save(examples, last=stop > 0 or run.step == total)
                if stop:
                    run.stop(stop)
        finally:
            run.close()
    update_record(out, epochs=total / batches.steps_per_epoch)
    return as_numpy(training, run.state, learning)


class Run:
    """A training run between two steps: its state, its data, and where it logs and saves."""

    state: TrainState

    def __init__(
        self,
        training: Training,
        out: Path,
        program: TrainingProgram,
        checkpoints: Checkpoints,
        batches: BatchIterator,
        learning: Learning,
        peak: float | None,
    ):

        self.training, self.out, self.program, self.checkpoints = training, out, program, checkpoints
        self.batches, self.learning = batches, learning
        self.constants = jax.device_put(learning.constants, NamedSharding(program.mesh, PartitionSpec()))
        self.throughput, self.profile = Throughput(peak), Profile(training.profile, out / "profile")
        self.metrics: dict[str, jax.Array] = {}
        self.loss: float | None = None
        self.recent: deque[tuple[int, list[int]]] = deque(maxlen=2 * LOG_EVERY)
        """Steps and the ids of the examples in their batches."""

    def begin(self, label: str, total: int) -> None:
        """Restores the newest checkpoint, or takes the initial state where there is none; opens the log."""
        restored = self.checkpoints.restore_latest(self.program.state)
        if restored is None:
            initial = self.learning.params, self.learning.extra, self.learning.state
            self.step, self.state = 0, self.program.start(*initial)
        else:
            self.step, self.state = restored.step, restored.state
            self.batches.set_state(restored.extra["data"])
        self.first = self.step
        self.log = Log(self.out, label, total, self.step, quiet=not is_main_process())
        skipped = restored.skipped if restored else []
        self.log.event("restart" if restored else "start", self.step, skipped=skipped)
        self.compiled = CompiledSteps(self.program.step, self.out, self.log, self.training.micro_batches)
        self.throughput.reset()

    def train_step(self) -> int:
        """Sends the next step to the devices, and returns its number of examples."""

        self.profile.before(self.step - self.first, self.metrics)
        heartbeat(f"reads the batch of step {self.step}")
        batch = next(self.batches)
        heartbeat(f"waits for its devices in step {self.step}")
        self.recent.append((self.step, batch["example_ids"].ravel().tolist()))
        arrays = put_batch(self.learning.add_to_batch(batch), self.program.mesh)
        self.state, self.metrics = self.compiled(self.state, arrays, self.constants)
        self.step += 1
        tokens = int(batch["attention_mask"].sum()) * jax.process_count()
        self.throughput.add(tokens, self.compiled.flops, self.compiled.compile_seconds)
        return int((batch["weights"] > 0).sum())

    def log_and_save(self, examples: int, last: bool) -> None:
        """What is due after a step: metrics every `LOG_EVERY` steps, a checkpoint every `save_every` and at the end."""
        save = last or self.step % self.training.save_every == 0
        if save or self.step % LOG_EVERY == 0:
            self.log_metrics()
        self.log.progress(self.step, examples, self.loss)
        if save:
            self.log.flush()  # a checkpoint must not be newer than the log of its steps
            if self.checkpoints.save(self.step, self.state, {"data": self.batches.get_state()}, force=last):
                self.log.event("checkpoint", self.step)

    def stop(self, number: int) -> NoReturn:
        """Ends the process because of a signal, when the last checkpoint is on disk."""
        self.checkpoints.wait()
        self.log.event("stopped", self.step, signal=number)
        raise Stopped(number)

    def log_metrics(self) -> None:
        """Fetches and logs the metrics of the last step.

        Raises:
          UserError: The loss was not finite in one of the last steps. The state before that step is saved first.
        """
        values = {name: float(value) for name, value in self.metrics.items()}
        bad = int(values.pop("bad_step"))
        if bad >= 0:
            self.save_before(bad)
            raise not_finite(self.checkpoints.folder, bad, self.recent, float(self.program.rate(bad)))
        self.loss = values["loss"]
        rate = float(self.program.rate(self.step - 1))
        self.log.metrics(self.step, {**values, "learning_rate": rate, **self.throughput.since_reset()})

    def save_before(self, bad: int) -> None:
        """Saves the state before a bad step, which the devices still hold, and the data position of that step."""
        state = self.state._replace(bad_step=-jnp.ones_like(self.state.bad_step))
        position = {**self.batches.get_state(), "next_batch": bad}
        self.checkpoints.save(bad, state, {"data": position}, force=True)

    def close(self) -> None:
        heartbeat()
        self.profile.end(self.metrics)
        self.log.close()


def as_numpy(training: Training, state: TrainState, learning: Learning) -> Trained:
    """What ships, gathered from all devices and processes."""
    shipped = shipped_params(training.optimiser, {"params": state.params, "extra": state.extra}, state.opt)
    extra = learning.objective.project(shipped["extra"], state.state)  # an average lies outside of a range, too
    trained = Trained(shipped["params"], extra, state.state)
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(trained, tiled=True)
    return jax.tree.map(np.asarray, trained)


def not_finite(folder: epath.Path, bad: int, recent: deque[tuple[int, list[int]]], rate: float) -> UserError:
    """The error for a loss or gradient that is not finite at step `bad`."""
    ids = next((ids for step, ids in recent if step == bad), [])
    return UserError(
        f"the loss or its gradient was not finite at step {bad} (learning rate {rate:.3g}); stopped.\n"
        f"Examples of that batch: {' '.join(map(str, ids[:40]))}{' ...' if len(ids) > 40 else ''}\n"
        f"The state before that step is in {folder}. Look at these examples; try a lower learning rate."
    )


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Gives a function to call once per step: the number of a signal that ends the run after this step, or 0.

    With several processes only SIGTERM is deferred, and all of them stop after the same step (`should_preempt`).
    """
    if has_other_processes():
        yield lambda: signal.SIGTERM * should_preempt()
    else:
        with deferred() as received:
            yield received
