"""Block-wise reductions of a matrix, and their inverse: the blocks are those that share a scale.

A grid partitions rows and columns into groups; a value per block is stored in a small array. Groups may differ in size
by one where a head or a matrix does not divide evenly. So nothing here reshapes into blocks: reductions and `expand`
use the group index of each row and column, which are constants of the compiled program.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.quantized.formats import Format

SEGMENTS = {"max": jax.ops.segment_max, "min": jax.ops.segment_min, "sum": jax.ops.segment_sum}
WHOLE = {"max": jnp.max, "min": jnp.min, "sum": jnp.sum}


class Grid(NamedTuple):
    """Sizes of the groups of rows and of columns, in order."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of an array with one value per block."""
        return len(self.rows), len(self.columns)


def grid_of(shape: tuple[int, int], format: Format, row_unit: int = 0, column_unit: int = 0) -> Grid:
    """The grid of a matrix. Groups do not cross multiples of `row_unit` and `column_unit` (the size of an attention
    head); 0 means no such limit."""
    return Grid(groups(shape[0], format.block_rows, row_unit), groups(shape[1], format.block_cols, column_unit))


def groups(length: int, size: int | None, unit: int = 0) -> tuple[int, ...]:
    """Sizes of groups of at most `size`, as equal as possible, none across the boundary of a unit."""
    if size is None:
        return (length,)
    unit = unit or length
    parts = np.array_split(np.arange(unit), -(-unit // size))
    return tuple(len(part) for part in parts) * (length // unit)


def reduce(x: Float[Array, "i o"], grid: Grid, how: str) -> Float[Array, "gi go"]:
    """The "max", "min" or "sum" of each block."""
    return _reduce_rows(_reduce_rows(x, grid.rows, how).T, grid.columns, how).T


def _reduce_rows(x: Float[Array, "i o"], sizes: tuple[int, ...], how: str) -> Float[Array, "g o"]:
    if len(sizes) == 1:
        return WHOLE[how](x, axis=0, keepdims=True)
    if len(sizes) == x.shape[0]:
        return x
    function: Callable[..., Array] = SEGMENTS[how]
    return function(x, group_of(sizes), num_segments=len(sizes), indices_are_sorted=True)


def expand(shared: Float[Array, "gi go"], grid: Grid) -> Float[Array, "#i #o"]:
    """The value of its block for each element of the matrix; an axis with a single group stays of length 1, to
    broadcast."""
    for axis, sizes in enumerate(grid):
        if 1 < len(sizes) < sum(sizes):
            shared = jnp.take(shared, group_of(sizes), axis=axis)
    return shared


def group_of(sizes: tuple[int, ...]) -> np.ndarray:
    """The group index of each row or column."""
    return np.repeat(np.arange(len(sizes)), sizes)
