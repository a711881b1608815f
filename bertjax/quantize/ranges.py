"""Weight ranges: for each block of a matrix, the interval that its integers cover.

The full range clips nothing and has the largest step. A narrower one clips a few weights and rounds all others more
accurately. At 8 bits the difference is small; below 4 bits it decides. Each function takes a matrix and its grid and
returns low and high ends per block; rounding.py makes them symmetric where the format is.
"""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.quantized.formats import Format
from bertjax.quantized.grid import Grid, expand, reduce
from bertjax.quantized.rounding import dequantise, quantise, scales


class Range(NamedTuple):
    low: Float[Array, "gi go"]
    high: Float[Array, "gi go"]


def min_max(x: Float[Array, "i o"], grid: Grid) -> Range:
    """The smallest and the largest weight of each block."""
    return Range(reduce(x, grid, "min"), reduce(x, grid, "max"))


def percentile(x: Float[Array, "i o"], grid: Grid, share: float) -> Range:
    """The range without the (1 - share) / 2 smallest and as many of the largest weights of each block, with linear
    interpolation. Not for use inside jit."""
    rows, columns = (np.cumsum((0, *sizes)) for sizes in grid)
    weights, levels = np.asarray(x), [(1 - share) / 2, (1 + share) / 2]
    ends = np.array(
        [
            [np.quantile(weights[top:bottom, left:right], levels) for left, right in pairwise(columns)]
            for top, bottom in pairwise(rows)
        ],
        np.float32,
    )
    return Range(jnp.asarray(ends[..., 0]), jnp.asarray(ends[..., 1]))


@partial(jax.jit, static_argnames=("grid", "format", "tried"))
def least_squares(x: Float[Array, "i o"], grid: Grid, format: Format, tried: int = 64) -> Range:
    """The range with the smallest squared rounding error among `tried` fractions of the full range, the same fraction
    at both ends. Ties go to the wider range."""
    widest = min_max(x, grid)
    fractions = jnp.linspace(1.0, 1.0 / tried, tried)

    def error(fraction: Float[Array, ""]) -> Float[Array, "gi go"]:
        scale, offset = scales(widest.low * fraction, widest.high * fraction, format)
        scale, offset = expand(scale, grid), expand(offset, grid)
        rounded = dequantise(quantise(x, scale, offset, format.lowest, format.highest), scale, offset)
        return reduce(jnp.square(x - rounded), grid, "sum")

    best = fractions[jnp.argmin(jax.lax.map(error, fractions), axis=0)]
    return Range(widest.low * best, widest.high * best)


def ternary(x: Float[Array, "i o"], grid: Grid) -> tuple[Float[Array, "gi go"], Float[Array, "gi go"]]:
    """Threshold and scale of ternary weights (Li & Liu 2016, section 2.2). The threshold is 0.7 times the mean
    magnitude; the scale is the mean magnitude of the weights above it, and the others become 0."""
    counts = np.outer(grid.rows, grid.columns).astype(np.float32)
    magnitude = jnp.abs(x)
    threshold = 0.7 * reduce(magnitude, grid, "sum") / counts
    above = (magnitude > expand(threshold, grid)).astype(x.dtype)
    return threshold, reduce(magnitude * above, grid, "sum") / jnp.maximum(reduce(above, grid, "sum"), 1.0)


def moving_average(old: Range, new: Range, seen: int, decay: float) -> Range:
    """The exponential moving average of both ends; the first range is taken as it is."""
    if seen == 0:
        return new
    return Range(*(decay * a + (1 - decay) * b for a, b in zip(old, new, strict=True)))
