"""Each measure against a restatement of its own, one example and one head at a time."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import UserError
from bertjax.learn.losses import classification
from bertjax.model import LayerConfig, LayerGates
from bertjax.model.products import plain_product
from bertjax.params import flatten
from bertjax.prune.scores import activity, importance, layer_importance, magnitude, random
from bertjax.prune.select import select_top
from tests.model.tiny import run, tiny, tiny_batch

HEADS, NEURONS, WIDTH = 3, 10, 4
MODEL, PARAMS = tiny(num_hidden_layers=3)
WATCHED = type(MODEL)(MODEL.config, lambda *given: plain_product(*given))
"""The same, with a product that wants every row at once."""
SHARED = tiny(num_hidden_layers=2, layers=(LayerConfig(HEADS, NEURONS, 0, 0), LayerConfig(HEADS, NEURONS, 0, 1)))


def loss(output: Any, batch: Any) -> Any:
    return classification(output.logits, batch)


def labelled(lengths: tuple[int, ...], columns: int, seed: int) -> dict[str, Any]:
    batch = tiny_batch(lengths, columns, seed)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, len(lengths)).astype(np.int32)
    return {**batch, "labels": labels, "weights": np.ones(len(lengths), np.float32)}


BATCHES = [labelled((7, 4, 5), 7, 0), labelled((3, 6), 6, 1)]


def examples() -> list[dict[str, Any]]:
    """Every text alone, at its own length."""
    found = []
    for batch in BATCHES:
        for row in range(len(batch["labels"])):
            length = int(batch["attention_mask"][row].sum())
            found.append({n: a[row : row + 1, :length] if a.ndim > 1 else a[row : row + 1] for n, a in batch.items()})
    return found


@partial(jax.jit, static_argnames="model")
def loss_with(model: Any, params: Any, one: Any, gates: Any) -> Any:
    inputs = {name: one[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return loss(run(model, params, inputs, gates=gates), one)[0]


def slope(model: Any, params: Any, one: dict[str, Any], part: str, step: int, index: int) -> float:
    """dL/dgate by a central difference; the step is large, because the loss is smooth and float32 is not."""

    def at(value: float) -> float:
        ones = LayerGates(jnp.ones(HEADS), jnp.ones(NEURONS), jnp.ones(1))
        gates = [ones for _ in model.config.depth_steps()]
        gates[step] = ones._replace(**{part: getattr(ones, part).at[index].set(value)})
        return float(loss_with(model, params, one, gates))

    return (at(1.0 + 1e-2) - at(1.0 - 1e-2)) / 2e-2


@pytest.fixture(scope="module")
def slopes() -> np.ndarray:
    """[examples, steps, heads]"""
    return np.array(
        [[[slope(MODEL, PARAMS, one, "heads", s, h) for h in range(HEADS)] for s in range(3)] for one in examples()]
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_importance_is_the_mean_magnitude_of_each_examples_own_gradient(slopes):
    found = importance(MODEL, PARAMS, BATCHES, loss)
    expected = unit(np.abs(slopes).mean(axis=0))
    np.testing.assert_allclose(np.stack(list(found.values())), expected, rtol=0, atol=2e-3)
    cancelled = unit(np.abs(slopes.mean(axis=0)))  # what a batch's gradient would say
    assert np.abs(cancelled - expected).max() > 0.05


def wider(batch: dict[str, Any], columns: int) -> dict[str, Any]:
    """With a filler row and columns of garbage."""
    rows, length = batch["input_ids"].shape
    wide = {
        name: np.pad(array, ((0, 1), (0, columns - length))) if array.ndim > 1 else np.pad(array, (0, 1))
        for name, array in batch.items()
    }
    wide["input_ids"][wide["attention_mask"] == 0] = 41
    wide["attention_mask"][rows] = 1
    return wide


@pytest.mark.slow
@pytest.mark.parametrize("form", ["paper", "official", "transformers"])
def test_importance_knows_no_batches_and_no_padding(form: Any):
    together = importance(MODEL, PARAMS, BATCHES, loss, form=form)
    apart = [{n: a[row : row + 1] for n, a in BATCHES[0].items()} for row in range(3)]
    changed = importance(MODEL, PARAMS, [*apart, wider(BATCHES[1], 9)], loss, form=form)
    for group in together:
        np.testing.assert_allclose(changed[group], together[group], rtol=0, atol=1e-5)


def test_the_form_of_transformers_sums_up_gradients_that_are_never_set_to_zero(slopes):
    running, total = np.zeros((3, HEADS)), np.zeros((3, HEADS))
    for one in slopes:
        running += one
        total += np.abs(running)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in BATCHES)
    expected = unit(total / tokens)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    found = importance(MODEL, PARAMS, BATCHES, loss, form="transformers")
    np.testing.assert_allclose(np.stack(list(found.values())), expected, rtol=0, atol=5e-3)
    assert {0.0, 1.0} <= {float(one) for scores in found.values() for one in scores}


@pytest.mark.slow
def test_the_official_form_takes_the_magnitude_position_by_position():
    """|context . dL/dcontext| with the contexts as arguments of the loss."""
    tokens = sum(int(batch["attention_mask"].sum()) for batch in BATCHES)
    of_factors = jax.jit(jax.grad(lambda f, one: loss_with(WATCHED, PARAMS, one, [LayerGates(heads=one) for one in f])))
    total = np.zeros((3, HEADS))
    for one in examples():
        length = one["input_ids"].shape[1]
        gradients = of_factors([jnp.ones((1, length, HEADS))] * 3, one)
        total += [np.abs(gradient).sum(axis=(0, 1)) for gradient in gradients]
    counts = np.array([tokens, tokens, 5])[:, None]
    found = importance(MODEL, PARAMS, BATCHES, loss, form="official")
    np.testing.assert_allclose(np.stack(list(found.values())), unit(total / counts), rtol=0, atol=1e-5)
    paper = importance(MODEL, PARAMS, BATCHES, loss)
    assert max(np.abs(found[g] - paper[g]).max() for g in found) > 0.02


@pytest.mark.slow
def test_neurons_layers_and_shared_groups_have_importance_too():
    found = importance(MODEL, PARAMS, BATCHES[:1], loss, part="neurons")
    slopes = np.array([[slope(MODEL, PARAMS, one, "neurons", 1, n) for n in range(NEURONS)] for one in examples()[:3]])
    np.testing.assert_allclose(found[1], unit(np.abs(slopes).mean(axis=0)[None])[0], rtol=0, atol=5e-3)
    layers = layer_importance(MODEL, PARAMS, BATCHES[:1], loss)
    whole = [[slope(MODEL, PARAMS, one, "layer", s, 0) for s in range(3)] for one in examples()[:3]]
    np.testing.assert_allclose(layers, np.abs(whole).mean(axis=0), rtol=2e-2, atol=2e-4)
    shared = importance(*SHARED, BATCHES[:1], loss)
    assert sorted(shared) == [0]
    both = np.array(
        [[sum(slope(*SHARED, one, "heads", s, h) for s in range(2)) for h in range(HEADS)] for one in examples()[:3]]
    )
    np.testing.assert_allclose(shared[0], unit(np.abs(both).mean(axis=0)[None])[0], rtol=0, atol=5e-3)


def test_magnitude_of_heads_and_neurons_by_a_loop():
    flat = flatten(PARAMS)
    heads, neurons = magnitude(MODEL.config, PARAMS), magnitude(MODEL.config, PARAMS, "neurons")
    for step in range(3):
        path = f"encoder/layer_{step}"
        for head in range(HEADS):
            own = slice(head * WIDTH, (head + 1) * WIDTH)
            tokens = [flat[f"{path}/attention/{name}/kernel"][:, own] for name in ("query", "key", "value")]
            tokens.append(flat[f"{path}/attention/output/kernel"][own])
            expected = np.sqrt(sum(float((token**2).sum()) for token in tokens))
            np.testing.assert_allclose(heads[step][head], expected, rtol=1e-5)
        for neuron in range(NEURONS):
            inner = flat[f"{path}/ffn/intermediate/kernel"][:, neuron]
            outer = flat[f"{path}/ffn/output/kernel"][neuron]
            expected = np.linalg.norm(inner) * np.linalg.norm(outer)
            np.testing.assert_allclose(neurons[step][neuron], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["heads", "neurons"])
def test_activity_is_over_real_tokens_alone(part: Any):
    found = activity(MODEL, PARAMS, BATCHES, part)
    seen: dict[int, list[np.ndarray]] = {step: [] for step in range(3)}
    for one in examples():

        def product(site, subscripts, left, right):
            if site.endswith({"heads": "attention/output", "neurons": "ffn/output"}[part]):
                rows = np.asarray(left)[0]
                if part == "heads":
                    rows = np.linalg.norm(rows.reshape(-1, HEADS, WIDTH), axis=-1)
                seen[int(site.split("/")[0].split("_")[1])].append(rows)
            return plain_product(site, subscripts, left, right)

        inputs = {name: one[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        run(type(MODEL)(MODEL.config, product), PARAMS, inputs)
    for step, rows in seen.items():
        every = np.concatenate(rows)
        np.testing.assert_allclose(found[step].mean, every.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[step].variance, every.var(axis=0), rtol=1e-3, atol=1e-5)


def test_random_scores_are_of_the_right_shape_and_follow_their_seed():
    one, again, other = (random(MODEL.config, "neurons", seed) for seed in (0, 0, 1))
    assert {group: len(scores) for group, scores in one.items()} == {0: NEURONS, 1: NEURONS, 2: NEURONS}
    assert all((one[g] == again[g]).all() and (one[g] != other[g]).any() for g in one)


def test_the_lowest_go_over_all_layers_and_every_layer_keeps_its_best():
    scores = {0: np.array([0.9, 0.1, 0.5]), 1: np.array([0.2, 0.2, 0.2]), 2: np.array([0.05, 0.01, 0.02])}
    assert select_top(scores, 0) == {0: [0, 1, 2], 1: [0, 1, 2], 2: [0, 1, 2]}
    assert select_top(scores, 3) == {0: [0, 2], 1: [0, 1, 2], 2: [0]}  # 2 keeps one, though all of its are lower
    assert select_top(scores, 4) == {0: [0, 2], 1: [0, 1], 2: [0]}  # of equal ones the last goes first
    assert select_top(scores, 6) == {0: [0], 1: [0], 2: [0]}
    assert select_top(scores, 3, at_least=2) == {0: [0, 2], 1: [0, 1], 2: [0, 2]}
    assert select_top(scores, 3, multiple=2) == {0: [0, 2], 1: [0, 1, 2], 2: [0, 2]}
    with pytest.raises(UserError, match="expected 0 to 6, because every group keeps at least 1"):
        select_top(scores, 7)


def test_forms_of_heads_are_not_for_neurons():
    with pytest.raises(UserError, match="for neurons use form=paper"):
        importance(MODEL, PARAMS, BATCHES, loss, "neurons", "official")
    with pytest.raises(UserError, match="no batches"):
        importance(MODEL, PARAMS, [], loss)
