"""`Quantized`: an integer matrix with its scales, as one leaf of a parameter tree.

It has the path of the float matrix that it replaces, so a quantised model is an ordinary parameter tree. Code that
computes with it either uses the integers or calls `dequantised`.
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
    """`values * scale + offset`, with scale and offset per block of the grid."""

    values: Any
    """int8 [inputs, outputs], one byte per integer in memory; files are packed to the format's bits."""
    scale: Any
    """float32 [row groups, column groups]."""
    offset: Any
    """float32 [row groups, column groups]; None if the format is symmetric."""
    format: Format
    grid: Grid

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        return self.values.shape

    @property
    def dtype(self) -> Any:
        """The dtype of the stored integers."""
        return self.values.dtype

    def dequantised(self) -> jax.Array:
        """The matrix in float32."""
        offset = jnp.zeros((1, 1)) if self.offset is None else expand(jnp.asarray(self.offset), self.grid)
        return dequantise(jnp.asarray(self.values), expand(jnp.asarray(self.scale), self.grid), offset)

    def rows(self, ids: Any) -> jax.Array:
        """The rows of a table at `ids`, in float32. They are gathered as bytes and then converted, so the whole table
        is never float."""
        values = jnp.take(jnp.asarray(self.values), ids, axis=0, mode="clip").astype(jnp.float32)
        result = values * self._of_rows(self.scale, ids)
        return result if self.offset is None else result + self._of_rows(self.offset, ids)

    def _of_rows(self, shared: Any, ids: Any) -> jax.Array:
        wide = expand(jnp.asarray(shared), self.grid)
        rows = jnp.take(wide, ids, axis=0, mode="clip") if wide.shape[0] > 1 else wide[0]
        return rows.reshape((1,) * (jnp.ndim(ids) + 1 - rows.ndim) + rows.shape)


def dequantised(params: Tree) -> Tree:
    """The tree with every matrix in floating point, for training or pruning."""
    return map_with_path(lambda _, leaf: leaf.dequantised() if isinstance(leaf, Quantized) else leaf, params)
