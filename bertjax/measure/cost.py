"""The cost of a model without running it: parameters, stored bytes, arithmetic, memory traffic, memory.

FLOPs, bytes and memory are XLA's own numbers for the program that it compiled. So they include everything (softmax,
LayerNorm, copies) and follow any change of the graph without a formula per model; a test compares them with the closed
form of BERT's products. They describe that program on this device.

XLA counts the body of a loop once. So a recurrent model, which repeats one block, is counted with the loop unrolled to
its last step, without step signals and halting. A zero in a dense matrix costs as much as any other number:
unstructured sparsity alone saves no arithmetic.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.measure.onnx import onnx_file


@dataclass(frozen=True)
class ForwardCost:
    """The cost of one forward pass. None where the device's compiler does not report a number."""

    flops: float | None
    bytes_accessed: float | None
    peak_memory: int | None


def stored_bytes(folder: str | os.PathLike) -> int:
    """The size of a folder's ONNX file, or else of its `*.safetensors`: what must be shipped and loaded."""
    exported = onnx_file(folder)
    files = [exported] if exported else [*Path(folder).glob("*.safetensors")]
    if not files:
        raise UserError(f"{folder} holds no .safetensors or .onnx file: expected the folder of a model.")
    return sum(file.stat().st_size for file in files)


def forward_cost(model: Any, params: Any, length: int, batch_size: int = 1) -> ForwardCost:
    """The cost of the logits of `batch_size` texts of `length` tokens, compiled for the default device.

    Nothing is run: `params` may be arrays or shapes.
    """
    import jax
    import jax.numpy as jnp

    from bertjax.predict import forward

    ids = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    compiled = forward.lower(model, shapes, ids, ids, ids).compile()
    unrolled = forward.lower(*without_loop(model), ids, ids, ids).compile() if model.config.recurrence else compiled
    counted = unrolled.cost_analysis() or {}
    return ForwardCost(counted.get("flops"), counted.get("bytes accessed"), peak_memory(compiled))


def without_loop(model: Any) -> tuple[Any, Any]:
    """A recurrent model as a stack of all its steps, which share their parameters, and the shapes of the parameters."""
    from bertjax.model import abstract_params, build
    from bertjax.params import flatten
    from bertjax.quantize import Quantization

    config, steps = model.config, model.config.recurrence.steps
    depth = steps * len(config.depth_steps())
    plain = config.replace(
        recurrence=None, layers=config.depth_steps() * steps, num_hidden_layers=depth, inner_group_num=1
    )
    if plain.quantization is not None:
        # The parameters for halting do not exist in the stack, and each recurrence step has its own quantisation sites.
        there = flatten(abstract_params(plain.replace(quantization=None)))
        weights = tuple((path, format) for path, format in plain.quantization.weights if path in there)
        inner = len(config.depth_steps())
        sites = {
            (f"step_{int(place[5:]) + turn * inner}/{rest}" if place.startswith("step_") else site): activation
            for site, activation in plain.quantization.activations
            for place, _, rest in [site.partition("/")]
            for turn in range(steps)
        }
        plain = plain.replace(quantization=Quantization(weights, tuple(sites.items())))
    return build(plain), abstract_params(plain)


def peak_memory(step: Any) -> int | None:
    """Bytes that a compiled (or lowered) function holds at once: arguments, outputs and temporaries, less reused
    buffers.

    For a training step pass the jitted step, lowered with the shapes of a batch. State and batch are its arguments, and
    donated buffers are counted once.
    """
    compiled = step.compile() if hasattr(step, "compile") else step
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(used - memory.alias_size_in_bytes)
