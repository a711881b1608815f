"""RoBERTa's family beyond what every architecture is tested for: its positions, its head, its sizes, its folders."""

import json
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

import bertjax
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.model import BertConfig, abstract_params, build, roberta_config
from bertjax.model.config import stated_max_tokens
from bertjax.model.hf_config import config_to_json
from bertjax.params import count, flatten
from tests.model.reference import everything, torch_model, written
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK

ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "architecture": "RobertaForSequenceClassification",
    "pad_token_id": 1,
    "position_offset": 2,
    "max_position_embeddings": 18,
    "type_vocab_size": 1,
}


@pytest.mark.parametrize(
    ("preset", "head", "expected"),
    [
        ("roberta", "Model", 124_645_632),
        ("roberta", "ForMaskedLM", 124_697_433),
        ("xlm-roberta", "Model", 278_043_648),
        ("xlm-roberta", "ForMaskedLM", 278_295_186),
        ("camembert", "Model", 110_621_952),
        ("camembert", "ForMaskedLM", 110_655_493),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(preset, head, expected):
    config = roberta_config(preset)
    config = config.replace(architecture=config.architecture.replace("Model", head))
    assert count(abstract_params(config)) == expected
    with torch.device("meta"):  # the same from the config that we write
        theirs = getattr(transformers, config.architecture)(
            transformers.AutoConfig.for_model(**{k: v for k, v in config_to_json(config).items() if k != "dtype"})
        )
    assert sum(parameter.numel() for parameter in theirs.parameters()) == expected
    assert config.max_tokens == 512


def test_padding_on_the_left_shifts_no_position():
    """Positions count real tokens, so the logits of each token are those of the text alone."""
    model, params = tiny(**{**ROBERTA, "architecture": "RobertaForTokenClassification"})
    ids = np.array([[0, 7, 8, 9, 2]], np.int32)
    alone = apply(model, params, {"input_ids": ids}).logits
    padded = {"input_ids": np.pad(ids, ((0, 0), (4, 3)), constant_values=1)}
    padded["attention_mask"] = (padded["input_ids"] != 1).astype(np.int32)
    np.testing.assert_allclose(apply(model, params, padded).logits[:, 4:9], alone, rtol=1e-5, atol=1e-6)


def test_packed_rows_equal_separate_rows():
    model, params = tiny(**{**ROBERTA, "architecture": "RobertaForTokenClassification"})
    batch = tiny_batch((5, 4), columns=5)
    batch["input_ids"] = np.where(batch["attention_mask"], np.maximum(batch["input_ids"], 3), 1).astype(np.int32)
    separate = apply(model, params, batch).logits
    row = {
        "input_ids": np.concatenate([batch["input_ids"][0], batch["input_ids"][1, :4]])[None],
        "segment_ids": np.array([[1] * 5 + [2] * 4], np.int32),
        "position_ids": np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3]], np.int32),
    }
    packed = np.asarray(apply(model, params, row).logits)[0]
    np.testing.assert_allclose(packed[:5], separate[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(packed[5:], separate[1, :4], rtol=1e-5, atol=1e-6)


def test_types_say_nothing_to_a_model_of_one_type():
    model, params = tiny(**ROBERTA)
    batch = tiny_batch()
    assert batch["token_type_ids"].any()
    without = {name: array for name, array in batch.items() if name != "token_type_ids"}
    np.testing.assert_array_equal(apply(model, params, batch).logits, apply(model, params, without).logits)


def test_rows_have_as_many_tokens_as_positions_after_the_offset():
    model, params = tiny(**ROBERTA)
    assert model.config.max_tokens == 16
    assert np.isfinite(apply(model, params, {"input_ids": np.full((1, 16), 5, np.int32)}).logits).all()
    with pytest.raises(UserError, match="17 columns, and the model only 16 positions"):
        apply(model, params, {"input_ids": np.full((1, 17), 5, np.int32)})
    with pytest.raises(UserError, match="position_offset is 18; expected less than the 18 rows"):
        BertConfig(**{**ROBERTA, "position_offset": 18})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 514}, 512),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "bertjax", "bertjax": {"max_position_embeddings": 20, "position_offset": 2}}, 18),
        ({"model_type": "bertjax", "bertjax": {"max_position_embeddings": 20, "pad_token_id": 1}}, 20),
        ({"model_type": "roberta", "max_position_embeddings": 20, "bertjax": {"position_offset": 4}}, 16),
        ({}, 512),
    ],
)
def test_a_config_says_how_many_tokens_a_row_has(content, expected):
    assert stated_max_tokens(content, "here") == expected


def test_the_hidden_layer_of_the_head_has_dropout_before_and_after_it():
    """As in `RobertaClassificationHead`; the other dropouts are off."""
    model, params = tiny(**ROBERTA, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.5)
    lowered = jax.jit(
        lambda key: model.apply({"params": params}, tiny_batch()["input_ids"], rngs={"dropout": key}).logits  # type: ignore[union-attr]
    ).lower(jax.random.key(0))
    bert, bert_params = tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.5)
    once = jax.jit(
        lambda key: bert.apply({"params": bert_params}, tiny_batch()["input_ids"], rngs={"dropout": key}).logits  # type: ignore[union-attr]
    ).lower(jax.random.key(0))
    threshold = str(2**31)  # what random words are compared with at a rate of one half
    assert (lowered.as_text().count(threshold), once.as_text().count(threshold)) == (2, 1)


def test_another_number_of_labels_keeps_the_hidden_layer_of_the_head(tmp_path):
    stored = bertjax.load(written(torch_model("RobertaForSequenceClassification", 3, num_labels=3), tmp_path))
    other = bertjax.load(tmp_path, labels=("a", "b"))
    assert set(other.newly_initialized) == {"classifier/kernel", "classifier/bias"}
    np.testing.assert_array_equal(other.params["pooler"]["kernel"], stored.params["pooler"]["kernel"])
    words = bertjax.load(tmp_path, architecture="RobertaForTokenClassification", labels=("a", "b", "c", "d"))
    assert set(words.newly_initialized) == {"classifier/kernel", "classifier/bias"}


def test_the_head_of_a_masked_language_model_is_no_classifier(tmp_path):
    """`classifier.dense` is a layer of the classifier: a folder without it gets a new one, as in `transformers`."""
    written(torch_model("RobertaForMaskedLM", 3), tmp_path)
    bundle = bertjax.load(tmp_path, architecture="RobertaForSequenceClassification", labels=("a", "b"))
    assert {path.split("/")[0] for path in bundle.newly_initialized} == {"pooler", "classifier"}
    assert all(name.startswith("lm_head.") for name in bundle.ignored)


@pytest.mark.parametrize("change", [{"position_offset": 0}, {"position_offset": 3}, {"norm": "pre"}])
def test_a_roberta_of_other_positions_is_no_stock_model(change, tmp_path):
    model, params = tiny(**(ROBERTA | change))
    bertjax.save(Bundle(model.config, params), tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content["model_type"] == "bertjax"
    again = bertjax.load(tmp_path / "model")
    assert again.config == model.config
    for path, array in flatten(params).items():
        np.testing.assert_array_equal(array, flatten(again.params)[path])


def test_a_bert_may_count_positions_like_a_roberta_and_is_then_no_stock_model():
    config = BertConfig(position_offset=1, max_position_embeddings=20, vocab_size=30)
    assert config_to_json(config)["model_type"] == "bertjax"


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_model_made_here_gives_the_same_logits_in_transformers(family, tmp_path):
    config = roberta_config(family, vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3)
    config = config.replace(intermediate_size=10, initializer_range=0.3, labels=("a", "b", "c"))
    config = config.replace(architecture=config.architecture.replace("Model", "ForSequenceClassification"))
    params = bertjax.bundle.init_params(config, 0)
    bertjax.save(Bundle(config, params), tmp_path / "made")
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "made", attn_implementation="eager"
    ).eval()
    ids = np.random.default_rng(0).integers(0, 40, (3, 9)).astype(np.int32)  # with padding here and there
    batch = {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int32)}
    theirs, ours = everything(opened, batch), apply(build(config), params, batch)
    np.testing.assert_allclose(ours.logits, theirs["logits"], **OTHER_FRAMEWORK)
    for mine, reference in zip(ours.hidden_states, theirs["hidden_states"], strict=True):
        np.testing.assert_allclose(mine, reference, **OTHER_FRAMEWORK)
