"""A matrix of integers with its scales, as one leaf of a parameter tree.

It stands where the matrix of floating point stood, under the same path, so a quantised model is a tree like any other:
whoever computes with it takes the integers as they are, or asks for `dequantised`.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.params import Tree, map_with_path
from bertjax.quantized.formats import Format
from bertjax.quantized.grid import Grid, expand
from bertjax.quantized.rounding import dequantise


@partial(jax.tree_util.register_dataclass, data_fields=("values", "scale", "offset"), meta_fields=("format", "grid"))
@dataclasses.dataclass(frozen=True)
class Quantized:
    """`values * scale + offset`, the last two per block of the grid."""

    values: Any
    """int8 [inputs, outputs], one byte each whatever the format's bits: packing is for files."""
    scale: Any
    """float32 [groups of inputs, groups of outputs]."""
    offset: Any
    """float32, of the same shape; None where the format is symmetric, which is 0."""
    format: Format
    grid: Grid

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.values.shape

    @property
    def dtype(self) -> Any:
        """Of what is stored."""
        return self.values.dtype

    def dequantised(self) -> jax.Array:
        """The matrix in float32."""
        offset = jnp.zeros((1, 1)) if self.offset is None else expand(jnp.asarray(self.offset), self.grid)
        return dequantise(jnp.asarray(self.values), expand(jnp.asarray(self.scale), self.grid), offset)

    def rows(self, ids: Any) -> jax.Array:
        """Rows of a table in float32, taken out before they are widened."""
        values = jnp.take(jnp.asarray(self.values), ids, axis=0, mode="clip").astype(jnp.float32)
        result = values * self._of_rows(self.scale, ids)
        return result if self.offset is None else result + self._of_rows(self.offset, ids)

    def _of_rows(self, shared: Any, ids: Any) -> jax.Array:
        wide = expand(jnp.asarray(shared), self.grid)
        taken = jnp.take(wide, ids, axis=0, mode="clip") if wide.shape[0] > 1 else wide[0]
        return taken.reshape((1,) * (jnp.ndim(ids) + 1 - taken.ndim) + taken.shape)


def dequantised(params: Tree) -> Tree:
    """The tree with every matrix in floating point, for whoever trains or cuts it."""
    return map_with_path(lambda _, leaf: leaf.dequantised() if isinstance(leaf, Quantized) else leaf, params)
