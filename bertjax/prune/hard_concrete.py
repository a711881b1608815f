"""Hard-concrete gates (Louizos, Welling & Kingma 2018): random numbers from 0 to 1 that are exactly 0 or exactly 1 with
some probability, and that have a gradient with respect to it.

A gate is drawn from a sigmoid that is stretched beyond 0 and 1 and clipped. Its one parameter is a logit. The mean
number of gates that are not 0 is a smooth function of the logits, so a size can be a term of the loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOW, HIGH = -0.1, 1.1
"""The ends of the stretched sigmoid."""
TEMPERATURE = 2 / 3
SMALLEST, LARGEST = -4.6, 4.6
"""The range of a logit, about ln 0.01 to ln 100, as in the code of Xia et al. 2022: beyond it a gate hardly learns."""


def draw(key: Array, logits: Float[Array, "*gates"]) -> Float[Array, "*gates"]:
    """Gates (eq. 10 and 11)."""
    uniform = jax.random.uniform(key, logits.shape, minval=1e-6, maxval=1 - 1e-6)
    noise = jnp.log(uniform) - jnp.log1p(-uniform)
    stretched = jax.nn.sigmoid((noise + logits) / TEMPERATURE) * (HIGH - LOW) + LOW
    return jnp.clip(stretched, 0.0, 1.0)


def kept_probability(logits: Float[Array, "*gates"]) -> Float[Array, "*gates"]:
    """The probability that a gate is not 0 (eq. 12)."""
    return jax.nn.sigmoid(logits - TEMPERATURE * jnp.log(-LOW / HIGH))


def decide(logits: Float[Array, " gates"]) -> Bool[Array, " gates"]:
    """Which gates stay: as many as are not 0 in the mean, rounded, those with the highest logits; of equal logits the
    first."""
    count = jnp.round(kept_probability(logits).sum())
    rank = jnp.argsort(jnp.argsort(-logits, stable=True))
    return rank < count
