"""Numbers to integers and back, and rounding that lets gradients through.

A number is `scale * integer + offset`; symmetric formats have no offset. Integers are centred, so that all of them fit
into a signed byte. Half goes to the even integer. Everything is float32, whatever came in: bfloat16 has not the digits
to tell 255 integers apart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from bertjax.quantized.formats import Format

SMALLEST = float(jnp.finfo(jnp.float32).tiny)
ALMOST = 1e-3
"""A number that defines a range lies at its end but for the rounding of two divisions: 127.00001 steps are 127."""


def scales(
    low: Float[Array, "*shape"], high: Float[Array, "*shape"], format: Format
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Scale and offset that cover a range. A range of one number gets a scale as large as that number, or 1."""
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
    """The nearest integers, within lowest and highest."""
    return jnp.clip(jnp.round((x - offset) / scale), lowest, highest).astype(jnp.int8)


def dequantise(
    integers: Int8[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """The numbers that the integers stand for."""
    return integers.astype(jnp.float32) * scale + offset


def round_through(
    x: Float[Array, "*shape"], scale: Float[Array, "..."], offset: Float[Array, "..."], lowest: int, highest: int
) -> Float[Array, "*shape"]:
    """`dequantise(quantise(x))` as a function that can be trained.

    The gradient passes to x where it lies within the range and is 0 outside (Bengio et al. 2013). That to the scale is
    the integer less the position between integers within the range, and the outermost integer outside: learned step
    sizes (Esser et al. 2020, equation 3). Stop it, and the offset's, where ranges are not learned.
    """
    position = (x.astype(jnp.float32) - offset) / scale
    inside = (position >= lowest - ALMOST) & (position <= highest + ALMOST)
    position = jnp.where(inside, position, jax.lax.stop_gradient(jnp.clip(position, lowest, highest)))
    return ((position + jax.lax.stop_gradient(jnp.round(position) - position)) * scale + offset).astype(x.dtype)


def scale_gradient(x: Float[Array, "*shape"], factor: float) -> Float[Array, "*shape"]:
    """x itself; its gradient times the factor."""
    return x * factor + jax.lax.stop_gradient(x * (1 - factor))
