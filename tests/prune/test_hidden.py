"""Removed hidden columns equal gated ones, in every family; the statistics of LayerNorm are those of what stays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import bertjax
from bertjax import UserError
from bertjax.model import Exits, LayerConfig, build, mobile_config
from bertjax.model.layers import LayerNorm
from bertjax.model.sentence import SentenceEmbedding
from bertjax.params import flatten
from bertjax.prune import keep_heads, keep_hidden, keep_neurons
from bertjax.share import factorise_words
from tests.model.tiny import apply, run, tiny, tiny_batch
from tests.prune.test_surgery import CLOSE, MODELS

KEPT = [0, 2, 3, 6, 7, 10]
COLUMNS = jnp.asarray(np.isin(np.arange(12), KEPT), jnp.float32)
HEADS = ("BertForTokenClassification", "BertForQuestionAnswering", "BertForNextSentencePrediction", "BertModel")


def agree(ours: Any, theirs: Any) -> None:
    if ours.logits is not None:
        np.testing.assert_allclose(ours.logits, theirs.logits, **CLOSE)
    for mine, whole in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, whole[..., KEPT], **CLOSE)
        assert not np.delete(whole, KEPT, axis=-1).any()


@pytest.mark.parametrize("name", [*MODELS, "words", "embedding", *HEADS])
def test_removed_columns_equal_gated_ones(name: str, tmp_path: Any):
    changes = MODELS.get(name, {"num_hidden_layers": 3})
    if name in HEADS:
        changes = {"architecture": name, "labels": ("LABEL_0", "LABEL_1")}
    if name == "embedding":
        changes = {"architecture": "BertForSentenceEmbedding", "embedding": SentenceEmbedding(dense_size=5)}
    model, params = tiny(**changes)
    config = model.config
    if name == "words":
        config, params = factorise_words(config, params, 6)
        model = build(config)
    gated = apply(model, params, tiny_batch(), columns=COLUMNS)
    small, cut = keep_hidden(config, params, KEPT)
    assert (small.hidden_size, small.head_size) == (6, config.head_size)
    agree(apply(build(small), cut, tiny_batch()), gated)
    bertjax.save(bertjax.Bundle(small, cut), tmp_path / "narrow")
    back = bertjax.load(tmp_path / "narrow")
    assert back.config == small
    agree(apply(back.model, back.params, tiny_batch()), gated)


def test_columns_heads_and_neurons_go_together_in_any_order():
    model, params = tiny()
    heads, neurons = {0: [1], 1: []}, {0: [2, 3], 1: [0, 9]}
    one = keep_hidden(*keep_neurons(*keep_heads(model.config, params, heads), neurons), KEPT)
    other = keep_neurons(*keep_heads(*keep_hidden(model.config, params, KEPT), heads), neurons)
    assert one[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def test_gradients_of_what_stays_are_those_of_the_gated_model():
    model, params = tiny()

    def loss(model: Any, params: Any, **more: Any) -> Any:
        return jnp.sum(jnp.square(run(model, params, tiny_batch(), **more).logits - 0.3))

    whole = jax.jit(jax.grad(lambda params: loss(model, params, columns=COLUMNS)))(params)
    config, cut = keep_hidden(model.config, params, KEPT)
    found = jax.jit(jax.grad(lambda params: loss(build(config), params)))(cut)
    expected = flatten(keep_hidden(model.config, whole, KEPT)[1])
    for path, leaf in flatten(found).items():
        np.testing.assert_allclose(leaf, expected[path], err_msg=path, **CLOSE)


def test_norm_over_columns_is_torchs_over_these_columns():
    x = np.random.default_rng(0).normal(2, 3, (4, 12)).astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 12, dtype=np.float32), np.linspace(-1, 1, 12, dtype=np.float32)
    ours = LayerNorm(1e-5).apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x), COLUMNS)
    theirs = torch.nn.functional.layer_norm(
        torch.from_numpy(x[:, KEPT]), (6,), torch.from_numpy(scale[KEPT]), torch.from_numpy(bias[KEPT]), 1e-5
    )
    np.testing.assert_allclose(np.asarray(ours)[:, KEPT], theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_what_cannot_lose_columns_is_refused_with_the_reason():
    model, params = tiny()
    for kept in ([], [3, 1], [12]):
        with pytest.raises(UserError, match=r"hidden columns to keep: .*expected one or more of 0 to 11"):
            keep_hidden(model.config, params, kept)
    albert, own = tiny(**MODELS["albert"])
    with pytest.raises(UserError, match="6 hidden columns are as many as the embeddings have"):
        keep_hidden(albert.config.replace(model_type="bert", architecture="BertModel"), own, KEPT)
    for changes, reason in (
        ({"architecture": "BertForMaskedLM"}, "a head that predicts words"),
        ({"exits": Exits(after=(0,))}, "a model with exits"),
    ):
        other, own = tiny(**changes)
        with pytest.raises(UserError, match=reason):
            keep_hidden(other.config, own, KEPT)
    with pytest.raises(UserError, match="does not support gates on hidden columns"):
        apply(*tiny(exits=Exits(after=(0,))), tiny_batch(), columns=COLUMNS)
    with pytest.raises(UserError, match="without heads or without neurons"):
        mobile_config("tiny", num_hidden_layers=1, layers=(LayerConfig(0, 512),))
