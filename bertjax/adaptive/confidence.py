"""How confident a prediction is: one number per example, from its logits, in float32.

Everything goes through log-softmax: a probability that underflows to 0 has entropy 0, not NaN, and large logits do not
overflow. (Each of DeeBERT's published codes has one of these defects.) NaN logits give a NaN confidence, and every
comparison with NaN is false: such an example never exits early.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scored = Float[Array, "*rows"]


def entropy(logits: Float[Array, "*rows c"]) -> Scored:
    """In nats: 0 for a certain prediction, ln C for a uniform one (DeeBERT, Xin et al. 2020)."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p), axis=-1)


def normalised_entropy(logits: Float[Array, "*rows c"]) -> Scored:
    """The entropy divided by ln C, so that it lies in [0, 1] and a threshold means the same for any number of classes
    (FastBERT, Liu et al. 2020)."""
    return entropy(logits) / jnp.log(jnp.float32(logits.shape[-1]))


def max_probability(logits: Float[Array, "*rows c"]) -> Scored:
    """The probability of the predicted class."""
    return jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)


def margin(logits: Float[Array, "*rows c"]) -> Scored:
    """The difference between the two highest probabilities."""
    best, second = jnp.moveaxis(jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), 2)[0], -1, 0)
    return best - second


LOW_IS_SURE: dict[str, Callable[[Array], Array]] = {"entropy": entropy, "normalised_entropy": normalised_entropy}
HIGH_IS_SURE: dict[str, Callable[[Array], Array]] = {"max_probability": max_probability, "margin": margin}
