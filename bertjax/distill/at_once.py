"""Losses whose gradient is computed together with their value, in the forward pass, to save memory.

A loss on a teacher's hidden states or attention would otherwise keep the teacher's arrays of all layers alive until the
backward pass, and these are wider than the student's. A loss is a sum, so its gradient can be computed along with its
value and stored in the student's width; the backward pass multiplies it by a number. Attention maps are neither stored
nor computed twice.

Value and gradient are computed in a loop over parts of the arrays. XLA executes a loop as one operation: once the value
is needed (see `bertjax.learn.step`), the gradient is computed too, and the teacher's arrays can be freed.

The stored gradients grow linearly with the sequence length, attention scores quadratically. For a student of six layers
of width 384 and a teacher of twelve layers of width 768, the additional memory of a step, in units of the student's
attention scores of one layer, is: at 8 x 512 (batch x sequence length) 0.75 for AttentionScores or AttentionMaps, 1.4
with HiddenStates, 0.4 for Relations with 48 heads; at 32 x 128, 2.75 for AttentionScores or AttentionMaps and 3.4 with
HiddenStates (`memory` in tests/distill/test_memory.py).

The trade-off: such a loss has no second derivative, and the stored gradients cannot be rematerialised.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bertjax.learn.losses import WeightedSum

Total = Float[Array, ""]
Pair = tuple[Float[Array, "b l _ _"], Float[Array, "b l _ _"]]


def over_heads(
    error: Callable[..., Float[Array, "b l"]],
    student: Pair,
    teacher: Pair,
    masks: tuple[Int[Array, "b l"], ...],
    weights: Float[Array, "b #l"],
    heads: int,
) -> WeightedSum:
    """The mean of an error over `heads` heads; the heads of each array are first concatenated and split again into that
    many.

    `error(student, teacher, *masks)` is the error of each token, summed over the heads it is given. It gets a few heads
    at a time, at most a quarter of the student's. With the gradient about four maps are alive per head, so together
    they take as much memory as the attention scores of one layer.
    """
    few = max(n for n in range(1, max(1, student[0].shape[2] // 4) + 1) if heads % n == 0)

    def cut(x: Float[Array, "b l h k"]) -> Float[Array, "b l n r"]:
        return x.reshape(*x.shape[:2], heads, -1)

    def mean(student: Any, teacher: Any, masks: Any, weights: Any) -> Total:
        return jnp.sum(error(student, teacher, *masks) * weights) / heads

    formula = in_parts(lambda ours, _, theirs, rest: mean(ours, theirs, *rest), axis=2, count=heads // few)
    ours, theirs = jax.tree.map(cut, (student, teacher))
    return formula((ours, ()), (theirs, (masks, weights))), jnp.sum(weights)


def over_tokens(
    error: Callable[..., WeightedSum],
    student: Float[Array, "b l s"],
    projection: Any,
    teacher: Float[Array, "b l t"],
    weights: Float[Array, "b l"],
) -> WeightedSum:
    """`error(student, projection, teacher, weights)` of hidden states, also differentiated with respect to the
    projection's parameters. A quarter of the columns is processed at a time if their number is divisible by 4, half if
    by 2."""
    formula = in_parts(lambda ours, own, theirs, _: error(ours, own, *theirs)[0], 1, math.gcd(student.shape[1], 4))
    return formula((student, projection), ((teacher, weights), ())), jnp.sum(weights)


def in_parts(formula: Callable[..., Total], axis: int, count: int) -> Callable[..., Total]:
    """A function `((split, whole), (split, whole)) -> total`: the sum of `formula(split, whole, split, whole)` over
    `count` parts of the arrays in `split`, which are split along an axis. The first pair is the student's and gets a
    gradient; the second does not."""

    def value_and_gradient(student: Any, rest: Any) -> tuple[Total, Any]:
        def add(number: Array, carry: tuple[Total, Any]) -> tuple[Total, Any]:
            def part(x: Array) -> Array:
                size = x.shape[axis] // count
                return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)

            def put(whole: Array, x: Array) -> Array:
                return jax.lax.dynamic_update_slice_in_dim(whole, x, number * x.shape[axis], axis)

            ours, theirs = jax.tree.map(part, (student[0], rest[0]))
            more, found = jax.value_and_grad(formula, (0, 1))(ours, student[1], theirs, rest[1])
            total, gradient = carry
            return total + more, (
                jax.tree.map(put, gradient[0], found[0]),
                jax.tree.map(jnp.add, gradient[1], found[1]),
            )

        return jax.lax.fori_loop(0, count, add, (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, student)))

    @jax.custom_vjp
    def total(student: Any, rest: Any) -> Total:
        return value_and_gradient(student, rest)[0]

    def backward(gradient: Any, cotangent: Total) -> tuple[Any, None]:
        return jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradient), None

    total.defvjp(value_and_gradient, backward)
    return total
