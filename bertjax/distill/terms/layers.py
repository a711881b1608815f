"""What the terms have in common: the presets, and how the losses of several layers are combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bertjax.errors import UserError

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch, WeightedSum

Preset = Literal["mean", "paper", "official"]


def over_layers(sums: list[WeightedSum], preset: str) -> WeightedSum:
    """The losses of several layers, all of the same weight, as one: their mean for the preset "mean", otherwise their
    sum."""
    total = sum(total for total, _ in sums)
    return total if preset != "mean" else total / len(sums), sums[0][1]  # type: ignore[return-value]


def text_weights(batch: Batch, preset: str) -> Array:
    """The weight of a token of each example [b]. It is the same for all tokens, except for the preset "paper", where it
    is divided by the length of the text so that all examples weigh the same."""
    if preset != "paper":
        return batch["weights"]
    import jax.numpy as jnp

    return batch["weights"] / jnp.maximum(jnp.sum(batch["attention_mask"], axis=-1), 1)


def same(term: str, what: str, student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(
            f"{term} needs the same {what} in both models: the student's {what} is {student}, the teacher's {teacher}. "
            "Change the student, or use another loss."
        )
