"""Sentence embeddings against sentence-transformers, in both directions: it opens the folders that we write, and we
open those that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import modules

import bertjax
from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.model.sentence import SentenceEmbedding
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK
from tests.train.tiny import write_model

TEXTS = ["the film", "a story with its cast and music", "very often dull scenes with a great warm cast", "cold"]
KINDS = [
    SentenceEmbedding(),
    SentenceEmbedding("cls", normalise=False, max_length=5),
    SentenceEmbedding("max", dense_size=7, prompts=(("query", "great story "),), default_prompt="query"),
    SentenceEmbedding("mean", 5, "relu"),
    SentenceEmbedding("mean", 9, "identity", normalise=False),
]


def embedder(folder: Path, **changes) -> Path:
    return write_model(folder, architecture="BertForSentenceEmbedding", initializer_range=0.3, **changes)


@pytest.mark.parametrize("embedding", KINDS, ids=lambda kind: f"{kind.pooling}-{kind.dense_size}")
def test_sentence_transformers_opens_our_folder_and_encodes_the_same(embedding, tmp_path):
    bundle = bertjax.load(embedder(tmp_path / "ours", embedding=embedding))
    assert bundle.config.embedding == embedding
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(bundle.encode(TEXTS), theirs.encode(TEXTS), **OTHER_FRAMEWORK)


def test_prompts_and_dimensions_are_those_of_sentence_transformers(tmp_path):
    prompts = (("query", "great story "), ("document", "dull music "))
    bundle = bertjax.load(embedder(tmp_path / "ours", embedding=SentenceEmbedding(prompts=prompts)))
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    expected = theirs.encode(TEXTS, prompt_name="document", truncate_dim=6, normalize_embeddings=True)
    np.testing.assert_allclose(bundle.encode(TEXTS, prompt="document", dimensions=6), expected, **OTHER_FRAMEWORK)
    with pytest.raises(UserError, match='no prompt "other"; known: query, document'):
        bundle.encode(TEXTS, prompt="other")
    with pytest.raises(UserError, match="the embedding has 16: give 1 to 16"):
        bundle.encode(TEXTS, dimensions=17)


def test_a_folder_of_sentence_transformers_opens_and_encodes_the_same(tmp_path):
    encoder = write_model(tmp_path / "encoder", initializer_range=0.3)
    parts = [
        modules.Transformer(str(encoder), max_seq_length=6),
        modules.Pooling(16, "max"),
        modules.Dense(16, 7, activation_function=torch.nn.Tanh()),
        modules.Normalize(),
    ]
    theirs = sentence_transformers.SentenceTransformer(modules=parts, prompts={"query": "warm "}, device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    bundle = bertjax.load(tmp_path / "theirs")
    assert bundle.config.embedding == SentenceEmbedding("max", 7, prompts=(("query", "warm "),), max_length=6)
    np.testing.assert_allclose(bundle.encode(TEXTS), theirs.encode(TEXTS), **OTHER_FRAMEWORK)


def test_an_embedding_that_transformers_cannot_express_keeps_everything_in_its_config(tmp_path):
    changes = {"embedding": SentenceEmbedding("max", 7), "norm": "pre"}
    bundle = bertjax.load(embedder(tmp_path / "one", **changes))
    bertjax.save(bundle, tmp_path / "two")
    assert not (tmp_path / "two" / "modules.json").exists()
    again = bertjax.load(tmp_path / "two")
    assert again.config == bundle.config
    np.testing.assert_array_equal(again.encode(TEXTS), bundle.encode(TEXTS))


def test_any_encoder_becomes_an_embedder_and_an_embedder_any_other_model(tmp_path):
    plain = bertjax.load(write_model(tmp_path / "plain"), architecture="BertForSentenceEmbedding")
    assert plain.newly_initialized == ()
    assert plain.encode([]).shape == (0, 16)
    folder = embedder(tmp_path / "ours", embedding=SentenceEmbedding(dense_size=3))
    classifier = bertjax.load(folder, architecture="BertForSequenceClassification", labels=("a", "b"))
    assert classifier.config.embedding is None
    assert all(path.startswith(("pooler", "classifier")) for path in classifier.newly_initialized)
    with pytest.raises(UserError, match="embeds no texts"):
        classifier.encode(TEXTS)
    np.testing.assert_array_equal(np.array(plain.predict(TEXTS).labels, np.float32), plain.encode(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_padding_and_other_texts_change_no_embedding(pooling):
    model, params = tiny(architecture="BertForSentenceEmbedding", embedding=SentenceEmbedding(pooling, 5))
    together = apply(model, params, tiny_batch((7, 4, 5), columns=9)).logits
    for row, length in enumerate((7, 4, 5)):
        alone = {name: array[row : row + 1, :length] for name, array in tiny_batch((7, 4, 5), columns=9).items()}
        np.testing.assert_allclose(apply(model, params, alone).logits[0], together[row], rtol=1e-5, atol=1e-6)


BROKEN = {
    "1_Pooling/config.json": ({"pooling_mode": ["mean", "max"]}, "supported is one of: mean, cls, max"),
    "modules.json": (
        [{"type": "a.Transformer", "path": ""}, {"type": "b.LSTM", "path": "1"}],
        "Transformer, LSTM",
    ),
    "sentence_bert_config.json": ({"do_lower_case": True}, "do_lower_case is not supported"),
    "config_sentence_transformers.json": ({"default_prompt_name": "query"}, 'no prompt "query"; known: none'),
    "2_Dense/config.json": ({"activation_function": "torch.nn.Softmax", "out_features": 7}, "Softmax.*supported: Tanh"),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_part_that_is_not_supported_is_an_error_with_its_file(file, tmp_path):
    folder = embedder(tmp_path / "ours", embedding=SentenceEmbedding(dense_size=7, max_length=9))
    content, message = BROKEN[file]
    (folder / file).write_text(json.dumps(content))
    (folder / "digests.json").unlink()
    with pytest.raises(UserError, match=f"(?s){message}"):
        bertjax.load(folder)


def test_the_width_of_the_output_is_that_of_the_head():
    named = BertConfig(architecture="BertForSentenceEmbedding", hidden_size=24)
    assert (named.output_size, named.replace(embedding=SentenceEmbedding(dense_size=7)).output_size) == (24, 7)
    assert BertConfig(labels=("a", "b", "c")).output_size == 3
    with pytest.raises(UserError, match="a BertModel does not embed texts"):
        BertConfig(embedding=SentenceEmbedding())
    assert named.unpackable
