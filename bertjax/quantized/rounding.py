"""Quantise, dequantise, and the straight-through version for training.

A number is `scale * integer + offset`; symmetric formats have offset 0. Integers are centred, so that all of them fit
into int8. Ties round to even. All arithmetic is in float32, whatever the input's dtype: bfloat16 has too few digits to
distinguish 255 integers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from bertjax.quantized.formats import Format

SMALLEST = float(jnp.finfo(jnp.float32).tiny)
ALMOST = 1e-3
"""Tolerance, in steps, at the ends of a range. Two divisions may move a number at the end to 127.00001 steps, which
counts as 127, inside the range."""


def scales(
    low: Float[Array, "*shape"], high: Float[Array, "*shape"], format: Format
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Scale and offset that cover a range. A range of a single number gets that magnitude as its scale, or 1 for 0."""
    if format.scheme == "asymmetric":
        span, levels = high - low, format.highest - format.lowest
    else:
        span, levels = jnp.maximum(jnp.abs(low), jnp.abs(high)), format.highest
    lone = jnp.where(high != 0, jnp.abs(high), 1.0)
    scale = jnp.where(span > 0, jnp.maximum(span / levels, SMALLEST), lone)
    offset = low - format.lowest * scale if format.scheme == "asymmetric" else jnp.zeros_like(scale)
    return scale, offset


def quantise(
    x: Float[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."], lowest: int, highest: int
) -> Int8[Array, "*shape"]:
    """The nearest integers, clipped to lowest and highest."""
    return jnp.clip(jnp.round((x - offset) / scale), lowest, highest).astype(jnp.int8)


def dequantise(
    integers: Int8[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """`integers * scale + offset`, in float32."""
    return integers.astype(jnp.float32) * scale + offset


def round_through(
    x: Float[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."], lowest: int, highest: int
) -> Float[Array, "*shape"]:
    """`dequantise(quantise(x))` with a straight-through gradient.

    The gradient with respect to x is passed on inside the range and is 0 outside (Bengio et al. 2013). The gradient
    with respect to the scale is that of learned step sizes (Esser et al. 2020, equation 3): inside the range the
    rounded minus the exact position in steps, outside it the clipped integer. Where scales and offsets are not learned,
    stop their gradients.
    """
    position = (x.astype(jnp.float32) - offset) / scale
    inside = (position >= lowest - ALMOST) & (position <= highest + ALMOST)
    position = jnp.where(inside, position, jax.lax.stop_gradient(jnp.clip(position, lowest, highest)))
    return ((position + jax.lax.stop_gradient(jnp.round(position) - position)) * scale + offset).astype(x.dtype)


def scale_gradient(x: Float[Array, "*shape"], factor: float) -> Float[Array, "*shape"]:
    """Returns x; its gradient is multiplied by the factor."""
    return x * factor + jax.lax.stop_gradient(x * (1 - factor))
