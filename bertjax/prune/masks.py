"""Weights set to 0 where they stand: which ones, how many at which step, and how they stay 0 in training.

A mask is a tree of booleans, True where a weight stays, with the paths of the matrices that it is about. It is applied
to the parameters before the model sees them, inside of the compiled step, so what is masked gets no gradient and stays
0 however the optimiser moves what is underneath. Zeros in their places save no time on any device that multiplies whole
matrices, and no bytes in a file that stores them; `surgery.remove_dead` takes out the heads and neurons that are 0
altogether. Ties go by position: of equal weights the first ones stay.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.errors import UserError
from bertjax.params import Tree, flatten, map_with_path, select, unflatten

Scope = Literal["global", "matrix", "row"]
Masks = Tree


def magnitude_masks(params: Tree, pattern: str, sparsity: float, scope: Scope = "global") -> Masks:
    """The largest weights of the matrices whose path contains the regex; `sparsity` is the fraction that goes, rounded
    down. scope: compared over all matrices, within each, or within each of the inputs of each output (a column of
    [inputs, outputs], what one output is made of).

    Raises:
      UserError: No such matrix, or a fraction outside of [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity is {sparsity}; it is the fraction of zeros, from 0 to below 1.")
    matrices = chosen(params, pattern)
    if scope == "matrix":
        alone = {path: largest(np.abs(leaf).ravel(), sparsity) for path, leaf in matrices.items()}
        return unflatten({path: mask.reshape(matrices[path].shape) for path, mask in alone.items()})
    if scope == "row":
        columns = {
            path: np.stack([largest(column, sparsity) for column in np.abs(leaf).T], axis=1)
            for path, leaf in matrices.items()
        }
        return unflatten(columns)
    flat = largest(np.concatenate([np.abs(leaf).ravel() for leaf in matrices.values()]), sparsity)
    ends = np.cumsum([leaf.size for leaf in matrices.values()])[:-1]
    parts = np.split(flat, ends)
    return unflatten({path: one.reshape(leaf.shape) for (path, leaf), one in zip(matrices.items(), parts, strict=True)})


def n_of_m_masks(params: Tree, pattern: str, n: int, m: int) -> Masks:
    """The `n` largest of every `m` neighbouring inputs of an output, as sparse tensor cores want it (2 of 4).

    Raises:
      UserError: The number of inputs of a matrix is no multiple of m, or n is not from 1 to m.
    """
    if not 1 <= n <= m:
        raise UserError(f"{n} of {m}: expected 1 to {m} weights to stay of every {m}.")
    masks = {}
    for path, leaf in chosen(params, pattern).items():
        inputs, outputs = leaf.shape
        if inputs % m:
            raise UserError(f"{path} has {inputs} inputs, no multiple of {m}.")
        groups = np.abs(leaf).reshape(inputs // m, m, outputs)
        rank = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1, kind="stable")
        masks[path] = (rank < n).reshape(leaf.shape)
    return unflatten(masks)


def nonzero_masks(params: Tree, pattern: str) -> Masks:
    """Where the matrices are not 0 now: for a model that was masked before, and is to stay so."""
    return unflatten({path: leaf != 0 for path, leaf in chosen(params, pattern).items()})


def apply_masks(params: Tree, masks: Masks) -> Tree:
    """The parameters with zeros where a mask says so; others as they are."""
    flat = flatten(masks)
    return map_with_path(lambda path, leaf: leaf * flat[path] if path in flat else leaf, params)


def sparsity_of(masks: Masks) -> float:
    """The fraction of zeros in what the masks are about."""
    leaves = [np.asarray(leaf) for leaf in flatten(masks).values()]
    return 1 - sum(int(leaf.sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def cubic(begin: int, end: int, final: float, first: float = 0.0) -> Callable[[Any], Float[Array, ""]]:
    """Sparsity by step: `first` until `begin`, `final` from `end` on, between them fast and then slower (Zhu & Gupta
    2017, eq. 1)."""
    if end <= begin:
        raise UserError(f"a schedule from step {begin} to step {end}; it has to end later than it begins.")

    def at(step: Any) -> Float[Array, ""]:
        left = 1 - jnp.clip((jnp.asarray(step, jnp.float32) - begin) / (end - begin), 0.0, 1.0)
        return final + (first - final) * left**3

    return at


def chosen(params: Tree, pattern: str) -> dict[str, np.ndarray]:
    """The matrices whose path contains the regex."""
    found = {path: np.asarray(leaf) for path, leaf in flatten(select(pattern, params)).items() if len(leaf.shape) == 2}
    if not found:
        raise UserError(f"no matrix has {pattern!r} in its path; paths look like encoder/layer_0/ffn/output/kernel.")
    return found


def largest(values: np.ndarray, sparsity: float) -> np.ndarray:
    """True at all but the floor(sparsity * n) smallest; of equal ones the first stay."""
    order = np.argsort(-values, kind="stable")
    keep = np.zeros(len(values), bool)
    keep[order[: len(values) - int(sparsity * len(values))]] = True
    return keep
