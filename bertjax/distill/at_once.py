"""Losses that are differentiated where they are computed.

What looks inside a teacher would otherwise keep what it saw, of every layer, until the gradient comes back to it, and
the teacher's queries, keys and states are wider than the student's. A loss is a sum, so its gradient can be computed
with its value and waits as arrays in the student's width; on the way back these are multiplied by a number. Maps of
attention are not kept at all, and not computed a second time either.

Both are computed in a loop over parts of the arrays. To XLA a loop is one thing to do: as soon as anybody needs the
value (see `bertjax.learn.step`), the gradient is there and the teacher's arrays are not.

What waits grows with the length of the texts, attention scores with its square. For six layers of width 384 that learn
from twelve of 768, the terms add to a step's memory, counted in the student's attention scores of one layer: at 8 x 512
tokens AttentionScores or AttentionMaps 0.75, with HiddenStates 1.4, 48 heads of Relations 0.4; at 32 x 128 tokens 2.75
and 3.4 (`memory` of tests/distill/test_memory.py).

The trade-off: such a loss has no second derivative, and what waits cannot be computed again to save memory.
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
    """The mean over so many heads, cut anew from those of each array side by side. `error(student, teacher, *masks)` is
    what each token gets wrong, summed over the heads that are given.

    A few heads at a time, a quarter of the student's: with their gradient there are about four maps for each, so that
    together they take what one layer's scores do.
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
    """`error(student, projection, teacher, weights)` of hidden states, with a gradient for the projection's parameters
    as well; a quarter of the columns at a time where their number allows it."""
    formula = in_parts(lambda ours, own, theirs, _: error(ours, own, *theirs)[0], 1, math.gcd(student.shape[1], 4))
    return formula((student, projection), ((teacher, weights), ())), jnp.sum(weights)


def in_parts(formula: Callable[..., Total], axis: int, count: int) -> Callable[..., Total]:
    """`((split, whole), (split, whole)) -> total`: the sum of `formula(split, whole, split, whole)` over so many parts
    of the arrays in `split` along an axis. The first two are the student's, and get a gradient."""

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
