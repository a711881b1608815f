"""Learned structure: hard-concrete gates against Monte Carlo, sizes against counting, removal against gating."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.learn.transform import Update
from bertjax.model import build
from bertjax.params import flatten, unflatten
from bertjax.prune import CoFi
from bertjax.prune.hard_concrete import decide, draw, kept_probability
from bertjax.quantize.transforms import FakeQuantize
from bertjax.quantized.formats import Format
from tests.learn.test_composition import STEPS, WEIGHTS, learning, models, shipped, trained
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.prune.test_surgery import CLOSE, MODELS

HALF = CoFi(sparsity=0.5, warmup=0.0, end=0.5, gate_learning_rate=1.0)


def test_the_probability_that_a_gate_is_not_0_is_the_fraction_of_draws():
    logits = jnp.linspace(-4, 4, 9)
    draws = jax.vmap(draw, (0, None))(jax.random.split(jax.random.key(0), 20_000), logits)
    np.testing.assert_allclose((draws > 0).mean(0), kept_probability(logits), atol=0.015)
    assert ((draws == 0).any(0) & (draws == 1).any(0)).all()
    assert not np.isnan(draws).any()


def test_a_gates_mean_has_the_gradient_that_finite_differences_find():
    key = jax.random.split(jax.random.key(1), 50_000)

    def mean(logit: Any) -> Any:
        draws: Any = jax.vmap(draw, (0, None))(key, jnp.asarray(logit))
        return draws.mean()

    for logit in (-1.0, 0.5, 2.0):
        found = jax.grad(mean)(jnp.float32(logit))
        np.testing.assert_allclose(found, (mean(logit + 0.05) - mean(logit - 0.05)) / 0.1, rtol=0.05)


def test_as_many_gates_stay_as_the_mean_says_and_ties_go_to_the_first():
    logits = np.array([0.3, -2.0, 0.3, 4.0, -4.6, 0.3], np.float32)
    count = round(float(1 / (1 + np.exp(-(logits - 2 / 3 * np.log(0.1 / 1.1)))) @ np.ones(6)))
    expected = np.zeros(6, bool)
    expected[np.lexsort((np.arange(6), -logits))[:count]] = True
    np.testing.assert_array_equal(decide(jnp.asarray(logits)), expected)


def random_gates(config: Any, seed: int) -> tuple[Any, Any]:
    """The trees of a CoFi with random logits, and with gates decided at random."""
    rng = np.random.default_rng(seed)
    extra, state = CoFi(sparsity=0.5).init(jax.random.key(0), config, {})
    logits = {
        path: jnp.asarray(rng.normal(0, 2, leaf.shape), jnp.float32) for path, leaf in flatten(extra["logits"]).items()
    }
    kept = {path: rng.integers(0, 2, leaf.shape) for path, leaf in flatten(state).items()}
    kept["columns"][:2] = 1
    kept = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in kept.items()}
    return {**extra, "logits": unflatten(logits)}, unflatten(kept)


@pytest.mark.filterwarnings("ignore:CoFi")  # drawn gates meet no target
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_removed_equals_gated_for_every_kind_of_part(name: str, seed: int):
    model, params = tiny(**MODELS[name])
    extra, state = random_gates(model.config, seed)
    whole = CoFi(sparsity=0.5)
    update = Update(jnp.int32(9), jax.random.key(0), 10, model.config)
    _, forward = whole.apply(update, params, extra, state)
    gated = apply(model, params, tiny_batch(), gates=forward.gates, columns=forward.columns)
    config, cut = whole.finish(model.config, params, extra, state)
    config, cut = whole.removal(config, cut, extra, state)(config, cut)
    ours = apply(build(config), cut, tiny_batch())
    np.testing.assert_allclose(ours.logits, gated.logits, **CLOSE)
    assert config.hidden_size == int(flatten(state)["columns"].sum())


def test_the_expected_size_is_the_mean_of_counted_sizes():
    """Of 4,000 draws: the weights that a mask keeps, counted matrix by matrix."""
    config = TINY
    extra, _ = random_gates(config, 3)
    part = CoFi(sparsity=0.5)
    logits = flatten(extra["logits"])
    keys = jax.random.split(jax.random.key(5), 4000)
    draws = {
        path: np.asarray(jax.vmap(draw, (0, None))(jax.vmap(jax.random.fold_in, (0, None))(keys, number), leaf)) > 0
        for number, (path, leaf) in enumerate(logits.items())
    }
    weights, whole = 0.0, 0
    for layer in range(2):
        heads = draws[f"heads/layer_{layer}"] & draws[f"attention/layer_{layer}"]
        neurons = draws[f"neurons/layer_{layer}"] & draws[f"ffn/layer_{layer}"]
        weights = weights + 4 * 4 * heads.sum(1) * draws["columns"].sum(1)
        weights = weights + 2 * neurons.sum(1) * draws["columns"].sum(1)
        whole += 4 * 12 * 12 + 2 * 12 * 10
    np.testing.assert_allclose(part.remaining(config, extra["logits"]), np.mean(weights) / whole, rtol=0.02)


def test_the_multipliers_ascend_and_drive_the_size_to_its_target():
    """Gradient descent on the Lagrangian alone."""
    part, config = CoFi(sparsity=0.6, warmup=0.2, end=1.0), TINY
    extra, state = part.init(jax.random.key(0), config, tiny()[1])

    @jax.jit
    def step(extra: Any, number: Any) -> Any:
        update = Update(number, jax.random.key(0), 4000, config)
        gradient = jax.grad(lambda e: part.penalties(update, {}, e, state)["lagrangian"])(extra)
        return part.project(jax.tree.map(lambda x, g: x - 0.3 * g, extra, gradient), state)

    for number in range(3000):
        extra = step(extra, jnp.int32(number))
    np.testing.assert_allclose(1 - part.remaining(config, extra["logits"]), 0.6, atol=0.03)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CoFi")  # six steps meet no target
@pytest.mark.parametrize("learned", [True, False], ids=["learned scales", "ranges"])
def test_gates_rounding_and_distillation_in_one_step_ship_what_was_trained(learned: bool):
    """The model that ships, with the scales of columns that are left, computes what the gated one did."""
    rounding = FakeQuantize(WEIGHTS, activations="token", learned=learned).fit(models()[0], [])
    what = learning((HALF, rounding))
    state = trained(what)
    config, params = shipped(what, state)
    decided = flatten(state.state["transforms"]["0_CoFi"])
    assert config.hidden_size == int(decided["columns"].sum()) < 12
    for number, step in enumerate(config.depth_steps()):
        heads = decided[f"heads/layer_{number}"].sum() * decided[f"attention/layer_{number}"][0]
        neurons = decided[f"neurons/layer_{number}"].sum() * decided[f"ffn/layer_{number}"][0]
        assert step.shape == (heads, neurons)
    update, student = Update(jnp.int32(STEPS), jax.random.key(0), STEPS, models()[0].config), models()[0].model
    extra = jax.tree.map(jnp.asarray, state.extra["transforms"])
    gated, gates = HALF.apply(update, state.params, extra["0_CoFi"], state.state["transforms"]["0_CoFi"])
    rounded, products = rounding.apply(update, gated, extra.get("1_FakeQuantize", {}), {})
    student = student.clone(product=products.product)
    expected = run(student, rounded, tiny_batch(), gates=gates.gates, columns=gates.columns)
    np.testing.assert_allclose(apply(build(config), params, tiny_batch()).logits, expected.logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("micro_batches", "devices"), [(4, 1), (1, 8)])
def test_micro_batches_and_devices_draw_the_same_gates(micro_batches: int, devices: int):
    whole, parts = trained(learning((HALF,)), 4), trained(learning((HALF,)), 4, micro_batches, devices)
    jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)
    for path, leaf in flatten(whole.extra["transforms"]).items():
        np.testing.assert_allclose(flatten(parts.extra["transforms"])[path], leaf, rtol=1e-3, atol=1e-3)


def test_a_target_that_was_missed_is_named():
    extra, state = random_gates(TINY, 0)
    with pytest.warns(UserWarning, match=r"CoFi: \d+% of the weights are removed, 50% was asked"):
        CoFi(sparsity=0.5).finish(TINY, tiny()[1], extra, jax.tree.map(jnp.ones_like, state))


def test_what_makes_no_sense_is_refused():
    cases: Any = (
        ({}, "give one of the three"),
        ({"sparsity": 0.5, "speedup": 2.0}, "give one of the three"),
        ({"sparsity": 1.0}, "from 0 to below 1"),
        ({"speedup": 2.0}, "the file of a table of measured times"),
        ({"sparsity": 0.5, "end": 0.1}, "expected 0 <= warmup <= end <= 1"),
        ({"sparsity": 0.5, "parts": ()}, "expected one or more of heads, attention"),
        ({"speedup": 2.0, "table": "x.json"}, "leave 'columns' out"),
        ({"sparsity": 0.5, "table": "x.json"}, "is for speedup"),
        ({"sparsity": 0.5, "warmup": 0.0, "end": 0.0}, "end above 0"),
    )
    for options, reason in cases:
        with pytest.raises(UserError, match=reason):
            CoFi(**options)
    with pytest.raises(UserError, match=r"95% removed was asked, and with all gates closed it is 70%"):
        CoFi(sparsity=0.95, parts=("heads", "attention")).init(jax.random.key(0), TINY, tiny()[1])
    blocks = ((r"^encoder/.*kernel$", Format(8, "symmetric", block_rows=2)), (".*", None))
    with pytest.raises(UserError, match="removes rows or columns of encoder/layer_0/attention"):
        learning((HALF, FakeQuantize(blocks, activations="token")))
    model, params = tiny(architecture="BertForMaskedLM")
    with pytest.raises(UserError, match="a head that predicts words"):
        CoFi(sparsity=0.5).init(jax.random.key(0), model.config, params)
