"""Weights set to 0 where they stand: which ones, how many at which step, and how they stay 0 in training.

A mask is a tree of booleans, True where a weight stays, with the paths of the matrices that it is about. It is applied
to the parameters before the model sees them, inside of the compiled step, so what is masked gets no gradient and stays
0 however the optimiser moves what is underneath. Zeros in their places save no time on any device that multiplies whole
matrices, and no bytes in a file that stores them; `surgery.remove_dead` takes out the heads and neurons that are 0
altogether. Ties go by position: of equal weights the first ones stay.

Weights go at once, or while the model learns (`gradual_magnitude`): then the rest has time to take over what they did,
which counts from about half of them on. The masks are in the training state, and a weight that went stays gone.
Programs that pass the gradient straight through a mask can bring it back, and are another method; here decay and old
momentum alone move what lies under a mask, which is no reason to return.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bertjax.errors import UserError
from bertjax.params import Tree, flatten, map_with_path, select, unflatten

Scope = Literal["global", "matrix", "row"] | int
"""Among which weights the smallest go: all of all matrices, those of each, those that make one output (a column of
[inputs, outputs]), or so many neighbours of these."""
Masks = Tree
POINTS = 100
"""At how many steps of a run weights go, at most. Zhu & Gupta 2017 saw no difference between every 100 and every 1000
steps; finding the smallest weights costs about as much as a step."""


def magnitude_masks(params: Tree, pattern: str, sparsity: float, scope: Scope = "global") -> Masks:
    """The largest weights of the matrices whose path contains the regex; `sparsity` is the fraction that goes, rounded
    down.

    Raises:
      UserError: No such matrix, a fraction outside of [0, 1), or inputs that are no multiple of the neighbours.
    """
    check_sparsity(sparsity)
    whole = all_ones(params, pattern, scope)
    return jax.tree.map(np.asarray, drop_smallest(whole, params, scope, lambda n: int(sparsity * n)))


def n_of_m_masks(params: Tree, pattern: str, n: int, m: int) -> Masks:
    """The `n` largest of every `m` neighbouring inputs of an output, as sparse tensor cores want it (2 of 4).

    Raises:
      UserError: The number of inputs of a matrix is no multiple of m, or n is not from 1 to m.
    """
    if not 1 <= n <= m:
        raise UserError(f"{n} of {m}: expected 1 to {m} weights to stay of every {m}.")
    whole = all_ones(params, pattern, m)
    return jax.tree.map(np.asarray, drop_smallest(whole, params, m, lambda _: m - n))


def nonzero_masks(params: Tree, pattern: str) -> Masks:
    """Where the matrices are not 0 now: for a model that was masked before, and is to stay so."""
    return unflatten({path: np.asarray(leaf) != 0 for path, leaf in matrices(params, pattern).items()})


def all_ones(params: Tree, pattern: str, scope: Scope) -> Masks:
    """Masks that hide nothing yet."""
    found = matrices(params, pattern)
    for path, leaf in found.items():
        if isinstance(scope, int) and leaf.shape[0] % scope:
            raise UserError(f"{path} has {leaf.shape[0]} inputs, no multiple of {scope}.")
    return unflatten({path: np.ones(leaf.shape, bool) for path, leaf in found.items()})


def gradual_magnitude(scope: Scope, sparsity: float, steps: int) -> Callable[[Masks, Tree, Any], Masks]:
    """`(masks, params, step) -> masks`, for the inside of a compiled step: more and more of the smallest weights gone,
    by the cubic schedule from step 0 on; at step `steps` it is the fraction, rounded down.

    Raises:
      UserError: A fraction outside of [0, 1).
    """
    check_sparsity(sparsity)
    when = np.linspace(0, steps, min(POINTS, steps) + 1).round().astype(int)
    # In double precision, here: in single precision 0.7 of a million is not 700,000.
    shares = [*map(cubic(0, max(1, steps), sparsity), when[:-1].tolist()), sparsity]

    def update(masks: Masks, params: Tree, step: Any) -> Masks:
        def removed(n: int) -> Array:
            return jnp.asarray([int(share * n) for share in shares])[jnp.argmax(step == when)]

        due = jnp.any(step == when)
        return jax.lax.cond(due, lambda: drop_smallest(masks, params, scope, removed), lambda: masks)

    return update


def drop_smallest(masks: Masks, params: Tree, scope: Scope, removed: Callable[[int], Any]) -> Masks:
    """The masks with `removed(n)` of every n weights hidden that are compared with each other: those that were hidden
    before, then the smallest."""
    weights, keys = flatten(params), {}
    for path, mask in flatten(masks).items():
        # As integers, the bits of numbers that are not negative are in the order of the numbers.
        bits = jax.lax.bitcast_convert_type(jnp.abs(jnp.asarray(weights[path], jnp.float32)), jnp.int32)
        keys[path] = jnp.where(mask, bits + 1, 0)
    if scope == "global":
        rows = jnp.concatenate([key.ravel() for key in keys.values()])[None]
        parts = jnp.split(
            top_k_mask(rows, rows.size - removed(rows.size))[0], np.cumsum([k.size for k in keys.values()])
        )
        return unflatten({path: part.reshape(keys[path].shape) for path, part in zip(keys, parts, strict=False)})
    found = {}
    for path, key in keys.items():
        inputs, outputs = key.shape
        if scope == "matrix":
            found[path] = top_k_mask(key.reshape(1, -1), key.size - removed(key.size)).reshape(key.shape)
        else:
            members = inputs if scope == "row" else scope
            rows = top_k_mask(key.T.reshape(-1, members), members - removed(members))
            found[path] = rows.reshape(outputs, inputs).T
    return unflatten(found)


@jax.jit
def top_k_mask(keys: Int[Array, "rows n"], kept: Any) -> Bool[Array, "rows n"]:
    """True at the `kept` largest of each row, at least one; of equal ones the first stay. For integers from 0 on.

    By bisection, which needs nothing but sums: ten million numbers take a CPU a sixth of the time of sorting them.
    """
    rows, n = keys.shape
    threshold = kth_largest(31, rows, lambda t: jnp.sum(keys >= t, axis=1) >= kept)
    equal, places = keys == threshold, jnp.arange(n)[None]
    left = kept - jnp.sum(keys > threshold, axis=1)
    last = kth_largest(n.bit_length(), rows, lambda place: jnp.sum(equal & (places < place), axis=1) < left)
    return (keys > threshold) | (equal & (places <= last))


def kth_largest(
    bits: int, rows: int, holds: Callable[[Int[Array, "rows 1"]], Bool[Array, " rows"]]
) -> Int[Array, "rows 1"]:
    """For each row the highest number of so many bits for which `holds`, which holds for 0 and up to some number."""

    def with_bit(position: Any, found: Int[Array, "rows 1"]) -> Int[Array, "rows 1"]:
        tried = found | (1 << (bits - 1 - position))
        return jnp.where(holds(tried)[:, None], tried, found)

    return jax.lax.fori_loop(0, bits, with_bit, jnp.zeros((rows, 1), jnp.int32))


def apply_masks(params: Tree, masks: Masks) -> Tree:
    """The parameters with zeros where a mask says so; others as they are."""
    flat = flatten(masks)
    return map_with_path(lambda path, leaf: leaf * flat[path] if path in flat else leaf, params)


def sparsity_of(masks: Masks) -> float:
    """The fraction of zeros in what the masks are about."""
    leaves = [np.asarray(leaf) for leaf in flatten(masks).values()]
    return 1 - sum(int(leaf.sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def cubic(begin: int, end: int, final: float, first: float = 0.0) -> Callable[[Any], Any]:
    """Sparsity by step: `first` until `begin`, `final` from `end` on, between them fast and then slower (Zhu & Gupta
    2017, eq. 1). A number for a number, an array for an array, as inside of a compiled step."""
    if end <= begin:
        raise UserError(f"a schedule from step {begin} to step {end}; it has to end later than it begins.")

    def at(step: Any) -> Any:
        numpy = jnp if isinstance(step, jax.Array) else np
        left = 1 - numpy.clip((step - begin) / (end - begin), 0.0, 1.0)
        return final + (first - final) * left**3

    return at


def matrices(params: Tree, pattern: str) -> dict[str, Any]:
    """The matrices whose path contains the regex."""
    found = {path: leaf for path, leaf in flatten(select(pattern, params)).items() if len(leaf.shape) == 2}
    if not found:
        raise UserError(f"no matrix has {pattern!r} in its path; paths look like encoder/layer_0/ffn/output/kernel.")
    return found


def check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity is {sparsity}; it is the fraction of zeros, from 0 to below 1.")
