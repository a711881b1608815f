"""Models that are not stock as stock ones, opened by PyTorch."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import bertjax
from bertjax import UserError
from bertjax.bundle import Bundle
from bertjax.export import export
from bertjax.export.hf_equivalent import hf_equivalent
from bertjax.model import Exits, LayerConfig, Recurrence
from bertjax.prune import keep_heads, keep_layers, keep_neurons
from bertjax.prune.surgery import group_sizes
from bertjax.quantize import quantise_weights
from bertjax.share import factorise_words
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK


def ragged(**changes: Any) -> Bundle:
    """Three layers of different shapes."""
    model, params = tiny(num_hidden_layers=3, **changes)
    groups = list(group_sizes(model.config, "attention"))
    heads, neurons = ([1], [0, 2], [0, 1, 2]), ([0, 3, 4, 9], list(range(7)), [5])
    config, params = keep_heads(model.config, params, dict(zip(groups, heads, strict=False)))
    groups = list(group_sizes(config, "ffn"))
    return Bundle(*keep_neurons(config, params, dict(zip(groups, neurons, strict=False))))


def factorised() -> Bundle:
    bundle = ragged()
    return Bundle(*factorise_words(bundle.config, bundle.params, 5))


def empty() -> Bundle:
    """A layer without heads, and one without neurons."""
    bundle = ragged()
    return Bundle(*keep_neurons(*keep_heads(bundle.config, bundle.params, {1: []}), {0: []}))


SHARED = (LayerConfig(3, 10, 0, 0), LayerConfig(3, 10, 0, 1), LayerConfig(3, 10, 2, 1))
DISTILBERT = {"model_type": "distilbert", "architecture": "DistilBertForSequenceClassification", "type_vocab_size": 0}
ALBERT = {"model_type": "albert", "architecture": "AlbertForSequenceClassification", "num_hidden_groups": 1}
MODELS = {
    "ragged": ragged,
    "distilbert": lambda: ragged(**DISTILBERT),
    "albert": lambda: ragged(**ALBERT, embedding_size=6),
    "shared": lambda: ragged(layers=SHARED),
    "factorised": factorised,
    "empty": empty,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_pytorch_opens_the_equivalent_and_computes_the_same(name: str, tmp_path: Path):
    bundle = MODELS[name]()
    bertjax.save(bundle, tmp_path / "bundle")
    assert bertjax.load(tmp_path / "bundle").config == bundle.config
    distance = export(tmp_path / "bundle", "huggingface", tmp_path / "twin")
    assert distance < 1e-5
    torch_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twin").eval()
    batch = tiny_batch()
    given = {
        n: torch.tensor(a).long() for n, a in batch.items() if n != "token_type_ids" or bundle.config.type_vocab_size
    }
    with torch.no_grad():
        theirs = torch_model(**given).logits.numpy()
    ours = apply(bundle.model, bundle.params, batch).logits
    np.testing.assert_allclose(ours, theirs, **OTHER_FRAMEWORK)


@pytest.mark.slow
def test_integers_become_floating_point_only_if_asked():
    model, params = tiny()
    config, params = keep_heads(model.config, params, {0: [1]})
    config, integers = quantise_weights(config, params)
    with pytest.raises(UserError, match="add --dequantise"):
        hf_equivalent(config, integers)
    described, floats = hf_equivalent(config, integers, dequantise=True)
    assert described.quantization is None
    ours, theirs = Bundle(config, integers), Bundle(described, floats)
    np.testing.assert_allclose(
        apply(ours.model, integers, tiny_batch()).logits, apply(theirs.model, floats, tiny_batch()).logits, atol=1e-5
    )


def test_what_has_no_equivalent_is_refused_with_the_reason(tmp_path: Path):
    for changes, reason in (
        ({"exits": Exits(after=(0,))}, "exits"),
        ({"num_hidden_layers": 1, "recurrence": Recurrence(2)}, "recur"),
        ({"norm": "pre"}, "norm='pre'"),
        ({"classifier_activation": "relu"}, "an additional activation"),
    ):
        model, params = tiny(**changes)
        with pytest.raises(UserError, match=reason):
            hf_equivalent(model.config, params)
    model, params = tiny()
    odd = dataclasses.replace(model.config, head_size=5)
    with pytest.raises(UserError, match="is not a multiple of its head size 5"):
        hf_equivalent(odd, params)


def test_a_model_is_not_replaced_by_its_own_export(tmp_path: Path):
    model, params = tiny(num_hidden_layers=3)
    config, params = keep_layers(model.config, params, [0, 2])
    bertjax.save(Bundle(config, params), tmp_path / "bundle")
    for target in ("onnx", "huggingface"):
        with pytest.raises(UserError, match="choose another"):
            export(tmp_path / "bundle", target, tmp_path / "bundle")
    assert bertjax.load(tmp_path / "bundle").config == config
