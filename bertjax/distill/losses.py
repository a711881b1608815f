"""Distillation losses, formulas only. Each returns `(weighted sum, weight)`; no gradient reaches the teacher.

Published code divides by different things (rows, rows times classes, rows times width), so weights do not carry over
from one repository to another. Here the sum runs over the distribution or the mean over the width, and the weight
counts rows or real pieces.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bertjax.losses import Sum, keep, weighted


def soft_targets(
    student: Float[Array, "*rows c"],
    teacher: Float[Array, "*rows c"],
    weights: Float[Array, "*rows"],
    temperature: float = 1.0,
) -> Sum:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) per row (Hinton et al. 2015, section 2.1).

    The factor T^2 keeps the size of the gradient independent of the temperature.
    """
    target = jax.nn.log_softmax(keep(jax.lax.stop_gradient(teacher), weights) / temperature)
    guess = jax.nn.log_softmax(keep(student, weights) / temperature)
    return weighted(temperature**2 * jnp.sum(jnp.exp(target) * (target - guess), axis=-1), weights)


def binary_soft_targets(
    student: Float[Array, "*rows c"],
    teacher: Float[Array, "*rows c"],
    weights: Float[Array, "*rows"],
    temperature: float = 1.0,
) -> Sum:
    """`soft_targets` for labels that do not exclude each other: a two-way KL per label, averaged over the labels."""

    def pair(logits: Float[Array, "*rows c"]) -> Float[Array, "*rows c 2"]:
        scaled = keep(logits, weights) / temperature
        return jnp.stack([jax.nn.log_sigmoid(scaled), jax.nn.log_sigmoid(-scaled)], axis=-1)

    target, guess = pair(jax.lax.stop_gradient(teacher)), pair(student)
    divergences = jnp.sum(jnp.exp(target) * (target - guess), axis=-1)
    return weighted(temperature**2 * jnp.mean(divergences, axis=-1), weights)


def squared_error(
    student: Float[Array, "*rows c"], teacher: Float[Array, "*rows c"], weights: Float[Array, "*rows"]
) -> Sum:
    """Mean squared error over the last axis, per row: hidden states, embeddings, or the teacher's number."""
    difference = keep(student, weights) - keep(jax.lax.stop_gradient(teacher), weights)
    return weighted(jnp.mean(jnp.square(difference), axis=-1), weights)


def span_soft_targets(
    student: Float[Array, "b l 2"],
    teacher: Float[Array, "b l 2"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
    temperature: float = 1.0,
) -> Sum:
    """`soft_targets` over positions, mean of start and end; padding takes no part in either softmax."""

    def log_probabilities(logits: Float[Array, "b l 2"]) -> Float[Array, "b l 2"]:
        masked = jnp.where(mask[..., None] > 0, logits.astype(jnp.float32) / temperature, -1e9)
        return jax.nn.log_softmax(masked, axis=1)

    target, guess = log_probabilities(jax.lax.stop_gradient(teacher)), log_probabilities(student)
    divergences = jnp.sum(jnp.where(mask[..., None] > 0, jnp.exp(target) * (target - guess), 0.0), axis=1)
    return weighted(temperature**2 * jnp.mean(divergences, axis=-1), weights)
