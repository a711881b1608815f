"""LayerDrop against the plain model, a hand-built shallower one, and torch's optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from bertjax.engine.optimiser import build_optimiser
from bertjax.errors import UserError
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.learn.transform import Update
from bertjax.model import build
from bertjax.params import flatten
from bertjax.prune import LayerDrop, keep_layers
from bertjax.prune.layerdrop import layers_of
from bertjax.recipes.optimiser import Optimiser
from tests.model.tiny import apply, tiny, tiny_batch

DEPTH = 4


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny(num_hidden_layers=DEPTH)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 2), (3,), ()])
def test_a_fixed_draw_is_a_model_of_the_layers_that_run(model: Any, kept: tuple[int, ...]):
    bert, params = model
    found = apply(bert, params, tiny_batch(), switches=jnp.array([i in kept for i in range(DEPTH)]))
    if kept:
        config, fewer = keep_layers(bert.config, params, list(kept))
        expected = apply(build(config), fewer, tiny_batch())
        states = [expected.hidden_states[0]]
        for layer in range(DEPTH):
            states.append(expected.hidden_states[kept.index(layer) + 1] if layer in kept else states[-1])
        for ours, theirs in zip(found.hidden_states, states, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found.hidden_states[-1], found.hidden_states[0])
    for layer in set(range(DEPTH)) - set(kept):
        assert not np.asarray(found.queries[layer]).any()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"remat": True}, {"num_hidden_groups": 2, "inner_group_num": 1}])
def test_it_does_so_with_rematerialisation_and_shared_layers(changes: Any):
    bert, params = tiny(num_hidden_layers=DEPTH, **changes)
    plain, all_on = (apply(bert, params, tiny_batch(), switches=s) for s in (None, jnp.ones(DEPTH, bool)))
    np.testing.assert_allclose(plain.logits, all_on.logits, rtol=1e-6, atol=1e-6)

    def loss(params: Any, switches: Any) -> Any:
        out = apply(bert, params, tiny_batch(), switches=switches)
        return jnp.sum(jnp.square(out.logits))

    gradient = jax.jit(jax.grad(loss))(params, jnp.array([True, False, True, False]))
    used = layers_of(bert.config, params)
    for path, leaf in flatten(gradient).items():
        if path in used and not {0, 2} & set(used[path]):
            assert not np.asarray(leaf).any(), path


def test_a_dropped_layer_costs_nothing(model: Any):
    """It is a branch of the program, not a selection between two results."""
    bert, params = model
    ids = jnp.ones((2, 8), jnp.int32)
    text = jax.jit(lambda p, s: bert.apply({"params": p}, ids, switches=s).logits).lower(params, jnp.ones(DEPTH, bool))
    assert text.as_text().count("stablehlo.case") == DEPTH


def test_as_many_layers_run_as_the_rate_says_and_one_draw_serves_an_update(model: Any):
    one = LayerDrop(0.3)
    draws = jax.vmap(lambda key: one.runs(Update(0, key, 1, model[0].config)))(
        jax.random.split(jax.random.key(1), 4000)
    )
    counts = np.bincount(np.asarray(draws).sum(axis=1), minlength=DEPTH + 1) / 4000
    binomial = [1 * 0.3**4, 4 * 0.7 * 0.3**3, 6 * 0.7**2 * 0.3**2, 4 * 0.7**3 * 0.3, 0.7**4]
    np.testing.assert_allclose(counts, binomial, atol=0.03)
    update = Update(0, jax.random.key(7), 1, model[0].config)
    _, forward = one.apply(update, model[1], {}, {})
    held = one.holds_still(update, model[1], {})
    for path, layers in layers_of(model[0].config, model[1]).items():
        assert bool(held[path]) == (not bool(np.asarray(forward.layers)[layers].any()))
    assert LayerDrop(0.3, still=False).holds_still(update, model[1], {}) == {}


def test_what_stays_still_is_what_torch_does_with_no_gradient():
    """AdamW on two parameters, of which the second has no gradient in some updates."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(12, 2, 5)).astype(np.float32)
    moves = rng.random(12) > 0.5
    theirs = [torch.nn.Parameter(torch.tensor(row.copy())) for row in start]
    adam = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    recipe = Optimiser(learning_rate=0.01, decay="constant", warmup=0.0, weight_decay=0.1, clip=1e9)
    first = {"a": {"kernel": start[0]}, "b": {"kernel": start[1]}}
    ours = build_optimiser(recipe, 12, {"params": first, "extra": {}}, holds_still=True)

    def terms(params: Any, extra: Any, state: Any, batch: Any, update: Any, key: Any) -> Any:
        both = jnp.stack([params["a"]["kernel"], params["b"]["kernel"]])
        return {"only": Term(jnp.sum(both * batch["gradient"][update.step]), jnp.ones(()))}, {}

    def still(update: Any, params: Any, extra: Any, state: Any) -> Any:
        return {"b/kernel": ~jnp.asarray(moves)[update.step]}

    step = jax.jit(make_step(Objective(terms, still=still), ours, jax.random.key(0)))
    state = init_state(first, {}, {}, ours)
    for number in range(12):
        for row, parameter in enumerate(theirs):
            parameter.grad = torch.tensor(gradients[number, row]) if row == 0 or moves[number] else None
        adam.step()
        state, _ = step(state, {"x": np.zeros((2, 1), np.float32)}, {"gradient": gradients})
    for name, parameter in zip("ab", theirs, strict=True):
        np.testing.assert_allclose(state.params[name]["kernel"], parameter.detach().numpy(), rtol=2e-5, atol=2e-6)
    assert not moves.all()


def test_without_anything_still_it_is_optax_adam():
    rng = np.random.default_rng(0)
    trained = {"params": {"a": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}}, "extra": {}}
    plain, own = (build_optimiser(Optimiser(), 10, trained, holds_still=held) for held in (False, True))
    states = plain.init(trained), own.init(trained)
    for _ in range(5):
        gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), trained)
        expected, one = plain.update(gradient, states[0], trained)
        found, other = optax.with_extra_args_support(own).update(gradient, states[1], trained, still={})
        states = one, other
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), found, expected)


def test_a_rate_that_leaves_no_layer_is_refused():
    with pytest.raises(UserError, match="from 0 to below 1"):
        LayerDrop(1.0)


def test_an_average_of_weights_leaves_what_stays_still_where_it_is():
    first = {"a": {"kernel": np.ones(3, np.float32)}, "b": {"kernel": np.ones(3, np.float32)}}
    recipe = Optimiser(learning_rate=0.1, decay="constant", warmup=0.0, weight_decay=0.5, swa_fraction=1.0)
    tx = build_optimiser(recipe, 4, {"params": first, "extra": {}}, holds_still=True)

    def terms(params: Any, extra: Any, state: Any, batch: Any, update: Any, key: Any) -> Any:
        return {"only": Term(jnp.sum(params["a"]["kernel"] + params["b"]["kernel"]), jnp.ones(()))}, {}

    still = lambda update, params, extra, state: {"b/kernel": jnp.asarray(True)}  # noqa: E731
    step = jax.jit(make_step(Objective(terms, still=still), tx, jax.random.key(0)))
    state = init_state(first, {}, {}, tx)
    for _ in range(4):
        state, _ = step(state, {"x": np.zeros((2, 1), np.float32)}, {})
    mean: Any = optax.tree.get(state.opt, "mean")
    np.testing.assert_array_equal(mean["params"]["b"]["kernel"], first["b"]["kernel"])
    np.testing.assert_array_equal(state.params["b"]["kernel"], first["b"]["kernel"])
    assert (np.asarray(mean["params"]["a"]["kernel"]) < 1).all()


def test_a_recurrent_model_has_no_layers_to_drop():
    from bertjax.model import Recurrence

    config = tiny()[0].config.replace(num_hidden_layers=1, recurrence=Recurrence(steps=3))
    with pytest.raises(UserError, match="a recurrent model repeats one block"):
        LayerDrop().init(jax.random.key(0), config, {})
