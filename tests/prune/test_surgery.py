"""Removed equals masked, on random ragged patterns, in outputs and in gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.model import Exits, LayerConfig, LayerGates, Recurrence, build, mobile_config
from bertjax.params import Tree, flatten, unflatten
from bertjax.prune import keep_columns, keep_heads, keep_layers, keep_neurons, remove_dead
from bertjax.prune.surgery import group_sizes
from bertjax.quantize import quantise_weights
from bertjax.share import factorise_words
from tests.model.tiny import apply, run, tiny, tiny_batch

CLOSE = {"rtol": 0, "atol": 1e-5}
HEADS, NEURONS, WIDTH = 3, 10, 4
MODELS: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 3},
    "distilbert": {
        "num_hidden_layers": 3,
        "model_type": "distilbert",
        "architecture": "DistilBertForSequenceClassification",
        "type_vocab_size": 0,
    },
    "pre_norm": {"num_hidden_layers": 3, "norm": "pre"},
    "shared": {
        "num_hidden_layers": 3,
        "layers": (
            LayerConfig(HEADS, NEURONS, attention=0, ffn=0),
            LayerConfig(HEADS, NEURONS, attention=0, ffn=1, attention_norm=1),
            LayerConfig(HEADS, NEURONS, attention=2, ffn=1, ffn_norm=2),
        ),
    },
    "albert": {"num_hidden_layers": 3, "model_type": "albert", "architecture": "AlbertForSequenceClassification"}
    | {"num_hidden_groups": 1, "embedding_size": 6},
}


def patterns(config: Any, seed: int) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Some heads and neurons for every group, differently many."""
    rng = np.random.default_rng(seed)

    def some(count: int) -> list[int]:
        return sorted(rng.choice(count, rng.integers(1, count + 1), replace=False).tolist())

    steps = config.depth_steps()
    return {s.attention: some(HEADS) for s in steps}, {s.ffn: some(NEURONS) for s in steps}


@pytest.mark.parametrize("name", MODELS)
def test_layers_without_heads_or_neurons_equal_masked_ones(name: str, tmp_path: Any):
    model, params = tiny(**MODELS[name])
    groups = [list(group_sizes(model.config, owner)) for owner in ("attention", "ffn")]
    heads: Any = {group: [] if group == groups[0][0] else [0, 2] for group in groups[0]}
    neurons: Any = {group: [] if group == groups[1][-1] else [1, 5] for group in groups[1]}
    masked = apply(model, params, tiny_batch(), gates=gates_of(model.config, heads, neurons))
    config, cut = keep_neurons(*keep_heads(model.config, params, heads), neurons)
    agree(apply(build(config), cut, tiny_batch()), masked)
    bertjax.save(bertjax.Bundle(config, cut), tmp_path / "empty")
    back = bertjax.load(tmp_path / "empty")
    assert back.config == config
    agree(apply(back.model, back.params, tiny_batch()), masked)
    again, same = keep_neurons(*keep_heads(config, cut, dict.fromkeys(heads, ())), dict.fromkeys(neurons, ()))
    assert {step.shape for step in again.depth_steps()} == {(0, 0)}
    assert apply(build(again), same, tiny_batch()).queries[0].shape[2] == 0


def gates_of(config, heads: dict[int, list[int]], neurons: dict[int, list[int]]) -> list[LayerGates]:
    def mask(kept: list[int], count: int) -> Any:
        return jnp.asarray(np.isin(np.arange(count), kept), jnp.float32)

    return [LayerGates(mask(heads[s.attention], HEADS), mask(neurons[s.ffn], NEURONS)) for s in config.depth_steps()]


def agree(ours: Any, theirs: Any) -> None:
    """Logits and every hidden state."""
    np.testing.assert_allclose(ours.logits, theirs.logits, **CLOSE)
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, reference, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_removed_heads_and_neurons_equal_masked_ones(name: str, seed: int):
    model, params = tiny(**MODELS[name])
    heads, neurons = patterns(model.config, seed)
    masked = apply(model, params, tiny_batch(), gates=gates_of(model.config, heads, neurons))
    config, cut = keep_neurons(*keep_heads(model.config, params, heads), neurons)
    agree(apply(build(config), cut, tiny_batch()), masked)
    assert config.head_size == WIDTH
    steps: Any = zip(config.depth_steps(), model.config.depth_steps(), strict=True)
    for step, before in steps:
        assert step.shape == (len(heads[before.attention]), len(neurons[before.ffn]))
        assert (step.attention, step.ffn_norm) == (before.attention, before.ffn_norm)


@pytest.mark.slow
def test_gradients_of_what_stays_are_those_of_the_masked_model():
    model, params = tiny(num_hidden_layers=3)
    heads, neurons = patterns(model.config, 2)
    gates = gates_of(model.config, heads, neurons)
    config, cut = keep_neurons(*keep_heads(model.config, params, heads), neurons)

    def loss(model: Any, params: Tree, **more: Any) -> Any:
        return jnp.sum(jnp.square(run(model, params, tiny_batch(), **more).logits - 0.3))

    whole = jax.jit(jax.grad(lambda params: loss(model, params, gates=gates)))(params)
    _, same_parts = keep_neurons(*keep_heads(model.config, whole, heads), neurons)
    found = jax.jit(jax.grad(lambda params: loss(build(config), params)))(cut)
    for path, leaf in flatten(found).items():
        np.testing.assert_allclose(leaf, flatten(same_parts)[path], err_msg=path, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_removed_layers_equal_gated_ones(name: str):
    model, params = tiny(**MODELS[name])
    gates = [LayerGates(layer=jnp.float32(number != 1)) for number in range(3)]
    masked = apply(model, params, tiny_batch(), gates=gates)
    config, cut = keep_layers(model.config, params, [0, 2])
    ours = apply(build(config), cut, tiny_batch())
    np.testing.assert_allclose(ours.logits, masked.logits, **CLOSE)
    np.testing.assert_allclose(ours.hidden_states[2], masked.hidden_states[3], **CLOSE)
    assert config.num_hidden_layers == 2
    if name in ("bert", "distilbert"):
        assert config.layers == ()  # said as plainly as before
        assert sorted(cut["encoder"]) == ["layer_0", "layer_1"]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["own_pooler", "shared_pooler", "shared"])
def test_exits_move_with_their_layers(head: Any):
    model, params = tiny(num_hidden_layers=4, exits=Exits(after=(0, 1, 2), head=head))
    gates = [LayerGates(layer=jnp.float32(number != 1)) for number in range(4)]
    masked = apply(model, params, tiny_batch(), gates=gates)
    config, cut = keep_layers(model.config, params, [0, 2, 3])
    assert config.exits is not None
    assert config.exits.after == (0, 1)
    ours = apply(build(config), cut, tiny_batch())
    agree_at = [masked.exit_logits[0], masked.exit_logits[2]]
    for mine, reference in zip(ours.exit_logits, agree_at, strict=True):
        np.testing.assert_allclose(mine, reference, **CLOSE)
    config, cut = keep_layers(model.config, params, [0])  # its exit would stand where the head is
    assert config.exits is None
    assert "exits" not in cut


def test_an_exit_on_the_embeddings_stays_there():
    model, params = tiny(num_hidden_layers=3, exits=Exits(after=(-1, 1), reads="mean"))
    config, cut = keep_layers(model.config, params, [1, 2])
    assert config.exits is not None
    assert config.exits.after == (-1, 0)
    jax.tree.map(np.testing.assert_array_equal, cut["exits"]["exit_-1"], params["exits"]["exit_-1"])
    jax.tree.map(np.testing.assert_array_equal, cut["exits"]["exit_0"], params["exits"]["exit_1"])


def zeroed(params: Tree, *patterns: tuple[str, Any]) -> Tree:
    flat = {path: np.array(leaf) for path, leaf in flatten(params).items()}
    for path, where in patterns:
        flat[path][where] = 0
    return unflatten(flat)


NORM = "layer_norm/scale", "layer_norm/bias"
FIRST, SECOND = slice(0, WIDTH), slice(WIDTH, 2 * WIDTH)
EVERY = slice(None)


def test_dead_parts_go_and_what_they_said_joins_the_biases():
    model, params = tiny()
    masked = zeroed(
        params,
        ("encoder/layer_0/attention/value/kernel", (EVERY, FIRST)),  # a constant, by its bias
        ("encoder/layer_0/attention/output/kernel", SECOND),  # nobody reads it
        ("encoder/layer_0/ffn/intermediate/kernel", (EVERY, slice(2, 6))),
        ("encoder/layer_1/ffn/output/kernel", slice(0, 3)),
    )
    config, cut = remove_dead(model.config, masked)
    assert [step.shape for step in config.depth_steps()] == [(1, 6), (3, 7)]
    agree(apply(build(config), cut, tiny_batch()), apply(model, masked, tiny_batch()))
    rounded, cut = remove_dead(model.config, masked, multiple=4)
    assert [step.shape for step in rounded.depth_steps()] == [(1, 8), (3, 8)]
    agree(apply(build(rounded), cut, tiny_batch()), apply(model, masked, tiny_batch()))


@pytest.mark.parametrize("part", ["query", "key"])
def test_a_head_that_looks_at_everything_alike_is_not_dead(part: str):
    model, params = tiny()
    site = "encoder/layer_0/attention"
    uniform = zeroed(params, (f"{site}/{part}/kernel", (EVERY, FIRST)), (f"{site}/{part}/bias", FIRST))
    config, cut = remove_dead(model.config, uniform)
    assert config.depth_steps()[0].num_attention_heads == HEADS
    before = apply(model, uniform, tiny_batch()).logits
    np.testing.assert_allclose(apply(build(config), cut, tiny_batch()).logits, before, **CLOSE)
    without, cut = keep_heads(model.config, uniform, {0: [1, 2]})
    assert np.abs(apply(build(without), cut, tiny_batch()).logits - before).max() > 1e-2


def test_of_a_layer_whose_parts_are_all_dead_the_biases_stay():
    model, params = tiny()
    site = "encoder/layer_1"
    dead = zeroed(params, (f"{site}/attention/value/kernel", EVERY), (f"{site}/ffn/output/kernel", EVERY))
    config, cut = remove_dead(model.config, dead)
    assert config.depth_steps()[1].shape == (0, 0)
    left = {path for path in flatten(cut) if path.startswith("encoder/layer_1/")}
    names = {f"{part}/{name}" for part in ("attention", "ffn") for name in ("output/bias", *NORM)}
    assert left == {f"encoder/layer_1/{name}" for name in names}
    agree(apply(build(config), cut, tiny_batch()), apply(model, dead, tiny_batch()))


@pytest.mark.parametrize("name", ["bert", "shared", "exits"])
def test_columns_of_a_narrow_word_table_go_without_a_trace(name: str):
    model, params = tiny(**MODELS.get(name, {"num_hidden_layers": 3, "exits": Exits(after=(0, 1))}))
    config, narrow = factorise_words(model.config, params, 6)
    masked = zeroed(narrow, ("embeddings/word_mapping/kernel", [1, 4]))
    small, cut = keep_columns(config, narrow, [0, 2, 3, 5])
    assert small.embedding_size == 4
    ours, theirs = apply(build(small), cut, tiny_batch()), apply(build(config), masked, tiny_batch())
    agree(ours, theirs)
    for mine, reference in zip(ours.exit_logits or (), theirs.exit_logits or (), strict=True):
        np.testing.assert_allclose(mine, reference, **CLOSE)
    with pytest.raises(UserError, match="factorised='words'"):
        keep_columns(model.config, params, [0, 1])


def test_a_ragged_model_survives_its_folder(tmp_path):
    model, params = tiny(num_hidden_layers=3)
    heads, neurons = patterns(model.config, 5)
    config, cut = keep_neurons(*keep_heads(model.config, params, heads), neurons)
    bertjax.save(bertjax.Bundle(config, cut), tmp_path / "ragged")
    back = bertjax.load(tmp_path / "ragged")
    assert back.config == config
    np.testing.assert_array_equal(
        apply(back.model, back.params, tiny_batch()).logits, apply(build(config), cut, tiny_batch()).logits
    )


@pytest.mark.slow
def test_what_cannot_be_cut_is_refused_with_the_reason():
    model, params = tiny()
    for kept in ([1, 0], [0, 0], [0, HEADS]):
        with pytest.raises(UserError, match="expected some of 0 to 2, in ascending order and each once"):
            keep_heads(model.config, params, {0: kept})
    with pytest.raises(UserError, match="neurons to keep in layer 7: the model has no such layer"):
        keep_neurons(model.config, params, {7: [0]})
    with pytest.raises(UserError, match="expected one or more of 0 to 1"):
        keep_layers(model.config, params, [2])
    recurrent, repeated = tiny(num_hidden_layers=1, recurrence=Recurrence(3))
    with pytest.raises(UserError, match="all steps share one block"):
        keep_heads(recurrent.config, repeated, {0: [0]})
    config, integers = quantise_weights(model.config, params)
    with pytest.raises(UserError, match="prune first, then quantise"):
        keep_neurons(config, integers, {0: [0]})
    with pytest.raises(UserError, match="MobileBERT"):
        keep_layers(mobile_config("tiny"), {}, [0])
