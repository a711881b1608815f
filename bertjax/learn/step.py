"""One training step, built from an objective and an optimiser, compiled once per batch shape.

An objective gives the terms of a batch: the only place that calls the model. Each term is a sum and a weight, and the
weight depends on the batch alone. The step therefore sums all weights over the global batch first and then accumulates
one gradient of `sum of factor * S / W`: the update is the same for 1 and 4 micro-batches and for 1 and 8 devices,
however unevenly the real rows are distributed over them. The state of transforms advances once per update.

A step whose loss or gradient is not finite changes nothing, and neither does any step after it. This is decided inside
the compiled step, so the host may read the flag some steps late and still has the last good state.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.learn.transform import Update
from bertjax.params import Tree, map_with_path, replaced

Batch = Mapping[str, Array]
UPDATE = 0x7570_6474
"""Folded into the key of a step, this gives the key of its update; dropout takes those from 0 on."""


class Term(NamedTuple):
    """One term of an objective: `factor * total / weight`, where totals and weights are summed over the whole batch."""

    total: Array
    weight: Array
    factor: float | Array = 1.0


def same_state(update: Update, params: Tree, extra: Tree, state: Tree, constants: Tree) -> Tree:
    return state


def all_move(update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
    return {}


def unchanged(extra: Tree, state: Tree) -> Tree:
    return extra


class Objective(NamedTuple):
    """The functions of a step. Only `terms` is required."""

    terms: Callable[[Tree, Tree, Tree, Batch, Update, Array], tuple[dict[str, Term], Tree]]
    """`(params, extra, state, batch, update, key) -> (terms, observed)`; the batch also holds the constants of the run,
    and the key is that of the micro-batch, for dropout. `observed` is the part of the state that holds sums over the
    batch; the step adds them up over all micro-batches."""
    advance: Callable[[Update, Tree, Tree, Tree, Tree], Tree] = same_state
    """`(update, params, extra, state, constants) -> state`, once per update and before the gradient."""
    still: Callable[[Update, Tree, Tree, Tree], dict[str, Array]] = all_move
    """`(update, params, extra, state) -> {path: boolean}`: what does not move in this update. The optimiser gets it as
    the argument `still`."""
    project: Callable[[Tree, Tree], Tree] = unchanged
    """`(extra, state) -> extra`, after the update."""


class TrainState(NamedTuple):
    """Everything that training changes: `params` are trained and ship, `extra` is trained and does not ship, `state` is
    not differentiated, `opt` is the state of the optimiser."""

    step: Array
    bad_step: Array
    """The first step whose loss or gradient was not finite, or -1. From then on the state does not change."""
    params: Tree
    extra: Tree
    state: Tree
    opt: Any


def init_state(params: Tree, extra: Tree, state: Tree, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    trained = {"params": params, "extra": extra}
    step, bad_step = jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
    return TrainState(step, bad_step, params, extra, state, optimiser.init(trained))


def make_step(
    objective: Objective, optimiser: optax.GradientTransformation, key: Array, micro_batches: int = 1
) -> Callable[[TrainState, Batch, Tree], tuple[TrainState, dict[str, Array]]]:
    """The step function, to be jitted with its state donated. The key of a step is `fold_in(key, step)`.

    Its third argument holds arrays that are the same for all steps and rows (the parameters of a teacher); they are
    merged into the batch of the objective. In a closure they would be constants of the program: 90 MB of them take 15 s
    to compile.
    """

    def step(train: TrainState, batch: Batch, constants: Tree) -> tuple[TrainState, dict[str, Array]]:
        trained = {"params": train.params, "extra": train.extra}
        step_key = jax.random.fold_in(key, train.step)
        update = Update(train.step, jax.random.fold_in(step_key, UPDATE))
        keys = jax.random.split(step_key, micro_batches)
        state = objective.advance(update, *jax.lax.stop_gradient((train.params, train.extra)), train.state, constants)

        def terms_of(trained: Tree, part: Batch, key: Array) -> tuple[dict[str, Term], Tree]:
            return objective.terms(trained["params"], trained["extra"], state, {**part, **constants}, update, key)

        gradient, (terms, observed) = accumulate(terms_of, trained, split(batch, micro_batches), keys)
        still = objective.still(update, train.params, train.extra, state)
        gradient["params"] = map_with_path(
            lambda p, g: jnp.where(still[p], 0.0, g) if p in still else g, gradient["params"]
        )
        loss = sum(terms.values(), start=jnp.zeros((), jnp.float32))
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        bad_step = jnp.where((train.bad_step < 0) & ~finite, train.step, train.bad_step)

        def updated(old: TrainState) -> TrainState:
            before = {"params": old.params, "extra": old.extra}
            updates, opt = optax.with_extra_args_support(optimiser).update(gradient, old.opt, before, still=still)
            new: Any = optax.apply_updates(before, updates)
            extra = objective.project(new["extra"], state)
            return TrainState(old.step + 1, bad_step, new["params"], extra, replaced(state, observed), opt)

        # `cond` and not `where` per array: XLA then updates in place instead of copying the optimiser's state.
        train = jax.lax.cond(bad_step < 0, updated, lambda old: old._replace(bad_step=bad_step), train)
        metrics = {"loss": loss, **{f"loss/{name}": term for name, term in terms.items()}, "gradient_norm": norm}
        return train, metrics | {"bad_step": bad_step}

    return step


def split(batch: Batch, parts: int) -> Batch:
    """The batch as `parts` micro-batches on a new first axis. Each takes every n-th row, so that no row moves to
    another device."""
    return {name: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}


def accumulate(
    terms_of: Callable[[Tree, Batch, Array], tuple[dict[str, Term], Tree]], trained: Tree, parts: Batch, keys: Array
) -> tuple[Tree, tuple[dict[str, Array], Tree]]:
    """Gradient, terms (factor * total / weight) and observed sums of the whole batch; one micro-batch at a time."""

    def weights_of(part: Batch, key: Array) -> dict[str, Array]:
        return {name: jnp.asarray(term.weight, jnp.float32) for name, term in terms_of(trained, part, key)[0].items()}

    def loss(trained: Tree, part: Batch, key: Array, weights: dict[str, Array] | None) -> tuple[Array, Any]:
        terms, observed = terms_of(trained, part, key)
        whole = weights or {name: term.weight for name, term in terms.items()}
        values = {n: term.factor * term.total / jnp.maximum(whole[n], 1e-9) for n, term in terms.items()}
        total = sum(values.values(), start=jnp.zeros((), jnp.float32))
        # Make the backward pass depend on the total loss; otherwise XLA may postpone some terms and keep teacher
        # activations alive (bertjax.distill.at_once). A NaN loss then gives a NaN gradient.
        known = jnp.where(jnp.isfinite(jax.lax.stop_gradient(total)), 1.0, jnp.nan)
        return total * known, (values, observed)

    gradient_of = jax.grad(loss, has_aux=True)
    first = jax.tree.map(lambda x: x[0], parts)
    if len(keys) == 1:
        return gradient_of(trained, first, keys[0], None)
    # Weights depend on the batch alone, so XLA drops the model from this pass.
    weights = jax.tree.map(lambda x: x.sum(0), jax.lax.map(lambda pair: weights_of(*pair), (parts, keys)))

    def body(carry: Tree, part_and_key: tuple) -> tuple[Tree, Any]:
        more, found = gradient_of(trained, *part_and_key, weights)
        return jax.tree.map(jnp.add, carry, more), found

    gradient, found = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, trained), (parts, keys))
    return gradient, jax.tree.map(lambda x: x.sum(0), found)
