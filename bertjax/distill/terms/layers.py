"""What terms have in common: the shape that training expects, and how the losses of several layers become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bertjax.errors import UserError

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch, WeightedSum

Preset = Literal["mean", "paper", "official"]


def over_layers(sums: list[WeightedSum], preset: str) -> WeightedSum:
    """Losses of several layers, which have one weight, as one: their mean, or their sum for a paper's formula."""
    total = sum(total for total, _ in sums)
    return total if preset != "mean" else total / len(sums), sums[0][1]  # type: ignore[return-value]


def text_weights(batch: Batch, preset: str) -> Array:
    """What a token of each text weighs [b]: as much as any other, or in a paper's formula, which takes the mean of a
    text before that of the texts, the less the longer its text is. Texts then weigh alike."""
    if preset != "paper":
        return batch["weights"]
    import jax.numpy as jnp

    return batch["weights"] / jnp.maximum(jnp.sum(batch["attention_mask"], axis=-1), 1)


def same(term: str, what: str, student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(f"{term} compares like with like: the student's {what} is {student}, the teacher's {teacher}.")
