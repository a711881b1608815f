"""Quantisation-aware training: the training step computes with rounded weights and activations.

Weights stay in floating point and are rounded by a transform of the parameter tree before the model sees them; inputs
of products are rounded by the product. Gradients are straight-through (rounding.py). Weight ranges either follow the
weights (Zafrir et al. 2019), or scales are learned (Esser et al. 2020). Learned scales are separate parameters, which
are not stored with the model but determine its integers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.model.config import BertConfig
from bertjax.model.products import Product, plain_product
from bertjax.model.quantized import fixed_scale, token_scale, unit_grid
from bertjax.params import Rules, Tree, flatten, map_with_path, unflatten
from bertjax.quantize.ranges import min_max, ternary
from bertjax.quantize.weights import Find, find_scales, formats_of, integers_of
from bertjax.quantized.formats import Activation, Format, Quantization
from bertjax.quantized.grid import Grid, expand
from bertjax.quantized.rounding import round_through, scale_gradient, scales


class Rounding(NamedTuple):
    """The format of a matrix and its grid of blocks."""

    format: Format
    grid: Grid


def roundings_of(config: BertConfig, params: Tree, rules: Rules[Format | None]) -> dict[str, Rounding]:
    """The `Rounding` of every matrix to which these rules give a format, by path."""
    flat = flatten(params)
    return {
        path: Rounding(format, unit_grid(path, flat[path].shape, format, config))
        for path, format in formats_of(params, rules).items()
    }


def first_scales(params: Tree, roundings: Mapping[str, Rounding], find: Find) -> Tree:
    """Initial values of learned scales. Ternary weights have none: their scale is computed from the weights."""
    initial, flat = {}, flatten(params)
    for path, (format, grid) in roundings.items():
        if format.scheme != "ternary":
            scale, offset = find_scales(jnp.asarray(flat[path]), format, grid, find)
            initial[f"{path}/scale"] = np.asarray(scale)
            if format.scheme == "asymmetric":
                initial[f"{path}/offset"] = np.asarray(offset)
    return unflatten(initial)


def round_weights(params: Tree, roundings: Mapping[str, Rounding], learned: Tree | None = None) -> Tree:
    """The parameter tree with rounded weights and straight-through gradients: a transform for the training step."""
    scales_of = flatten(learned or {})

    def rounded(path: str, x: Any) -> Any:
        if path not in roundings:
            return x
        x, (format, grid) = jnp.asarray(x), roundings[path]
        if format.scheme == "ternary":
            threshold, scale = ternary(jax.lax.stop_gradient(x), grid)
            above = jnp.abs(x) > expand(threshold, grid)
            return x + jax.lax.stop_gradient(jnp.sign(x) * above * expand(scale, grid) - x)
        if learned is None:
            scale, offset = scales(*min_max(jax.lax.stop_gradient(x), grid), format)
        else:
            # Esser et al. 2020, section 2.2: a scale sums the gradients of many weights and would learn too fast.
            factor = 1 / math.sqrt(x.size / math.prod(grid.shape) * format.highest)
            pair = scales_of[f"{path}/scale"], scales_of.get(f"{path}/offset", np.zeros((1, 1), np.float32))
            scale, offset = (scale_gradient(jnp.asarray(x), factor) for x in pair)
        return round_through(x, expand(scale, grid), expand(offset, grid), format.lowest, format.highest)

    return map_with_path(rounded, params)


def rounding_product(
    activations: Mapping[str, Activation], on: Any, learned: Mapping[str, Any] | None = None
) -> Product:
    """A product that rounds its inputs, with straight-through gradients, once `on` is true. This lets weights be
    rounded first and activations later.

    `learned` has a scale for each site with a fixed range; the zero point stays constant.
    """

    def product(site: str, subscripts: str, left: Array, right: Any) -> Array:
        if site in activations and subscripts != "lookup":
            rounded = round_input(left, activations[site], None if learned is None else learned.get(site))
            left = jnp.where(on, rounded, left)
        return plain_product(site, subscripts, left, right)

    return product


def round_input(
    x: Float[Array, "*rows i"], activation: Activation, learned: Float[Array, ""] | None = None
) -> Float[Array, "*rows i"]:
    """`quantise_input` followed by dequantisation, with straight-through gradients."""
    highest = 2 ** (activation.bits - 1) - 1
    if activation.low is None:
        scale = token_scale(jax.lax.stop_gradient(x.astype(jnp.float32)), highest)
        return round_through(x, scale, jnp.zeros_like(scale), -highest, highest)
    scale, zero = fixed_scale(activation)
    step = jnp.float32(scale) if learned is None else scale_gradient(learned, 1 / math.sqrt(x.shape[-1] * highest))
    return round_through(x, step, -zero * step, -highest - 1, highest)


def quantise_trained(
    config: BertConfig, params: Tree, roundings: Mapping[str, Rounding], learned: Tree | None = None
) -> tuple[BertConfig, Tree]:
    """The trained model in integers, with exactly the values that the training step used."""
    scales_of, flat = flatten(learned or {}), flatten(params)
    for path, (format, grid) in roundings.items():
        known = None
        if learned is not None and format.scheme != "ternary":
            offset = scales_of.get(f"{path}/offset", np.zeros((1, 1), np.float32))
            known = above_zero(scales_of[f"{path}/scale"], offset, format)
        flat[path] = integers_of(path, np.asarray(flat[path]), format, grid, "min_max", known)
    formats = tuple((path, rounding.format) for path, rounding in roundings.items())
    activations = config.quantization.activations if config.quantization else ()
    return config.replace(quantization=Quantization(formats, activations)), unflatten(flat)


def above_zero(scale: np.ndarray, offset: np.ndarray, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """The same quantisation with positive scales. A learned scale may become negative. In a symmetric format it rounds
    as its magnitude does; in an asymmetric one the integers -128 to 127 are reversed to 127 to -128, which moves the
    offset by one step."""
    return np.abs(scale), offset - np.minimum(scale, 0) * (format.scheme == "asymmetric")


def learned_ranges(activations: Mapping[str, Activation], learned: Mapping[str, Any]) -> dict[str, Activation]:
    """The activations with their learned scales as ranges; a negative scale gives the same steps in reverse order."""
    ranges = dict(activations)
    for site, scale in learned.items():
        bits = activations[site].bits
        zero = fixed_scale(activations[site])[1]
        low, high = sorted(float(scale) * (end - zero) for end in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        ranges[site] = Activation(bits, min(low, 0.0), max(high, 0.0))
    return ranges
