"""AdamW or LAMB with warm-up and decay, and rules for what learns how fast.

Rates are ordered `(regex, multiplier)` rules over `params/...` and `extra/...`; a multiplier of 0 freezes, weight decay
included. Biases and LayerNorm are never decayed, as in BERT. LAMB is for batches of thousands: AdamW whose update of
each array is scaled to that array's norm. As in ALBERT's code, what is not decayed is not scaled either: a bias begins
at 0, and an update of its own norm would hold it there. Unlike that code, and like the paper, moments are corrected for
their start at 0.
"""

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

from bertjax.learn.phases import Phases
from bertjax.recipes.optimiser import Optimiser


def learning_rate_schedule(recipe: Optimiser, steps: int, phases: Phases | None = None) -> Any:
    """The learning rate as a function of the step. Each phase warms up and stays; the rest is a run of its own."""
    import optax

    if phases:
        one = learning_rate_schedule(dataclasses.replace(recipe, decay="constant"), phases.steps)
        ends = [phases.steps * (i + 1) for i in range(phases.count)]
        return optax.join_schedules([one] * phases.count + [learning_rate_schedule(recipe, steps - ends[-1])], ends)
    warmup = round(recipe.warmup * steps)
    left = max(1, steps - warmup)
    after = {
        "linear": optax.linear_schedule(recipe.learning_rate, 0.0, left),
        "cosine": optax.cosine_decay_schedule(recipe.learning_rate, left),
        "constant": optax.constant_schedule(recipe.learning_rate),
    }[recipe.decay]
    if warmup == 0:
        return after
    # The first step already learns something: step k of the warm-up has rate (k + 1) / warm-up.
    rise = optax.linear_schedule(recipe.learning_rate / warmup, recipe.learning_rate, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def build_optimiser(recipe: Optimiser, steps: int, trained: dict, phases: Phases | None = None) -> Any:
    """The optax transformation for a tree `{"params": ..., "extra": ...}`."""
    import optax

    from bertjax.params import assign, map_with_path

    rates = assign(recipe.lr_multipliers, trained, 1.0)
    multipliers = map_with_path(lambda path, _: rates[path], trained)
    decays = map_with_path(lambda path, _: not path.endswith(("/bias", "/scale", "_bias")), trained)
    moments = optax.scale_by_adam(b1=recipe.b1, b2=recipe.b2, eps=recipe.epsilon)
    if phases:
        begins = assign(phases.first, trained, phases.count)
        labels = map_with_path(lambda path, _: f"phase_{begins[path]}", trained)
        numbers = {f"phase_{first}": first for first in sorted(set(begins.values()))}
        # Moments of their own, which count from their own start: corrected by the number of all steps, those of a
        # layer that begins late would make its first updates three times as large.
        moments = optax.partition({n: begin_at(moments, phases.steps * i) for n, i in numbers.items()}, labels)
    rule = optax.chain(
        moments,
        optax.add_decayed_weights(recipe.weight_decay, decays),
        *([optax.masked(optax.scale_by_trust_ratio(), decays)] if recipe.rule == "lamb" else []),
        optax.scale_by_learning_rate(learning_rate_schedule(recipe, steps, phases)),
    )
    chain = [clip_by_global_norm(recipe.clip), rule]
    if recipe.lr_multipliers:
        import jax

        scale = optax.stateless(lambda updates, _: jax.tree.map(lambda u, m: u * m, updates, multipliers))
        chain.append(scale)
    if phases:
        shares: dict[Hashable, Any] = {n: optax.scale_by_schedule(partial(phases.share, i)) for n, i in numbers.items()}
        chain.append(optax.partition(shares, labels))
    if recipe.swa_fraction:
        chain.append(average_weights(steps - max(1, round(recipe.swa_fraction * steps))))
    return optax.chain(*chain)


def shipped_params(recipe: Optimiser, trained: dict, state: Any) -> dict:
    """What the training comes to: the last weights, or their average, which is in the optimiser's state."""
    import optax

    return optax.tree.get(state, "mean") if recipe.swa_fraction else trained


class Average(NamedTuple):
    """The mean of the weights after each of the last steps."""

    count: Any
    mean: Any


def average_weights(first: int) -> Any:
    """Averages the weights that the steps from `first` on leave, and changes no update; to be the last of a chain.

    Late steps walk around a minimum more than towards it, so the mean of where they were lies closer to its middle,
    and differs less from seed to seed (Izmailov et al. 2018). It costs one more copy of the weights.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def init(params: Any) -> Average:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Average]:
        share = 1 / jnp.maximum(state.count - first + 1, 1)  # before `first`, the mean is of the last weights alone
        mean = jax.tree.map(lambda m, p, u: (m + (p + u - m) * share).astype(m.dtype), state.mean, params, updates)
        return updates, Average(state.count + 1, mean)

    return optax.GradientTransformation(init, update)


def begin_at(transform: Any, first: int) -> Any:
    """The transformation from a step on; before it, updates of 0 and a state that stays as it is."""
    import optax

    def begun(step: Any, **_: Any) -> Any:
        return step >= first

    return optax.conditionally_mask(transform, begun)


def clip_by_global_norm(limit: float) -> Any:
    """Scales the gradient down to a global norm of at most `limit` (Pascanu et al. 2013).

    optax's own chooses between two arrays for every parameter, which XLA writes and reads once more; a factor becomes
    part of the update.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def clipped(updates: Any, _: Any) -> Any:
        factor = limit / jnp.maximum(optax.tree.norm(updates), limit)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)

    return optax.stateless(clipped)
