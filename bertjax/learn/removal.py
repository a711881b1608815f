"""What later transforms own is cut like the parameters that an earlier one removed.

A transform that removes parts of the model at the end (`removal`) changes the shapes of matrices. Learned scales,
scores and masks of the transforms after it belong to those matrices by their path, so they lose the same rows and
columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.params import Tree, flatten, map_with_path, unflatten

Kept = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each matrix that is left, by path: the rows and the columns that are left."""


def kept_rows_and_columns(remove: Callable[[Tree], tuple[Any, Tree]], params: Tree) -> Kept:
    """What a removal leaves of each matrix: it is given matrices of row numbers, and matrices of column numbers."""

    def numbered(axis: int) -> Tree:
        def numbers(leaf: Any) -> np.ndarray:
            shape = np.shape(leaf)
            along = np.arange(shape[min(axis, len(shape) - 1)]) if shape else np.zeros(())
            return np.broadcast_to(along[:, None] if axis == 0 and len(shape) == 2 else along, shape)

        return map_with_path(lambda _, leaf: numbers(leaf), params)

    rows, columns = (flatten(remove(numbered(axis))[1]) for axis in (0, 1))
    return {path: (rows[path][:, 0], columns[path][0]) for path in rows if np.ndim(rows[path]) == 2}


def cut_like(params: Tree, kept: Kept, tree: Tree, owner: str) -> Tree:
    """A transform's tree without what belongs to removed rows, columns and matrices of `params`.

    Raises:
      UserError: Values belong to groups of rows or columns, of which some are removed.
    """
    before = {path: np.shape(leaf) for path, leaf in flatten(params).items() if np.ndim(leaf) == 2}
    flat = flatten(tree)
    for path, leaf in list(flat.items()):
        matrix = next((one for one in before if f"/{one}/" in f"/{path}/"), None)
        if matrix is None or np.ndim(leaf) != 2:
            continue
        if matrix not in kept:
            del flat[path]
            continue
        for axis, (size, left) in enumerate(zip(before[matrix], kept[matrix], strict=True)):
            if np.shape(leaf)[axis] == size:
                flat[path] = np.take(np.asarray(flat[path]), left, axis)
            elif np.shape(leaf)[axis] > 1 and len(left) < size:
                raise UserError(
                    f"transforms: {owner} has {np.shape(leaf)[axis]} values for the {size} {('rows', 'columns')[axis]} "
                    f"of {matrix}, of which an earlier transform removes some; use one value, or one each."
                )
    return unflatten(flat)
