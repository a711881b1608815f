"""The training loop: batches in, parameters out, nothing lost on the way.

One plain loop around one jitted step. Everything that decides what comes next (parameters, optimiser, step, position in
the data) is in the checkpoint; the key of a step is a function of seed and step. So a run that was cut anywhere and
started again ends with the same bits as one that was not. A signal saves and leaves (bertjax.machine.signals); a
loss that is not finite stops the run with the last good state stored.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.engine.hosts import barrier, has_other_processes, heartbeat, is_main_process, should_preempt
from bertjax.engine.optimiser import build_optimiser, learning_rate_schedule, shipped_params
from bertjax.engine.sharding import build_mesh
from bertjax.errors import UserError
from bertjax.learn.phases import Phases
from bertjax.machine.signals import Stopped, deferred
from bertjax.recipes.training import Training
from bertjax.storage.paths import staged

LOG_EVERY = 10
"""Steps between two looks at the metrics. Looking waits for the devices; between two looks they are sent the next steps
with their batches while they work, so that neither reading nor sending text is waited for."""


class Trained(NamedTuple):
    """What came out, as NumPy arrays."""

    params: Any
    extra: Any
    state: Any


def fit(
    training: Training,
    out: Path,
    label: str,
    *,
    params: Any,
    extra: Any,
    objective: Callable,
    batches: Any,
    prepare: Callable[[dict], dict] = lambda batch: batch,
    constants: Any = None,
    state: Any = None,
    phases: Phases | None = None,
    peak: float | None = None,
) -> Trained:
    """Trains. Continues what `out/checkpoints` holds.

    Args:
      params: What is trained and ships; `extra`: what is trained and does not.
      objective: See step.py.
      batches: A `BatchIterator`; its position is part of every checkpoint.
      prepare: Adds to a batch what is not in the text (a teacher's stored outputs).
      constants: Arrays that the objective finds beside every batch (a teacher's parameters).
      state: What the objective is given and returns anew in every step, without a gradient (masks).
      phases: What begins to learn when, if not everything at once.
      peak: What a device could compute per second; the log then says which share of it was.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import NamedSharding, PartitionSpec

    from bertjax.checkpoint import Checkpoints
    from bertjax.engine.compile_only import compile_and_leave
    from bertjax.engine.log import Log
    from bertjax.engine.record import update_record
    from bertjax.engine.sharding import put_batch

    total = training.total_steps(batches.steps_per_epoch)
    given = params, extra, state or {}
    program = build_program(training, total, given, objective, phases)
    mesh = program.mesh
    if training.compile_only:
        compile_and_leave(training, program.step, program.state, prepare(batches.longest()), constants or {}, mesh)
    constants = jax.device_put(constants or {}, NamedSharding(mesh, PartitionSpec()))
    with Checkpoints(out / "checkpoints", keep=2, every=training.save_every) as checkpoints, leaving() as told:
        restored = checkpoints.restore_latest(program.state)
        if restored is None:
            step, state = 0, program.start(*given)
        else:
            step, state = restored.step, restored.state
            batches.set_state(restored.extra["data"])
        log = Log(out, label, total, step, quiet=not is_main_process())
        log.event("start" if restored is None else "restart", step, skipped=restored.skipped if restored else [])
        steps = CompiledSteps(program.step, out, log, training.micro_batches)
        pace, profile = Pace(peak), Profile(training.profile, out / "profile")
        first, loss, metrics = step, None, None
        recent: deque[tuple[int, list[int]]] = deque(maxlen=2 * LOG_EVERY)
        try:
            while step < total:
                profile.before(step - first, metrics)
                heartbeat(f"reads the batch of step {step}")
                batch = next(batches)
                heartbeat(f"waits for its devices in step {step}")
                recent.append((step, batch["example_ids"].ravel().tolist()))
                state, metrics = steps(state, put_batch(prepare(batch), mesh), constants)
                step += 1
                pace.add(int(batch["attention_mask"].sum()) * jax.process_count(), steps.flops, steps.compiling)
                stopping = told()  # looked at once: a signal that comes while metrics are read is for later
                last = stopping > 0 or step == total
                saving = last or step % training.save_every == 0
                if saving or step % LOG_EVERY == 0:
                    values = {name: float(value) for name, value in metrics.items()}
                    bad = int(values.pop("bad_step"))
                    if bad >= 0:
                        position = {**batches.get_state(), "next_batch": bad}
                        checkpoints.save(
                            bad, state._replace(bad_step=-jnp.ones_like(state.bad_step)), {"data": position}, force=True
                        )
                        raise not_finite(checkpoints.folder, bad, recent, float(program.rate(bad)))
                    loss = values["loss"]
                    log.metrics(step, {**values, "learning_rate": float(program.rate(step - 1)), **pace.rates()})
                log.progress(step, int((batch["weights"] > 0).sum()), loss)
                if saving:
                    log.keep()  # all that was told up to a checkpoint is there when it is
                if saving and checkpoints.save(step, state, {"data": batches.get_state()}, force=last):
                    log.event("checkpoint", step)
                if stopping:
                    checkpoints.wait()
                    log.event("stopped", step, signal=stopping)
                    raise Stopped(stopping)
        finally:
            heartbeat()
            profile.end(metrics)
            log.close()
    update_record(out, epochs=total / batches.steps_per_epoch)
    shipped = shipped_params(training.optimiser, {"params": state.params, "extra": state.extra}, state.opt)
    trained = Trained(shipped["params"], shipped["extra"], state.state)
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(trained, tiled=True)
    return jax.tree.map(np.asarray, trained)


class Program(NamedTuple):
    """What is computed, and where its state lives."""

    start: Callable[[Any, Any, Any], Any]
    """From params, extra and state of the objective to the first state; jitted."""
    step: Any
    """From state, batch and constants to the next state and its metrics; jitted, and it takes the state's memory."""
    state: Any
    """Shape, dtype and place of each of its arrays."""
    rate: Callable[[int], Any]
    """The learning rate of a step."""
    mesh: Any


def build_program(
    training: Training, total: int, given: tuple[Any, Any, Any], objective: Callable, phases: Phases | None
) -> Program:
    """The program of a run of `total` steps that begins with params, extra and the objective's state.

    Raises:
      UserError: Parameters that cannot be trained; a batch that does not divide over the devices.
    """
    import jax
    import numpy as np

    from bertjax.engine.compile_only import tpu_devices
    from bertjax.engine.sharding import gathered, state_shardings
    from bertjax.learn.step import init_state, make_step

    params, extra, _ = given
    if not all(np.issubdtype(leaf.dtype, np.floating) for leaf in jax.tree.leaves(params)):
        raise UserError("the model holds integers, which cannot be trained; begin with the one in floating point.")
    mesh = build_mesh(training.sharding, tpu_devices(training.compile_only) if training.compile_only else None)
    if training.batch_size // training.micro_batches % mesh.size:
        raise UserError(
            f"--batch_size={training.batch_size} in {training.micro_batches} micro-batches does not divide over "
            f"{mesh.size} devices; choose a multiple of {mesh.size * training.micro_batches}."
        )
    optimiser = build_optimiser(training.optimiser, total, {"params": params, "extra": extra}, phases)
    start = partial(init_state, optimiser=optimiser)
    shapes = jax.eval_shape(start, *given)
    shardings = state_shardings(shapes, mesh)
    dropout_key = jax.random.fold_in(jax.random.key(training.seed), 1)
    step = make_step(gathered(objective, mesh), optimiser, dropout_key, training.micro_batches)
    return Program(
        jax.jit(start, out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings),
        learning_rate_schedule(training.optimiser, total, phases),
        mesh,
    )


class CompiledSteps:
    """The step, compiled once per batch shape, with what each compilation took and how much memory its program needs.

    Compiling ahead of time instead of leaving it to `jit` makes both visible, and costs nothing.
    """

    def __init__(self, step: Any, out: Path, log: Any, micro_batches: int):
        self.step, self.out, self.log, self.micro_batches = step, out, log, micro_batches
        self.compiled: dict[tuple[int, ...], Any] = {}
        self.memory = 0
        self.counted: dict[tuple[int, ...], float] = {}
        self.flops = self.compiling = 0.0
        """Of the last call: arithmetic of a device, and the seconds that went into compiling."""

    def __call__(self, state: Any, batch: Any, constants: Any) -> Any:
        shape, self.compiling = batch["input_ids"].shape, 0.0
        if shape not in self.compiled:
            self.compiled[shape] = self.compile(shape, state, batch, constants)
        self.flops = self.counted[shape]
        return self.compiled[shape](state, batch, constants)

    def compile(self, shape: tuple[int, ...], *inputs: Any) -> Any:
        from bertjax.engine.record import update_record
        from bertjax.measure.cost import peak_memory

        heartbeat()  # this takes as long as it takes
        step, began = int(inputs[0].step), time.monotonic()
        compiled = self.step.lower(*inputs).compile()
        used, seconds = peak_memory(compiled) or 0, time.monotonic() - began
        # XLA counts the body of the loop over micro-batches once. The update, counted too often then, is next to none.
        self.counted[shape] = (compiled.cost_analysis() or {}).get("flops", 0.0) * self.micro_batches
        self.compiling = seconds
        self.log.event("compiled", step, shape=shape, seconds=seconds, memory_bytes=used)
        self.log.apart(seconds)
        barrier()  # whoever is first in a collective may not wait long: 30 s between CPUs
        if used > self.memory:
            self.memory = used
            update_record(self.out, training_step_bytes=used)
        return compiled


class Pace:
    """Real pieces per second and the share of a device's peak, since the last look; compiling is left out.

    The arithmetic is XLA's count of the compiled step: padding and what is computed twice to save memory are in it.
    """

    def __init__(self, peak: float | None):
        self.peak = peak
        self._begin()

    def _begin(self) -> None:
        self.pieces, self.flops, self.began = 0, 0.0, time.monotonic()

    def add(self, pieces: int, flops: float, compiling: float) -> None:
        self.pieces, self.flops, self.began = self.pieces + pieces, self.flops + flops, self.began + compiling

    def rates(self) -> dict[str, float]:
        """As the log has them. To be asked when the steps are done, and not only sent to the device."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        found = {"tokens_per_second": round(self.pieces / seconds, 1)}
        if self.peak and self.flops:
            found["share_of_peak"] = round(self.flops / seconds / self.peak, 4)
        self._begin()
        return found


def not_finite(folder: Any, bad: int, recent: deque, rate: float) -> UserError:
    """What to say of the step that made no number. Nothing changed since the state before it."""
    ids = next((ids for step, ids in recent if step == bad), [])
    return UserError(
        f"the loss or its gradient was not finite at step {bad} (learning rate {rate:.3g}); stopped.\n"
        f"Examples of that batch: {' '.join(map(str, ids[:40]))}{' ...' if len(ids) > 40 else ''}\n"
        f"The state before that step is in {folder}. Look at these examples; try a lower learning rate."
    )


class Profile:
    """Records what host and devices do in a range of steps, in the first process."""

    def __init__(self, steps: str | None, folder: Path):
        self.start, self.stop = map(int, steps.split(":")) if steps and is_main_process() else (-1, -1)
        self.folder, self.recording = folder, contextlib.ExitStack()

    def before(self, number: int, last: Any) -> None:
        """To be called before each step, with what the step before it gave."""
        import jax

        if number == self.start:
            jax.block_until_ready(last)  # the steps before are not to be seen in it
            jax.profiler.start_trace(str(self.recording.enter_context(staged(self.folder))))
            self.recording.callback(jax.profiler.stop_trace)
        if number == self.stop:
            self.end(last)

    def end(self, last: Any) -> None:
        import jax

        jax.block_until_ready(last)
        self.recording.close()


@contextlib.contextmanager
def leaving() -> Iterator[Callable[[], int]]:
    """Gives what is asked once after every step: the number of a signal that ends the run there, or 0. Of several
    processes all leave after the same step, by SIGTERM: see `processes.told_to_stop`."""
    if has_other_processes():
        yield lambda: signal.SIGTERM * should_preempt()
    else:
        with deferred() as told:
            yield told
