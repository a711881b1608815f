"""The training step: one update, whatever the batch is cut into and wherever it runs."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.engine.sharding import build_mesh, gathered, put_batch, state_shardings
from bertjax.learn.losses import classification
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.model import BertConfig, build
from bertjax.recipes.sharding import Sharding
from tests.tolerances import SAME_MATHS

KEY = jax.random.key(0)
CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=64,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    labels=("a", "b", "c"),
)
MODEL = build(CONFIG)


@cache
def params() -> Any:
    return jax.jit(MODEL.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]


def batch(rows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of uneven length, the last two of them filler."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 13, rows)
    mask = (np.arange(12) < lengths[:, None]).astype(np.int32)
    weights = np.ones(rows, np.float32)
    weights[-2:] = 0
    return {
        "input_ids": rng.integers(1, 64, (rows, 12)).astype(np.int32) * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
        "labels": rng.integers(0, 3, rows).astype(np.int32),
        "weights": weights,
    }


def terms(params, extra, state, batch, update, key):
    """Two terms whose weights differ: rows, and real pieces."""
    inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    output: Any = MODEL.apply({"params": params}, *inputs)
    real = batch["attention_mask"] * batch["weights"][:, None]
    energy = jnp.sum(jnp.square(output.hidden_states[-1]).mean(-1) * real)
    return {"task": Term(*classification(output.logits, batch)), "energy": Term(energy, real.sum(), 0.3)}, {}


OBJECTIVE = Objective(terms)


def one_update(tx, given: dict, micro_batches: int = 1) -> tuple:
    step = jax.jit(make_step(OBJECTIVE, tx, KEY, micro_batches))
    return step(init_state(params(), {}, {}, tx), given, {})


@pytest.mark.slow
def test_the_step_equals_a_plain_optax_loop():
    # Plain descent: Adam would divide rounding by rounding where a gradient is 0.
    tx, given = optax.sgd(0.1), jax.tree.map(jnp.asarray, batch())
    state, metrics = one_update(tx, given)

    def loss(trained):
        found, _ = terms(trained["params"], {}, {}, given, 0, KEY)
        return sum(t.factor * t.total / t.weight for t in found.values())

    trained = {"params": params(), "extra": {}}
    value, gradient = jax.jit(jax.value_and_grad(loss))(trained)
    updates, _ = tx.update(gradient, tx.init(trained), trained)
    expected: Any = optax.apply_updates(trained, updates)
    np.testing.assert_allclose(metrics["loss"], value, **SAME_MATHS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), state.params, expected["params"])


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_uneven_micro_batches_give_the_same_update(micro_batches: int):
    # Filler rows and lengths are spread unevenly, so a mean of means would differ.
    tx = optax.sgd(0.1)
    whole, whole_metrics = one_update(tx, batch())
    parts, part_metrics = one_update(tx, batch(), micro_batches)
    np.testing.assert_allclose(part_metrics["loss"], whole_metrics["loss"], **SAME_MATHS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts.params, whole.params)


@pytest.mark.slow
def test_a_mean_of_means_would_be_noticed():
    given = batch()
    _, whole = one_update(optax.sgd(0.1), given)
    halves = [one_update(optax.sgd(0.1), {k: v[i : i + 4] for k, v in given.items()})[1]["loss"] for i in (0, 4)]
    assert abs(np.mean(halves) - float(whole["loss"])) > 1e-4


@pytest.mark.slow
def test_garbage_in_filler_rows_changes_nothing():
    tx, given = optax.sgd(0.1), batch()
    spoiled = {name: array.copy() for name, array in given.items()}
    spoiled["input_ids"][-2:] = 63
    spoiled["labels"][-2:] = 2
    clean, _ = one_update(tx, given)
    other, _ = one_update(tx, spoiled)
    jax.tree.map(np.testing.assert_array_equal, clean.params, other.params)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "parameters"), [(1, 1), (2, 1), (8, 1), (1, 2), (1, 8), (2, 4)])
def test_devices_give_the_same_losses_over_twenty_steps(data: int, parameters: int):
    losses = losses_on(Sharding(data, parameters), steps=20)
    np.testing.assert_allclose(losses, losses_on(Sharding(1, 1), steps=20), rtol=1e-5, atol=1e-5)
    assert losses[-1] < losses[0]


def losses_on(sharding: Sharding, steps: int) -> list[float]:
    tx, mesh = optax.adamw(3e-3), build_mesh(sharding)
    start = lambda p: init_state(p, {}, {}, tx)  # noqa: E731
    shardings = state_shardings(jax.eval_shape(start, params()), mesh)
    state = jax.jit(start, out_shardings=shardings)(params())
    step = jax.jit(make_step(gathered(OBJECTIVE, mesh), tx, KEY), donate_argnums=0, out_shardings=(shardings, None))
    losses = []
    for i in range(steps):
        state, metrics = step(state, put_batch(batch(16, seed=i), mesh), {})
        losses.append(float(metrics["loss"]))
    return losses


def test_parameter_sharding_divides_parameters_and_moments():
    tx, mesh = optax.adamw(1e-3), build_mesh(Sharding(1, 8))
    start = lambda p: init_state(p, {}, {}, tx)  # noqa: E731
    shapes = jax.eval_shape(start, params())
    state = jax.jit(start, out_shardings=state_shardings(shapes, mesh))(params())
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    total = sum(leaf.size for leaf in jax.tree.leaves(state))
    large = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.size >= 1024)
    assert held == total - large + large // 8


def test_a_step_that_is_not_finite_changes_nothing_and_names_itself():
    def breaks_at_two(params, extra, state, batch, update, key):
        loss = jnp.sum(jnp.square(params["w"])) * jnp.where(update.step == 2, jnp.nan, 1.0)
        return {"only": Term(loss, jnp.ones(()))}, {}

    def counts(update, params, extra, state, constants):
        return {"seen": state["seen"] + 1}

    tx = optax.adam(0.1)
    step = jax.jit(make_step(Objective(breaks_at_two, counts), tx, KEY))
    states = [init_state({"w": jnp.ones(3)}, {}, {"seen": jnp.zeros(())}, tx)]
    for _ in range(5):
        states.append(step(states[-1], {"x": np.zeros((2, 1), np.float32)}, {})[0])
    good = states[2]
    assert int(good.bad_step) == -1
    for later in states[3:]:
        assert int(later.bad_step) == 2
        jax.tree.map(np.testing.assert_array_equal, later._replace(bad_step=good.bad_step), good)


def test_constants_reach_the_objective_whole():
    def looks(params, extra, state, batch, update, key):
        assert batch["teacher"]["w"].shape == (5,)
        return {"only": Term(jnp.sum(params["w"] * batch["teacher"]["w"]), jnp.ones(()))}, {}

    tx = optax.sgd(1.0)
    step = jax.jit(make_step(Objective(looks), tx, KEY, micro_batches=2))
    constants = {"teacher": {"w": jnp.arange(5.0)}}
    state, metrics = step(init_state({"w": jnp.ones(5)}, {}, {}, tx), {"x": np.zeros((4, 1), np.float32)}, constants)
    np.testing.assert_allclose(metrics["loss"], 10.0)
    np.testing.assert_allclose(state.params["w"], 1 - np.arange(5.0))
