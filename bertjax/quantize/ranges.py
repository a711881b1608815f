"""From numbers to the range that their integers have to cover.

The widest range loses nothing at its ends and has the coarsest steps; a narrower one cuts off a few numbers and rounds
all others better. At 8 bits the difference is small, below 4 it decides. Each function takes a matrix and its grid and
gives low and high ends per block; which is meant by symmetric is for rounding.py.
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
    """From the smallest number of a block to the largest."""
    return Range(reduce(x, grid, "min"), reduce(x, grid, "max"))


def percentile(x: Float[Array, "i o"], grid: Grid, share: float) -> Range:
    """Without the (1 - share) / 2 smallest numbers of a block and as many of the largest; linear between two. Not for
    use inside jit."""
    rows, columns = (np.cumsum((0, *sizes)) for sizes in grid)
    numbers, cuts = np.asarray(x), [(1 - share) / 2, (1 + share) / 2]
    found = np.array(
        [
            [np.quantile(numbers[top:bottom, left:right], cuts) for left, right in pairwise(columns)]
            for top, bottom in pairwise(rows)
        ],
        np.float32,
    )
    return Range(jnp.asarray(found[..., 0]), jnp.asarray(found[..., 1]))


@partial(jax.jit, static_argnames=("grid", "format", "tried"))
def least_squares(x: Float[Array, "i o"], grid: Grid, format: Format, tried: int = 64) -> Range:
    """The one of `tried` fractions of the widest range, the same for both ends, whose rounding has the smallest squared
    error; of two equal ones the wider."""
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
    """Threshold and scale of ternary weights (Li & Liu 2016, section 2.2): what is further from 0 than 0.7 times the
    mean distance becomes the scale, which is the mean distance of those numbers."""
    numbers = np.outer(grid.rows, grid.columns).astype(np.float32)
    distance = jnp.abs(x)
    threshold = 0.7 * reduce(distance, grid, "sum") / numbers
    far = (distance > expand(threshold, grid)).astype(x.dtype)
    return threshold, reduce(distance * far, grid, "sum") / jnp.maximum(reduce(far, grid, "sum"), 1.0)


def moving_average(old: Range, new: Range, seen: int, decay: float) -> Range:
    """Both ends after one more batch; the first is taken as it is."""
    if seen == 0:
        return new
    return Range(*(decay * a + (1 - decay) * b for a, b in zip(old, new, strict=True)))
