"""Post-training quantisation of weights: rules over parameter paths decide which parameters, and in which format.

LayerNorms and biases are never quantised, whatever a rule says: they are a thousandth of the parameters, and rounding
them costs more than a thousandth of the score. The result is a complete model whose config records every format.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.model.quantized import unit_grid
from bertjax.params import Rules, Tree, assign, flatten, unflatten
from bertjax.quantize.ranges import least_squares, min_max, percentile, ternary
from bertjax.quantized.formats import INT8, Format, Quantization
from bertjax.quantized.grid import Grid, expand
from bertjax.quantized.rounding import quantise, scales
from bertjax.quantized.tensor import Quantized

Find = Literal["min_max", "percentile", "least_squares"]
"""Estimator of the range of a block: its extremes, the range without a thousandth of its weights, or the range with the
smallest squared rounding error."""


def quantise_weights(
    config: BertConfig, params: Tree, rules: Rules[Format | None] = INT8, find: Find = "least_squares"
) -> tuple[BertConfig, Tree]:
    """The model with integers where a rule gives a format; None leaves a parameter in floating point.

    Raises:
      UserError: A rule matches nothing, a weight is not finite, or the model is already quantised.
    """
    formats, flat = formats_of(params, rules), flatten(params)
    if any(isinstance(leaf, Quantized) for leaf in flat.values()):
        raise UserError("the model is quantised already; use the model before quantisation, in floating point.")
    quantised = {
        path: integers_of(path, np.asarray(flat[path]), format, unit_grid(path, flat[path].shape, format, config), find)
        for path, format in formats.items()
    }
    activations = config.quantization.activations if config.quantization else ()
    described = config.replace(quantization=Quantization(tuple(formats.items()), activations))
    return described, unflatten({path: quantised.get(path, leaf) for path, leaf in flat.items()})


def formats_of(params: Tree, rules: Rules[Format | None]) -> dict[str, Format]:
    """The format of each matrix that a rule gives one; vectors are never quantised."""
    flat = flatten(params)
    assigned = assign(rules, params, None)
    return {path: format for path, format in assigned.items() if format is not None and len(flat[path].shape) == 2}


def integers_of(
    path: str, x: np.ndarray, format: Format, grid: Grid, find: Find, known: tuple[Any, Any] | None = None
) -> Quantized:
    """One parameter as integers, in NumPy arrays. `known` are scales and offsets to use; without it they are estimated
    from the weights."""
    if not np.isfinite(x).all():
        raise UserError(
            f"{path} has NaN or infinite values, which cannot be quantised; use a checkpoint from before they appeared."
        )
    if format.scheme == "ternary":
        threshold, scale = ternary(jnp.asarray(x), grid)
        integers, offset = np.sign(x) * (np.abs(x) > np.asarray(expand(threshold, grid))), None
    else:
        scale, offset = (jnp.asarray(a) for a in known or find_scales(jnp.asarray(x), format, grid, find))
        ends = format.lowest, format.highest
        integers = quantise(jnp.asarray(x), expand(scale, grid), expand(offset, grid), *ends)
    stored = np.asarray(offset) if format.scheme == "asymmetric" else None
    return Quantized(np.asarray(integers, np.int8), np.asarray(scale), stored, format, grid)


def find_scales(x: Any, format: Format, grid: Grid, find: Find) -> tuple[Any, Any]:
    """Scale and offset of each block, by the named estimator of its range."""
    if find == "percentile":
        low, high = percentile(x, grid, 0.999)
    else:
        low, high = min_max(x, grid) if find == "min_max" else least_squares(x, grid, format)
    return scales(low, high, format)
