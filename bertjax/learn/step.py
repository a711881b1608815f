"""One training step, built from an objective and an optimiser, compiled once per batch shape.

An objective is a plain function `(params, extra, state, batch, step, key) -> (terms, new_state)`: the only place that
calls the model. Each of its terms is a sum and a weight, and the weight depends on the batch alone. The step therefore
sums all weights over the global batch first and then accumulates one gradient of `sum of factor * S / W`: the update is
the same for 1 and 4 micro-batches and for 1 and 8 devices, however unevenly the real rows are distributed over them.

A step whose loss or gradient is not finite changes nothing, and neither does any step after it. This is decided inside
the compiled step, so the host may read the flag some steps late and still has the last good state.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from bertjax.params import Tree

Batch = Mapping[str, Array]


class Term(NamedTuple):
    """One term of an objective: `factor * total / weight`, where totals and weights are summed over the whole batch."""

    total: Array
    weight: Array
    factor: float | Array = 1.0


Objective = Callable[[Tree, Tree, Tree, Batch, Array, Array], tuple[dict[str, Term], Tree]]


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
        keys = jax.random.split(jax.random.fold_in(key, train.step), micro_batches)

        def terms_of(trained: Tree, state: Tree, part: Batch, key: Array) -> tuple[dict[str, Term], Tree]:
            return objective(trained["params"], trained["extra"], state, {**part, **constants}, train.step, key)

        gradient, terms, state = accumulate(terms_of, trained, train.state, split(batch, micro_batches), keys)
        loss = sum(terms.values(), start=jnp.zeros((), jnp.float32))
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        bad_step = jnp.where((train.bad_step < 0) & ~finite, train.step, train.bad_step)

        def updated(old: TrainState) -> TrainState:
            updates, opt = optimiser.update(gradient, old.opt, {"params": old.params, "extra": old.extra})
            new: Any = optax.apply_updates({"params": old.params, "extra": old.extra}, updates)
            return TrainState(old.step + 1, bad_step, new["params"], new["extra"], state, opt)

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
    terms_of: Callable, trained: Tree, state: Tree, parts: Batch, keys: Array
) -> tuple[Tree, dict[str, Array], Tree]:
    """Gradient and terms (factor * total / weight) of the whole batch, and the new state; one micro-batch at a time."""

    def weights_of(part: Batch, key: Array) -> dict[str, Array]:
        terms, _ = terms_of(trained, state, part, key)
        return {name: jnp.asarray(term.weight, jnp.float32) for name, term in terms.items()}

    def loss(
        trained: Tree, state: Tree, part: Batch, key: Array, weights: dict[str, Array] | None
    ) -> tuple[Array, Any]:
        terms, state = terms_of(trained, state, part, key)
        whole = weights or {name: term.weight for name, term in terms.items()}
        values = {n: term.factor * term.total / jnp.maximum(whole[n], 1e-9) for n, term in terms.items()}
        total = sum(values.values(), start=jnp.zeros((), jnp.float32))
        # Make the backward pass depend on the total loss; otherwise XLA may postpone some terms and keep teacher
        # activations alive (bertjax.distill.at_once). A NaN loss then gives a NaN gradient.
        known = jnp.where(jnp.isfinite(jax.lax.stop_gradient(total)), 1.0, jnp.nan)
        return total * known, (values, state)

    gradient_of = jax.grad(loss, has_aux=True)
    first = jax.tree.map(lambda x: x[0], parts)
    if len(keys) == 1:
        gradient, (values, state) = gradient_of(trained, state, first, keys[0], None)
        return gradient, values, state
    # Weights depend on the batch alone, so XLA drops the model from this pass.
    weights = jax.tree.map(lambda x: x.sum(0), jax.lax.map(lambda pair: weights_of(*pair), (parts, keys)))

    def body(carry: tuple, part_and_key: tuple) -> tuple[tuple, None]:
        gradient, values, state = carry
        more_gradient, (more_values, state) = gradient_of(trained, state, *part_and_key, weights)
        gradient, values = jax.tree.map(jnp.add, (gradient, values), (more_gradient, more_values))
        return (gradient, values, state), None

    zeros = jax.tree.map(jnp.zeros_like, (trained, weights))
    return jax.lax.scan(body, (*zeros, state), (parts, keys))[0]
