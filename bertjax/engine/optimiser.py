"""AdamW or LAMB with warm-up, learning-rate decay, and rules for the learning rate and weight decay of each parameter.

Rules are ordered `(regex, multiplier)` pairs over `params/...` and `extra/...`; the first match wins. A learning-rate
multiplier of 0 freezes a parameter, weight decay included. Without a rule biases and LayerNorm scales do not decay, as
in BERT, and neither does `extra`: its step sizes, thresholds and projections have no reason to be near 0.

LAMB is for batches of thousands: AdamW whose update of each array is scaled to that array's norm. As in ALBERT's code,
arrays without decay are not scaled either: a bias starts at 0, and an update of its own norm would keep it there.
Unlike that code, and like the paper, the moments are bias-corrected.
"""

import dataclasses
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.learn.phases import Phases
from bertjax.params import Tree, assign, map_with_path
from bertjax.recipes.optimiser import Optimiser

Schedule = Callable[[Any], Any]
"""From a step to a number; the types of optax admit complex ones."""


def learning_rate_schedule(recipe: Optimiser, steps: int, phases: Phases | None = None) -> Schedule:
    """The learning rate as a function of the step. Each phase warms up and then stays constant; the steps after the
    phases have a complete schedule of their own."""
    if phases:
        one = learning_rate_schedule(dataclasses.replace(recipe, decay="constant"), phases.steps)
        ends = [phases.steps * (i + 1) for i in range(phases.count)]
        return optax.join_schedules([one] * phases.count + [learning_rate_schedule(recipe, steps - ends[-1])], ends)
    warmup = round(recipe.warmup * steps)
    rest = max(1, steps - warmup)
    after = {
        "linear": optax.linear_schedule(recipe.learning_rate, recipe.min_lr_ratio * recipe.learning_rate, rest),
        "cosine": optax.cosine_decay_schedule(recipe.learning_rate, rest, recipe.min_lr_ratio),
        "constant": optax.constant_schedule(recipe.learning_rate),
    }[recipe.decay]
    if warmup == 0:
        return after
    # Step k of the warm-up has rate (k + 1) / warmup, so that the first step is not wasted on a rate of 0.
    rise = optax.linear_schedule(recipe.learning_rate / warmup, recipe.learning_rate, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def build_optimiser(
    recipe: Optimiser, steps: int, trained: Tree, phases: Phases | None = None, holds_still: bool = False
) -> optax.GradientTransformation:
    """The optax transformation for a tree `{"params": ..., "extra": ...}`. With `holds_still` it keeps a number of
    updates for each parameter, and its `update` takes `still`, the parameters that do not move.

    Raises:
      UserError: A rule matches no parameter.
    """
    adam = scale_by_adam_unless_still if holds_still else optax.scale_by_adam
    decays = decay_multipliers(recipe, trained)
    scaled = jax.tree.map(lambda multiplier: multiplier > 0, decays)
    chain = [
        clip_by_global_norm(recipe.clip),
        optax.chain(
            adam(b1=recipe.b1, b2=recipe.b2, eps=recipe.epsilon),
            decay_weights(recipe.weight_decay, decays),
            *([optax.masked(optax.scale_by_trust_ratio(), scaled)] if recipe.rule == "lamb" else []),
            optax.scale_by_learning_rate(learning_rate_schedule(recipe, steps, phases)),
        ),
    ]
    if recipe.lr_multipliers:
        rates = assign(recipe.lr_multipliers, trained, 1.0)
        multipliers = map_with_path(lambda path, _: rates[path], trained)
        chain.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, m: u * m, updates, multipliers)))
    if phases:
        starts = assign(phases.first, trained, phases.count)
        shares: dict[Hashable, Any] = {i: optax.scale_by_schedule(partial(phases.share, i)) for i in starts.values()}
        chain.append(optax.partition(shares, map_with_path(lambda path, _: starts[path], trained)))
    if holds_still:
        chain.append(hold_still())
    if recipe.swa_fraction:
        chain.append(average_weights(steps - max(1, round(recipe.swa_fraction * steps))))
    return optax.chain(*chain)


def with_learning_rates(recipe: Optimiser, rules: tuple[tuple[str, float], ...]) -> Optimiser:
    """The recipe with rules (regex, learning rate) as multipliers of its own rate. Of the rules that it has, only those
    that begin with `^extra/` come before them: others are meant for the model's own parameters."""
    multipliers = tuple((pattern, rate / recipe.learning_rate) for pattern, rate in rules)
    first = tuple(rule for rule in recipe.lr_multipliers if rule[0].startswith("^extra/"))
    others = tuple(rule for rule in recipe.lr_multipliers if rule not in first)
    return dataclasses.replace(recipe, lr_multipliers=(*first, *multipliers, *others))


def decay_multipliers(recipe: Optimiser, trained: Tree) -> Tree:
    """The multiplier of the weight decay for each parameter."""
    rules = assign(recipe.decay_rules, trained, None)

    def multiplier(path: str) -> float:
        if (value := rules[path]) is not None:
            return value
        return 0.0 if path.startswith("extra/") or path.endswith(("/bias", "_bias", "/scale")) else 1.0

    return map_with_path(lambda path, _: multiplier(path), trained)


def decay_weights(rate: float, multipliers: Tree) -> optax.GradientTransformation:
    """Decoupled weight decay (Loshchilov & Hutter 2019): adds `rate * multiplier * parameter` to each update."""

    def decayed(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, p, m: u + rate * m * p if m else u, updates, params, multipliers)

    return optax.stateless(decayed)


def shipped_params(recipe: Optimiser, trained: Tree, state: Any) -> Tree:
    """The result of a training: the last weights, or their average, which is in the optimiser's state."""
    return optax.tree.get(state, "mean") if recipe.swa_fraction else trained


class Average(NamedTuple):
    """The mean of the weights after each of the last steps."""

    count: jax.Array
    mean: Tree


def average_weights(first: int) -> optax.GradientTransformation:
    """Averages the weights after each step from `first` on, and changes no update; must be the last of a chain.

    Late steps move around a minimum more than towards it, so the mean of the weights is closer to its centre and
    differs less from seed to seed (Izmailov et al. 2018). It costs one more copy of the weights.
    """

    def init(params: Any) -> Average:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Average, params: Any = None) -> tuple[Any, Average]:
        share = 1 / jnp.maximum(state.count - first + 1, 1)  # before `first`, the mean is a copy of the last weights
        mean = jax.tree.map(lambda m, p, u: (m + (p + u - m) * share).astype(m.dtype), state.mean, params, updates)
        return updates, Average(state.count + 1, mean)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


class AdamState(NamedTuple):
    """The moments of Adam, and how often each parameter moved."""

    count: Tree
    mu: Tree
    nu: Tree


def is_still(still: Any, path: str) -> Any:
    """Whether the parameter at a path of {"params": ..., "extra": ...} does not move in this update."""
    return still.get(path.removeprefix("params/"), False)


def scale_by_adam_unless_still(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Adam (Kingma & Ba 2015) in which moments and bias correction of a parameter skip the updates in which it does not
    move, as in PyTorch where a parameter has no gradient."""

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params), zeros, zeros)

    def update(updates: Any, state: AdamState, params: Any = None, *, still: Any, **_: Any) -> tuple[Any, AdamState]:
        held = map_with_path(lambda path, _: jnp.asarray(is_still(still, path)), updates)
        count = jax.tree.map(lambda n, h: n + ~h, state.count, held)
        mu = jax.tree.map(lambda m, g, h: jnp.where(h, m, (1 - b1) * g + b1 * m), state.mu, updates, held)
        nu = jax.tree.map(lambda v, g, h: jnp.where(h, v, (1 - b2) * (g * g) + b2 * v), state.nu, updates, held)

        def direction(m: Any, v: Any, n: Any) -> Any:
            n = jnp.maximum(n, 1)
            return m / (1 - b1**n) / (jnp.sqrt(v / (1 - b2**n)) + eps)

        return jax.tree.map(direction, mu, nu, count), AdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def hold_still() -> optax.GradientTransformationExtraArgs:
    """No update, decay included, for parameters that do not move."""

    def update(updates: Any, state: Any, params: Any = None, *, still: Any, **_: Any) -> tuple[Any, Any]:
        return map_with_path(lambda path, u: jnp.where(is_still(still, path), 0.0, u), updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)  # type: ignore[arg-type]


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales the gradient down to a global norm of at most `limit` (Pascanu et al. 2013).

    optax.clip_by_global_norm selects between two arrays for every parameter, which XLA writes and reads once more; a
    factor is fused into the update.
    """

    def clipped(updates: Any, _: Any) -> Any:
        factor = limit / jnp.maximum(optax.tree.norm(updates), limit)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)

    return optax.stateless(clipped)
