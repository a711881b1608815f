"""The `Product` of a quantised model: inputs are quantised, and multiplied in integers or in floating point.

Both modes quantise the input in the same way. Integer mode multiplies int8 by int8, accumulates in int32, and applies
the scales of both sides once per result. Float mode multiplies the dequantised values. They differ only in the order of
summation, so float mode reproduces integer mode on devices without integer products.

If the weight's input rows are in several groups, there is no single scale per result, and the product is computed in
float mode. Embedding look-ups and products without an activation format (attention scores, heads) are unchanged.
"""

import math
import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.model.products import plain_product
from bertjax.params import Tree, flatten, unflatten
from bertjax.quantized.formats import Activation, Format
from bertjax.quantized.grid import Grid, expand, grid_of
from bertjax.quantized.rounding import SMALLEST
from bertjax.quantized.tensor import Quantized
from bertjax.storage.typed_json import shown


@dataclass(frozen=True)
class QuantizedProduct:
    """A `Product` that quantises the inputs of the sites in `activations`."""

    activations: tuple[tuple[str, Activation], ...]
    integer: bool
    by_rows = True
    """Rows are independent, so the product may be split by rows."""

    def __call__(self, site: str, subscripts: str, left: Array, right: Array | Quantized) -> Array:
        activation = dict(self.activations).get(site)
        if activation is None or subscripts == "lookup":
            return plain_product(site, subscripts, left, right)
        integers, scale, zero = quantise_input(left, activation)
        if self.integer and isinstance(right, Quantized) and len(right.grid.rows) == 1 and subscripts.endswith("o"):
            return integer_product(integers, scale, zero, right).astype(left.dtype)
        rounded = (integers.astype(jnp.float32) - zero) * scale
        return plain_product(site, subscripts, rounded.astype(left.dtype), right)


def quantise_input(
    x: Float[Array, "*rows i"], activation: Activation
) -> tuple[Int8[Array, "*rows i"], Float[Array, "..."], float]:
    """Integers, scale and zero point of an input: one scale for all tokens if the range is fixed, else one per
    token."""
    highest = 2 ** (activation.bits - 1) - 1
    x = x.astype(jnp.float32)
    if activation.low is None:
        scale = token_scale(x, highest)
        return jnp.round(x / scale).astype(jnp.int8), scale, 0.0
    scale, zero = fixed_scale(activation)
    return jnp.clip(jnp.round(x / scale) + zero, -highest - 1, highest).astype(jnp.int8), jnp.float32(scale), zero


def token_scale(x: Float[Array, "*rows i"], highest: int) -> Float[Array, "*rows 1"]:
    """The symmetric dynamic scale of each row."""
    return jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True) / highest, SMALLEST)


def fixed_scale(activation: Activation) -> tuple[float, float]:
    """Scale and zero point of a fixed range. The zero point is an integer, so that 0 is represented exactly."""
    low, high = activation.low, activation.high
    assert low is not None
    assert high is not None
    lowest, levels = -(2 ** (activation.bits - 1)), 2**activation.bits - 1
    scale = max((high - low) / levels, SMALLEST)
    return scale, float(lowest - round(low / scale))


def integer_product(
    integers: Int8[Array, "*rows i"], scale: Float[Array, "..."], zero: float, right: Quantized
) -> Float[Array, "*rows o"]:
    """`(scale * (integers - zero)) @ right`, int8 by int8 with int32 accumulation."""
    rows, values = integers.reshape(math.prod(integers.shape[:-1]), integers.shape[-1]), jnp.asarray(right.values)
    product = partial(jax.lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    if zero:
        # Subtract the zero point's contribution. It is computed as an extra row of the product, because XLA's CPU
        # backend takes longer to sum the columns of an int8 matrix than to multiply by it.
        zeros = jnp.full((1, rows.shape[1]), zero, jnp.int8)
        sums = product(jnp.concatenate([rows, zeros]), values)
        sums = sums[:-1] - sums[-1:]
    else:
        sums = product(rows, values)
    scale = scale.reshape(-1, 1) if scale.ndim else scale.reshape(1, 1)
    result = sums.astype(jnp.float32) * (scale * expand(jnp.asarray(right.scale), right.grid))
    if right.offset is not None:
        totals = jnp.sum(rows.astype(jnp.int32), axis=1, keepdims=True).astype(jnp.float32) - zero * rows.shape[1]
        result = result + totals * scale * expand(jnp.asarray(right.offset), right.grid)
    return result.reshape(*integers.shape[:-1], values.shape[1])


def abstract_weights(config: BertConfig, params: Tree) -> Tree:
    """The shapes of a quantised model's parameters, from those of its float model."""
    assert config.quantization is not None
    flat = flatten(params)
    for path, format in config.quantization.weights:
        if path not in flat:
            raise UserError(
                f"quantization.weights in the config has the path {shown(path)}, and the model has no such parameter; "
                "correct the path."
            )
        grid = unit_grid(path, flat[path].shape, format, config)
        scale = jax.ShapeDtypeStruct(grid.shape, jnp.float32)
        values = jax.ShapeDtypeStruct(flat[path].shape, jnp.int8)
        flat[path] = Quantized(values, scale, scale if format.scheme == "asymmetric" else None, format, grid)
    return unflatten(flat)


def unit_grid(path: str, shape: tuple[int, ...], format: Format, config: BertConfig) -> Grid:
    """The grid of a parameter. Blocks do not span heads: in the columns of queries, keys and values, and in the rows of
    the attention output."""
    columns = config.head_size if re.search(r"attention/(query|key|value)/kernel$", path) else 0
    rows = config.head_size if re.search(r"attention/output/kernel$", path) else 0
    return grid_of((shape[0], shape[1]), format, rows, columns)
