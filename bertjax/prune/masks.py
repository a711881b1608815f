"""Unstructured pruning with masks: which weights are 0, the sparsity schedule, and how they stay 0 during training.

A mask is a tree of booleans, True where a weight is kept, under the paths of the masked matrices. It is applied to the
parameters inside the compiled step, before the model sees them, so masked weights get no gradient and stay 0 whatever
the optimiser does to the values underneath. Zeros in dense matrices save no time on devices that multiply whole
matrices and no bytes in an uncompressed file; `surgery.remove_dead` removes heads and neurons that are entirely 0. Ties
are broken by position: of equal weights the first are kept.

Weights are pruned at once, or gradually while the model trains (`gradual_magnitude`). Gradual pruning lets the other
weights compensate, which matters from about 50 % sparsity on. The masks are part of the training state, and a pruned
weight stays pruned. Methods that pass the gradient straight through the mask can revive weights; here only weight decay
and old momentum change a masked weight, which is no evidence that it is needed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from bertjax.errors import UserError
from bertjax.params import Tree, flatten, map_with_path, select, unflatten

Scope = Literal["global", "matrix", "row"] | int
"""Which weights are compared with each other: those of all matrices, of each matrix, or of each output (a column of
[inputs, outputs]); an int: that many neighbouring inputs of an output."""
Masks = Tree
POINTS = 100
"""The maximum number of mask updates in a run. Zhu & Gupta 2017 saw no difference between an update every 100 steps and
every 1000; finding the smallest weights costs about as much as a step."""


def magnitude_masks(params: Tree, pattern: str, sparsity: float, scope: Scope = "global") -> Masks:
    """Masks that keep the largest weights of the matrices whose path matches the regex. `sparsity` is the fraction
    pruned, rounded down.

    Raises:
      UserError: No such matrix, a fraction outside [0, 1), or a number of inputs that `scope` does not divide.
    """
    check_sparsity(sparsity)
    dense = all_ones(params, pattern, scope)
    return jax.tree.map(np.asarray, drop_smallest(dense, params, scope, lambda n: int(sparsity * n)))


def n_of_m_masks(params: Tree, pattern: str, n: int, m: int) -> Masks:
    """Masks that keep the `n` largest of every `m` neighbouring inputs of an output; sparse tensor cores need 2 of 4.

    Raises:
      UserError: The number of inputs of a matrix is not a multiple of m, or n is not from 1 to m.
    """
    if not 1 <= n <= m:
        raise UserError(f"{n}:{m} sparsity keeps {n} of every {m} weights; expected 1 to {m} weights to keep.")
    dense = all_ones(params, pattern, m)
    return jax.tree.map(np.asarray, drop_smallest(dense, params, m, lambda _: m - n))


def nonzero_masks(params: Tree, pattern: str) -> Masks:
    """Masks of the weights that are not 0 now, to keep the sparsity of a pruned model."""
    return unflatten({path: np.asarray(leaf) != 0 for path, leaf in matrices(params, pattern).items()})


def all_ones(params: Tree, pattern: str, scope: Scope) -> Masks:
    """Masks that prune nothing, for every matrix whose path matches the regex."""
    masked = matrices(params, pattern)
    for path, leaf in masked.items():
        if isinstance(scope, int) and leaf.shape[0] % scope:
            raise UserError(
                f"{path} has {leaf.shape[0]} inputs, which is not a multiple of {scope}, the number of neighbouring "
                "inputs that are compared; choose a divisor, or another scope."
            )
    return unflatten({path: np.ones(leaf.shape, bool) for path, leaf in masked.items()})


def gradual_magnitude(scope: Scope, sparsity: float, steps: int) -> Callable[[Masks, Tree, Any], Masks]:
    """Gradual magnitude pruning: an update `(masks, params, step) -> masks` that runs inside the compiled step.

    Sparsity follows the cubic schedule from step 0 and reaches `sparsity`, rounded down, at step `steps`.

    Raises:
      UserError: A fraction outside [0, 1).
    """
    check_sparsity(sparsity)
    update_steps = np.linspace(0, steps, min(POINTS, steps) + 1).round().astype(int)
    # In Python, in float64: in float32, 0.7 of a million is not 700,000.
    sparsities = [*map(cubic(0, max(1, steps), sparsity), update_steps[:-1].tolist()), sparsity]

    def update(masks: Masks, params: Tree, step: Any) -> Masks:
        def removed(n: int) -> Array:
            return jnp.asarray([int(fraction * n) for fraction in sparsities])[jnp.argmax(step == update_steps)]

        due = jnp.any(step == update_steps)
        return jax.lax.cond(due, lambda: drop_smallest(masks, params, scope, removed), lambda: masks)

    return update


def drop_smallest(masks: Masks, params: Tree, scope: Scope, removed: Callable[[int], Any]) -> Masks:
    """Masks in which `removed(n)` of every n weights that are compared are pruned: those pruned before, then the
    smallest."""
    weights, keys = flatten(params), {}
    for path, mask in flatten(masks).items():
        # Read as integers, the bits of non-negative floats have the order of the floats.
        bits = jax.lax.bitcast_convert_type(jnp.abs(jnp.asarray(weights[path], jnp.float32)), jnp.int32)
        keys[path] = jnp.where(mask, bits + 1, 0)
    if scope == "global":
        rows = jnp.concatenate([key.ravel() for key in keys.values()])[None]
        parts = jnp.split(
            top_k_mask(rows, rows.size - removed(rows.size))[0], np.cumsum([k.size for k in keys.values()])
        )
        return unflatten({path: part.reshape(keys[path].shape) for path, part in zip(keys, parts, strict=False)})
    new = {}
    for path, key in keys.items():
        inputs, outputs = key.shape
        if scope == "matrix":
            new[path] = top_k_mask(key.reshape(1, -1), key.size - removed(key.size)).reshape(key.shape)
        else:
            members = inputs if scope == "row" else scope
            rows = top_k_mask(key.T.reshape(-1, members), members - removed(members))
            new[path] = rows.reshape(outputs, inputs).T
    return unflatten(new)


def top_masks(values: dict[str, Any], kept: Callable[[int], Any], together: bool) -> dict[str, Any]:
    """Masks of the largest of some numbers, signs included: `kept(n)` of every n that are compared, which are those of
    one array or, `together`, of all."""
    keys = {path: ordered(x) for path, x in values.items()}
    if not together:
        return {p: top_k_mask(k.reshape(1, -1), kept(k.size), bits=32).reshape(k.shape) for p, k in keys.items()}
    row = jnp.concatenate([key.ravel() for key in keys.values()])[None]
    parts = jnp.split(top_k_mask(row, kept(row.size), bits=32)[0], np.cumsum([key.size for key in keys.values()]))
    return {path: part.reshape(keys[path].shape) for path, part in zip(keys, parts, strict=False)}


def ordered(x: Float[Array, "*shape"]) -> UInt[Array, "*shape"]:
    """Integers in the order of floats: the bits of a positive float with the sign set, of a negative one inverted."""
    x = jnp.asarray(x, jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 becomes 0.0
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def kept_count(n: int, sparsity: Any, final: float) -> Any:
    """How many of n stay at a sparsity, a traced float32; exact at the final one, which is rounded down."""
    growing = n - jnp.floor(sparsity * n).astype(jnp.int32)
    return jnp.where(sparsity >= jnp.float32(final), n - int(final * n), growing)


@partial(jax.jit, static_argnames="bits")
def top_k_mask(keys: Int[Array, "rows n"] | UInt[Array, "rows n"], kept: Any, bits: int = 31) -> Bool[Array, "rows n"]:
    """True at the `kept` largest of each row, at least one; of equal keys the first are kept. Keys are not negative.

    By bisection on the threshold, which only needs sums: for ten million numbers on a CPU, a sixth of the time of
    sorting.
    """
    rows, n = keys.shape
    threshold = kth_largest(bits, rows, lambda t: jnp.sum(keys >= t.astype(keys.dtype), axis=1) >= kept)
    threshold = threshold.astype(keys.dtype)
    equal, places = keys == threshold, jnp.arange(n)[None]
    missing = kept - jnp.sum(keys > threshold, axis=1)
    last = kth_largest(n.bit_length(), rows, lambda place: jnp.sum(equal & (places < place), axis=1) < missing)
    return (keys > threshold) | (equal & (places <= last))


def kth_largest(bits: int, rows: int, holds: Callable[[Array], Bool[Array, " rows"]]) -> Array:
    """For each row, the largest number of `bits` bits for which `holds`; it must hold for 0 and be monotonic."""

    def with_bit(position: Any, largest: Array) -> Array:
        candidate = largest | (jnp.ones((), largest.dtype) << (bits - 1 - position).astype(largest.dtype))
        return jnp.where(holds(candidate)[:, None], candidate, largest)

    return jax.lax.fori_loop(0, bits, with_bit, jnp.zeros((rows, 1), jnp.uint32 if bits == 32 else jnp.int32))


def apply_masks(params: Tree, masks: Masks) -> Tree:
    """The parameters with masked weights set to 0; leaves without a mask are unchanged."""
    flat = flatten(masks)
    return map_with_path(lambda path, leaf: leaf * flat[path] if path in flat else leaf, params)


def sparsity_of(masks: Masks) -> float:
    """The fraction of zeros in the masks."""
    leaves = [np.asarray(leaf) for leaf in flatten(masks).values()]
    return 1 - sum(int(leaf.sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def cubic(begin: int, end: int, final: float, first: float = 0.0) -> Callable[[Any], Any]:
    """Sparsity as a function of the step: `first` until `begin`, `final` from `end` on, and cubic in between, fast at
    the beginning (Zhu & Gupta 2017, eq. 1). It returns a number for a number and an array for an array, as inside a
    compiled step."""
    if end <= begin:
        raise UserError(f"the sparsity schedule is from step {begin} to step {end}; it must end later than it begins.")

    def at(step: Any) -> Any:
        numpy = jnp if isinstance(step, jax.Array) else np
        remaining = 1 - numpy.clip((step - begin) / (end - begin), 0.0, 1.0)
        return final + (first - final) * remaining**3

    return at


def matrices(params: Tree, pattern: str) -> dict[str, Any]:
    """The matrices whose path matches the regex."""
    matching = {path: leaf for path, leaf in flatten(select(pattern, params)).items() if len(leaf.shape) == 2}
    if not matching:
        raise UserError(
            f"the regex {pattern!r} matches the path of no matrix; paths look like encoder/layer_0/ffn/output/kernel."
        )
    return matching


def check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity is {sparsity}; it is the fraction of zeros, from 0 to below 1.")
