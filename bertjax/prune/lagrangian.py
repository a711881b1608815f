"""The term that drives an expected cost to its target while the model learns: a Lagrangian with two multipliers (Wang,
Wohlwend & Lei 2020; Xia, Zhong & Chen 2022, eq. 4).

A penalty with a fixed weight ends at a cost that nobody chose. The multipliers ascend for as long as the target is
missed, so they find the weight that meets it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bertjax.learn.transform import Update


def lagrangian(
    update: Update, multipliers: Float[Array, "2"], removed: Float[Array, ""], target: float, warmup: float
) -> Float[Array, ""]:
    """l1 (s - t) + l2 (s - t)^2 of the removed fraction s of the cost and its target t, which grows linearly over the
    fraction `warmup` of the steps. The gradient with respect to the multipliers is reversed, so an optimiser that
    descends lets them ascend."""
    growth = jnp.clip(update.step / max(round(warmup * update.total), 1), 0.0, 1.0)
    gap = removed - growth * target
    ascending = 2 * jax.lax.stop_gradient(multipliers) - multipliers
    return ascending[0] * gap + ascending[1] * gap**2
