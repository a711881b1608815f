"""`--compile_only`: compiles the training step for a TPU slice, without a TPU, and prints memory, FLOPs and traffic.

libtpu contains the compiler and a description of every slice, so memory, arithmetic and communication of a step are
known before a machine is paid for. Its time is not: the estimate is a roofline, the longest of what products, memory
and interconnect take at the rates of the data sheet, as if all three overlapped. Real runs are slower, except where
memory traffic dominates: a lookup that reads a few rows of a table is counted as if it read the whole table.

Everything before the first step runs as usual, in a folder that is deleted afterwards. Placeholders replace weights and
text that are missing (placeholders.py).
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.stages import Wrapped

from bertjax.engine.compiled_step import TrainingProgram
from bertjax.engine.log import note
from bertjax.engine.placeholders import with_placeholders
from bertjax.engine.sharding import rows_on
from bertjax.errors import UserError
from bertjax.machine.chips import Topology, topology, tpu_devices
from bertjax.machine.xla import made_for
from bertjax.measure.hlo import Program, by_site
from bertjax.params import Tree
from bertjax.recipes.training import Training

GIB = 2**30
TOO_LARGE = 3
"""Exit code of a step that does not fit."""


def dry_run(main: Callable[[Any], object], config: Any) -> NoReturn:
    """Runs a command up to its first step, in a folder that is deleted afterwards."""
    jax.config.update("jax_platforms", "cpu")  # for what runs before the step
    jax.config.update("jax_enable_compilation_cache", False)  # without a TPU, jax cannot read programs for TPUs back
    tpu_devices(config.compile_only)  # raises its errors before any work
    with tempfile.TemporaryDirectory() as folder:
        config = with_placeholders(dataclasses.replace(config, out=str(Path(folder) / "out")), Path(folder))
        main(config)
    raise UserError(
        f"--compile_only={config.compile_only}: these settings train nothing, so there is no step to compile."
    )


def compile_and_exit(training: Training, program: TrainingProgram, batch: dict[str, Any], constants: Tree) -> NoReturn:
    """Compiles the step, prints what it takes, and exits: with 0 if it fits, with 3 if not."""
    mesh, chips = program.mesh, topology(training.compile_only or "")
    inputs = (
        program.state,
        described(batch, rows_on(mesh)),
        described(constants, NamedSharding(mesh, PartitionSpec())),
    )
    memory = {
        "parameters": bytes_of((program.state.params, program.state.extra)),
        "optimiser": bytes_of(program.state.opt),
        "constants": bytes_of(inputs[2]),
        "batch": bytes_of(inputs[1]),
    }
    rows, length = batch["input_ids"].shape
    print(
        f"{chips.name}: {mesh.size} x {chips.chip.device_kind}, data={mesh.shape['data']} "
        f"parameters={mesh.shape['parameters']}, {training.dtype}, batch x sequence length {rows} x {length} in "
        f"{training.micro_batches} micro-batch{'es' * (training.micro_batches > 1)}, remat={training.remat}"
    )
    lines, refused = compiled_for(chips, program.step, inputs, memory, mesh.size)
    verdict = "fits"
    if refused:
        held = memory["parameters"] + memory["optimiser"]
        verdict = f"does not fit: {refused}\n  try {advice(training, held, mesh)}"
    print(*memory_lines(memory, chips), *lines, verdict, sep="\n", flush=True)
    raise SystemExit(TOO_LARGE if refused else 0)


def compiled_for(
    chips: Topology, step: Wrapped, inputs: tuple[Any, ...], memory: dict[str, int], devices: int
) -> tuple[list[str], str]:
    """What the compiled program does, as lines, or the reason why it does not fit; adds to `memory` what it takes."""
    if sum(memory.values()) > chips.chip.memory * GIB:
        return [], "parameters, optimiser and batch alone exceed the memory, so nothing was compiled"
    note(f"compiling for {chips.name}: a minute or more")
    try:
        with made_for("tpu"):
            compiled = step.lower(*inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return [], str(error).splitlines()[0].partition(": ")[2]
    sizes: Any = compiled.memory_analysis()
    memory |= {
        "padding of these": max(0, sizes.argument_size_in_bytes - sum(memory.values())),  # to whole tiles
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "activations": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    return program_lines(compiled.as_text() or "", chips, devices), ""


def described(tree: Any, sharding: Sharding) -> Any:
    """Shapes and dtypes of arrays that lie on a mesh in this way."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def bytes_of(tree: Any) -> int:
    """Bytes on one device of a tree of `jax.ShapeDtypeStruct`s with shardings."""
    shards = [(x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree)]
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shards)


def memory_lines(memory: dict[str, int], chips: Topology) -> list[str]:
    lines = [f"  {name:<18}{size / GIB:8.3f} GiB" for name, size in memory.items() if size >= GIB / 2000]
    total = f"  {'total':<18}{sum(memory.values()) / GIB:8.3f} GiB"
    return [f"memory of a chip ({chips.chip.memory} GiB)", *lines, total]


def program_lines(text: str, chips: Topology, devices: int) -> list[str]:
    """Products, traffic and the roofline of a compiled program."""
    program, chip = Program(text), chips.chip
    float32 = [product for product in program.products if "f32" in product.dtypes]
    share = 100 * sum(p.flops * p.times for p in float32) / max(program.flops, 1)
    collectives = program.collectives(devices)
    sent = sum(kind.sent for kind in collectives.values())
    seconds = {
        "products": program.flops / chip.flops,
        "memory": program.memory_traffic / chip.memory_rate,
        "interconnect": sent / (chip.link_rate * max(chips.links, 1)),
    }
    bound = max(seconds, key=lambda name: seconds[name])
    each = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    return [
        f"products: {program.flops / 1e12:.3f} TFLOP per chip and step, {share:.2g} % of it in float32",
        *(f"  float32: {count} x {site}" for site, count in by_site(float32).most_common(12)),
        f"interconnect: {sent / 1e6:.1f} MB sent per chip and step, with ring collectives, for",
        *(f"  {name:<19}{kind.count:5} x, {kind.payload / 1e6:10.1f} MB" for name, kind in collectives.items()),
        f"memory traffic: {program.memory_traffic / 1e9:.2f} GB",
        f"estimate from the rates of the data sheet, not measured: {each}",
        f"  {1e3 * seconds[bound]:.2f} ms per step if they overlap, bound by {bound}: "
        f"{100 * seconds['products'] / seconds[bound]:.0f} % of peak",
    ]


def advice(training: Training, state: int, mesh: Mesh) -> str:
    """The next flag to change: shard the state where it fills half of a chip, else reduce the activations."""
    ways, rows = mesh.shape["parameters"], training.batch_size // training.micro_batches // mesh.size
    if state > topology(training.compile_only or "").chip.memory * GIB / 2 and ways < mesh.size:
        return f"--sharding.parameters={2 * ways}"
    if not training.remat:
        return "--remat=True"
    if rows > 1 and rows % 2 == 0:
        return f"--micro_batches={2 * training.micro_batches}"
    if ways < mesh.size:
        return f"--sharding.parameters={2 * ways}"
    return "a shorter --data.max_length, a smaller --batch_size or more chips"
