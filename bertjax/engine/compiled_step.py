"""The training step as a program of the devices: built from a recipe, compiled once for each batch shape.

Compiling ahead of time (`lower().compile()`) instead of leaving it to `jit` makes the seconds and the memory of each
compilation visible in the log.
"""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled, Wrapped

from bertjax.engine.hosts import barrier, heartbeat
from bertjax.engine.log import Log
from bertjax.engine.optimiser import Schedule, build_optimiser, learning_rate_schedule, with_learning_rates
from bertjax.engine.record import update_record
from bertjax.engine.sharding import build_mesh, gathered, state_shardings
from bertjax.errors import UserError
from bertjax.learn.assemble import Learning
from bertjax.learn.step import Batch, TrainState, init_state, make_step
from bertjax.machine.chips import tpu_devices
from bertjax.measure.cost import peak_memory
from bertjax.params import Tree
from bertjax.recipes.training import Training


class TrainingProgram(NamedTuple):
    """The jitted functions of a run, and the shapes and shardings of its state."""

    start: Wrapped
    """(params, extra, state of the objective) -> initial TrainState."""
    step: Wrapped
    """(TrainState, batch, constants) -> (next TrainState, metrics); donates the TrainState."""
    state: TrainState
    """Of `jax.ShapeDtypeStruct`s with shardings."""
    rate: Schedule
    """The learning rate of a step."""
    mesh: Mesh


def build_program(training: Training, total: int, learning: Learning) -> TrainingProgram:
    """The program of a run of `total` steps.

    Raises:
      UserError: The parameters are integers; the batch does not divide over the devices.
    """
    params, extra, phases = learning.params, learning.extra, learning.phases
    if not all(np.issubdtype(leaf.dtype, np.floating) for leaf in jax.tree.leaves(params)):
        raise UserError("the model's weights are integers, which cannot be trained; start from the float model.")
    mesh = build_mesh(training.sharding, tpu_devices(training.compile_only) if training.compile_only else None)
    if training.batch_size // training.micro_batches % mesh.size:
        raise UserError(
            f"--batch_size={training.batch_size} in {training.micro_batches} micro-batches does not divide over "
            f"{mesh.size} devices; choose a multiple of {mesh.size * training.micro_batches}."
        )
    recipe = with_learning_rates(training.optimiser, learning.learning_rates)
    optimiser = build_optimiser(recipe, total, {"params": params, "extra": extra}, phases, learning.holds_still)
    start = partial(init_state, optimiser=optimiser)
    shapes = jax.eval_shape(start, params, extra, learning.state)
    shardings = state_shardings(shapes, mesh)
    dropout_key = jax.random.fold_in(jax.random.key(training.seed), 1)
    step = make_step(gathered(learning.objective, mesh), optimiser, dropout_key, training.micro_batches)
    return TrainingProgram(
        jax.jit(start, out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)),
        jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings),
        learning_rate_schedule(recipe, total, phases),
        mesh,
    )


class CompiledSteps:
    """The step, compiled once per batch shape; logs the seconds and the memory of each compilation."""

    def __init__(self, step: Wrapped, out: Path, log: Log, micro_batches: int):
        self.step, self.out, self.log, self.micro_batches = step, out, log, micro_batches
        self.compiled: dict[tuple[int, ...], tuple[Compiled, float]] = {}
        self.memory = 0
        self.flops = self.compile_seconds = 0.0
        """Of the last call: FLOPs per device, and seconds spent compiling."""

    def __call__(self, state: TrainState, batch: Batch, constants: Tree) -> tuple[TrainState, dict[str, jax.Array]]:
        shape, self.compile_seconds = batch["input_ids"].shape, 0.0
        if shape not in self.compiled:
            self.compiled[shape] = self.compile(shape, state, batch, constants)
        compiled, self.flops = self.compiled[shape]
        return compiled(state, batch, constants)

    def compile(
        self, shape: tuple[int, ...], state: TrainState, batch: Batch, constants: Tree
    ) -> tuple[Compiled, float]:
        """The executable and its FLOPs per device."""

        heartbeat()  # no time limit while compiling
        step, began = int(state.step), time.monotonic()
        compiled = self.step.lower(state, batch, constants).compile()
        used, self.compile_seconds = peak_memory(compiled) or 0, time.monotonic() - began
        self.log.event("compiled", step, shape=shape, seconds=self.compile_seconds, memory_bytes=used)
        self.log.exclude(self.compile_seconds)
        barrier()  # collectives between CPUs time out after 30 s, so no process may start one before all have compiled
        if used > self.memory:
            self.memory = used
            update_record(self.out, training_step_bytes=used)
        # XLA counts the loop over micro-batches once. This also multiplies the optimiser's FLOPs, which are negligible.
        return compiled, (compiled.cost_analysis() or {}).get("flops", 0.0) * self.micro_batches
