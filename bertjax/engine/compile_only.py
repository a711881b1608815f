"""`--compile_only`: the training step compiled for TPUs that are not there, and what the compiler then knows.

libtpu holds the compiler and a description of every slice, so memory, arithmetic and traffic of a step can be known
before a machine is paid for; what it cannot say is how fast it runs. The time below is a roofline: the longest of what
products, memory and interconnect would take at the rates of the data sheet, as if all three overlapped. Runs are
slower, save where memory decides: a look-up that reads a few rows of a table is counted as if it read all.

Everything a script does before its first step is done as ever, in a folder that is deleted afterwards; what is not
there (weights, text) is stood in for, see stand_ins.py.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.machine.chips import Topology, topology

GIB = 2**30
TOO_LARGE = 3
"""Exit code of a step that does not fit."""
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # no questions to a metadata server, which only a TPU's machine has,
    "TPU_WORKER_HOSTNAMES": "localhost",  # so what it would have answered,
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # whatever is compiled for
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it takes no chip, so there is nothing to lock
}
"""For libtpu, which reads it when it is loaded, and would otherwise complain that this is no TPU's machine."""


def dry_run(main: Callable[[Any], object], config: Any) -> NoReturn:
    """Runs a script as far as its step, in a folder that is gone afterwards."""
    import jax

    from bertjax.engine.placeholders import with_placeholders

    jax.config.update("jax_platforms", "cpu")  # for what runs while the step is prepared
    jax.config.update("jax_enable_compilation_cache", False)  # without a TPU, what it keeps cannot be read again
    tpu_devices(config.compile_only)  # its mistakes come before any work
    with tempfile.TemporaryDirectory() as folder:
        config = with_placeholders(dataclasses.replace(config, out=str(Path(folder) / "out")), Path(folder))
        main(config)
    raise UserError(
        f"--compile_only={config.compile_only}: with these settings nothing is trained, so there is no step."
    )


def tpu_devices(name: str) -> Any:
    """The devices of a slice, to compile for.

    Raises:
      UserError: libtpu is not installed, or knows no such slice.
    """
    import importlib.util

    import jax
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            '--compile_only needs the compiler for TPUs: pip install "bertjax[tpu]" (Linux on x86-64 only).'
        )
    os.environ.update(ENVIRONMENT)
    asked = topology(name)
    options: dict[str, Any] = {}
    if set(asked.sizes) == {1}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # a chip's two cores as one device, which jax on a TPU v4 does as well
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("INVALID_ARGUMENT"):
            raise
        raise UserError(
            f"--compile_only={name}: libtpu knows no such slice.\n"
            "Slices are v5e or v6e: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; v4 or v5p: 1x1x1, 2x2x1, 2x2x2, 2x2x4, "
            "2x4x4, 4x4x4 and multiples."
        ) from error


def compile_and_leave(
    training: Any, step: Any, state: Any, batch: dict[str, Any], constants: Any, mesh: Any
) -> NoReturn:
    """Compiles the jitted step for what `fit` would give it, says what came of it and leaves the process: with 0 if it
    fits, with 3 if not.

    Args:
      state: Described: shape, dtype and place of each of its arrays.
      batch: A batch as it comes from the text.
      constants: What every device holds besides.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from bertjax.engine.sharding import rows_on
    from bertjax.machine.xla import made_for

    def described(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    inputs = state, described(batch, rows_on(mesh)), described(constants, NamedSharding(mesh, PartitionSpec()))
    held = {
        "parameters": bytes_of((state.params, state.extra)),
        "optimiser": bytes_of(state.opt),
        "constants": bytes_of(inputs[2]),
        "batch": bytes_of(inputs[1]),
    }
    asked, (rows, length) = topology(training.compile_only), batch["input_ids"].shape
    print(
        f"{asked.name}: {mesh.size} x {asked.chip.device_kind}, data={mesh.shape['data']} "
        f"parameters={mesh.shape['parameters']}, {training.dtype}, {rows} x {length} pieces in "
        f"{training.micro_batches} part{'s' * (training.micro_batches > 1)}, remat={training.remat}"
    )
    lines, refused = [], ""
    if sum(held.values()) > asked.chip.memory * GIB:
        refused = "what is there before the first step is too much already, so nothing was compiled"
    else:
        note(f"compiling for {asked.name}: a minute or more")
        try:
            with made_for("tpu"):
                compiled = step.lower(*inputs).compile()
            held |= rest_of(compiled.memory_analysis(), sum(held.values()))
            lines = program_lines(compiled.as_text(), asked, mesh.size)
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("RESOURCE_EXHAUSTED"):
                raise
            refused = str(error).splitlines()[0].partition(": ")[2]
    verdict = (
        f"does not fit: {refused}\n  try {advice(training, held['parameters'] + held['optimiser'], mesh)}"
        if refused
        else "fits"
    )
    print(*memory_lines(held, asked), *lines, verdict, sep="\n", flush=True)
    raise SystemExit(TOO_LARGE if refused else 0)


def bytes_of(tree: Any) -> int:
    """What one device holds of a tree of described arrays."""
    import jax
    import numpy as np

    parts = [(x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree)]
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in parts)


def rest_of(memory: Any, known: int) -> dict[str, int]:
    """What the compiled step takes besides its arguments, and what these lose by being laid out in tiles."""
    return {
        "padding of these": max(0, memory.argument_size_in_bytes - known),
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "activations": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }


def memory_lines(held: dict[str, int], asked: Topology) -> list[str]:
    lines = [f"  {name:<18}{size / GIB:8.3f} GiB" for name, size in held.items() if size >= GIB / 2000]
    return [
        f"memory of a chip ({asked.chip.memory} GiB)",
        *lines,
        f"  {'together':<18}{sum(held.values()) / GIB:8.3f} GiB",
    ]


def program_lines(text: str, asked: Topology, devices: int) -> list[str]:
    """Products, traffic and the roofline."""
    from bertjax.measure.hlo import Program, by_site

    program, chip = Program(text), asked.chip
    wide = by_site([product for product in program.products if "f32" in product.dtypes])
    of_wide = sum(p.flops * p.times for p in program.products if "f32" in p.dtypes)
    share = 100 * of_wide / max(program.flops, 1)
    moved = program.collectives(devices)
    sent = sum(kind.sent for kind in moved.values())
    seconds = {
        "products": program.flops / chip.flops,
        "memory": program.memory_traffic / chip.memory_rate,
        "interconnect": sent / (chip.link_rate * max(asked.links, 1)),
    }
    bound = max(seconds, key=lambda name: seconds[name])
    each = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    return [
        f"products: {program.flops / 1e12:.3f} TFLOP a chip and step, {share:.2g} % of it in float32",
        *(f"  float32: {count} x {site}" for site, count in wide.most_common(12)),
        f"interconnect: {sent / 1e6:.1f} MB sent by a chip a step, if in rings, for",
        *(f"  {name:<19}{kind.count:5} x, {kind.payload / 1e6:10.1f} MB" for name, kind in moved.items()),
        f"memory traffic: {program.memory_traffic / 1e9:.2f} GB",
        f"estimate from the rates of the data sheet, not measured: {each}",
        f"  a step in {1e3 * seconds[bound]:.2f} ms if they overlap, bound by {bound}: "
        f"{100 * seconds['products'] / seconds[bound]:.0f} % of peak",
    ]


def advice(training: Any, state: int, mesh: Any) -> str:
    """The next flag to turn: divide the state where it fills half of a chip, else cut what is computed at once."""
    ways, rows = mesh.shape["parameters"], training.batch_size // training.micro_batches // mesh.size
    if state > topology(training.compile_only).chip.memory * GIB / 2 and ways < mesh.size:
        return f"--sharding.parameters={2 * ways}"
    if not training.remat:
        return "--remat=True"
    if rows > 1 and rows % 2 == 0:
        return f"--micro_batches={2 * training.micro_batches}"
    if ways < mesh.size:
        return f"--sharding.parameters={2 * ways}"
    return "a shorter --data.max_length, a smaller --batch_size or more chips"
