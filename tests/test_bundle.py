"""Bundles through the public door: open, predict, save, and the mistakes that a user can make on the way.

Folders of every kind are the subject of model/test_huggingface.py; here is what is around them.
"""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import torch
import transformers
from scipy.special import expit, softmax

import bertjax
from bertjax import predict
from bertjax.bundle import architecture_for, stored_config
from bertjax.machine import layout
from bertjax.model.depth import Halting, Recurrence
from bertjax.params import flatten
from bertjax.predict import forward
from bertjax.storage import manifest
from tests.model.reference import torch_logits, torch_model, written
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK

WORDS = (
    "a",
    "the",
    "film",
    "plot",
    "is",
    "was",
    "good",
    "bad",
    "fine",
    "dull",
    "long",
    "who",
    "night",
    ".",
    ",",
    "!",
    "?",
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##er", "##ly"]
TEXTS = [
    "the film was good",
    "dull",
    "A long, long night! who was the films?",
    "the plot is bad . the film is longer , dull , bad",
    "unknown good",
    "finely fine",
    "is",
]


def folder_with(architecture: str, folder: Path, seed: int = 7, **fields: Any) -> Path:
    """A tiny model and its vocabulary, as `transformers` would keep them."""
    model = torch_model(architecture, seed, vocab_size=len(VOCABULARY), max_position_embeddings=24, **fields)
    written(model, folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 24}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    names = {0: "rotten", 1: "fresh", 2: "neither"}
    return folder_with("BertForSequenceClassification", tmp_path_factory.mktemp("stock"), id2label=names)


@pytest.fixture(scope="module")
def bundle(stock) -> bertjax.Bundle:
    return bertjax.load(stock)


@pytest.fixture
def folder(stock, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(stock, tmp_path / "folder"))


def reference_logits(folder: Path, texts: list[str], pairs: list[str] | None = None, **options: Any) -> np.ndarray:
    """Tokenizer and model of `transformers`, all texts in one padded batch."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(texts, pairs, padding=True, **options)
    batch = {name: np.array(encoded[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = torch_logits(model, batch)
    assert logits is not None
    return logits.numpy()


def refusal(call, *args: Any, **options: Any) -> str:
    with pytest.raises(bertjax.UserError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 5
    return message


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 32])
def test_predictions_are_those_of_transformers_in_the_order_of_the_texts(bundle, stock, batch_size):
    predictions = bundle.predict(TEXTS, batch_size=batch_size)
    expected = softmax(reference_logits(stock, TEXTS), axis=-1)
    np.testing.assert_allclose(np.asarray(predictions.probabilities), expected, **OTHER_FRAMEWORK)
    assert predictions.labels == [("rotten", "fresh", "neither")[i] for i in expected.argmax(axis=-1)]
    assert len(set(predictions.labels)) > 1
    assert predictions.truncated == 0
    assert predictions.depths is None


@pytest.mark.parametrize(("on", "rows"), [("cpu", {2, 4}), ("tpu", {4, 8})])
def test_a_cpu_computes_a_large_batch_in_parts(bundle, stock, monkeypatch, on, rows):
    calls = []
    monkeypatch.setattr(layout, "TOKENS_AT_ONCE", 40)
    monkeypatch.setattr(layout, "platform", lambda: on)

    def bound(*bundle):
        return lambda *batch: (calls.append(batch[0].shape), forward(*bundle, *batch))[1]

    monkeypatch.setattr(predict, "forward", SimpleNamespace(bound=bound))
    texts = 2 * TEXTS[2:4] + 8 * TEXTS[:1]
    given = [bundle.predict(part, batch_size=len(part)).probabilities for part in (texts[:4], texts[4:])]
    assert {shape[0] for shape in calls} == rows
    assert on != "cpu" or max(map(np.prod, calls)) <= 40
    expected = softmax(reference_logits(stock, texts), axis=-1)
    np.testing.assert_allclose(np.concatenate(given), expected, **OTHER_FRAMEWORK)


def test_pairs_are_predicted_as_transformers_does(bundle, stock):
    pairs = TEXTS[::-1]
    expected = softmax(reference_logits(stock, TEXTS, pairs, truncation=True), axis=-1)
    np.testing.assert_allclose(bundle.predict(TEXTS, pairs).probabilities, expected, **OTHER_FRAMEWORK)


def test_long_texts_are_cut_at_the_limit_and_counted(bundle, stock):
    texts = ["good " * 40, "bad"]
    predictions = bundle.predict(texts)
    expected = softmax(reference_logits(stock, texts, truncation=True, max_length=24), axis=-1)
    np.testing.assert_allclose(np.asarray(predictions.probabilities), expected, **OTHER_FRAMEWORK)
    assert predictions.truncated == 1
    shorter = bundle.predict(texts, max_length=10)
    expected = softmax(reference_logits(stock, texts, truncation=True, max_length=10), axis=-1)
    np.testing.assert_allclose(shorter.probabilities, expected, **OTHER_FRAMEWORK)


def test_no_texts_give_no_predictions(bundle):
    assert bundle.predict([]) == ([], None, 0, None)


def test_an_empty_text_is_predicted_like_any_other(bundle, stock):
    expected = softmax(reference_logits(stock, ["", "good"]), axis=-1)
    np.testing.assert_allclose(bundle.predict(["", "good"]).probabilities, expected, **OTHER_FRAMEWORK)


def test_regression_gives_numbers(tmp_path):
    folder_with("BertForSequenceClassification", tmp_path, num_labels=1, problem_type="regression")
    predictions = bertjax.load(tmp_path).predict(TEXTS)
    np.testing.assert_allclose(np.array(predictions.labels), reference_logits(tmp_path, TEXTS)[:, 0], **OTHER_FRAMEWORK)
    assert predictions.probabilities is None


def test_several_labels_at_once_give_lists_of_names(tmp_path):
    problem = "multi_label_classification"
    folder_with("DistilBertForSequenceClassification", tmp_path, num_labels=4, problem_type=problem)
    predictions = bertjax.load(tmp_path).predict(TEXTS)
    expected = expit(reference_logits(tmp_path, TEXTS))
    np.testing.assert_allclose(np.asarray(predictions.probabilities), expected, **OTHER_FRAMEWORK)
    assert predictions.labels == [[f"LABEL_{i}" for i in np.flatnonzero(row > 0.5)] for row in expected]


def test_words_get_tags_from_their_first_token(tmp_path):
    folder_with("BertForTokenClassification", tmp_path, seed=9, id2label={0: "O", 1: "B-FILM", 2: "I-FILM"})
    texts = ["the films was longer", "finely dull"]
    logits = reference_logits(tmp_path, texts)
    first = [(1, 2, 4, 5), (1, 3)]  # [CLS] the film ##s was long ##er [SEP]; [CLS] fine ##ly dull [SEP]
    names = ("O", "B-FILM", "I-FILM")
    expected = [[names[logits[row, token].argmax()] for token in tokens] for row, tokens in enumerate(first)]
    assert bertjax.load(tmp_path).predict(texts).labels == expected
    assert len(set(expected[0])) > 1


def test_answers_are_the_best_span_of_the_context(tmp_path):
    folder_with("BertForQuestionAnswering", tmp_path)
    question, context = "who was bad ?", "the night was long , the film was dull"
    start, end = reference_logits(tmp_path, [question], [context])[0].T
    words = context.split()
    begin = len(question.split()) + 2  # [CLS] question [SEP]
    spans = [(i, j) for i in range(len(words)) for j in range(i, len(words))]
    i, j = max(spans, key=lambda span: start[begin + span[0]] + end[begin + span[1]])
    assert bertjax.load(tmp_path).predict([question], [context]).labels == [" ".join(words[i : j + 1])]


def test_what_cannot_be_predicted_says_why(bundle, stock, folder, monkeypatch):
    """Without the type checks that otherwise run during tests and would answer first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert "texts is a single string" in refusal(bundle.predict, "one text")
    assert "found 3" in refusal(bundle.predict, ["good", 3])
    assert "there are 2 texts; give pairs as a list of as many" in refusal(bundle.predict, ["good", "bad"], ["good"])
    assert "batch_size is 0" in refusal(bundle.predict, ["good"], batch_size=0)
    headless = bertjax.load(stock, architecture="BertModel")
    assert "a BertModel has no head that labels text" in refusal(headless.predict, ["good"])
    newly_initialized = bertjax.load(stock, labels=("yes", "no"))
    assert "the head was never trained (classifier/bias, classifier/kernel)" in refusal(
        newly_initialized.predict, ["good"]
    )
    (folder / "vocab.txt").unlink()
    bare = bertjax.load(folder)
    assert bare.tokenizer is None
    assert "this bundle has no tokenizer" in refusal(bare.predict, ["good"])
    answers = bertjax.load(stock, architecture="BertForQuestionAnswering")
    answers = bertjax.Bundle(answers.config, answers.params, answers.tokenizer)
    assert "the contexts they are about as pairs" in refusal(answers.predict, ["who ?"])


# --- save ------------------------------------------------------------------------------------------------------------


def test_a_saved_bundle_reopens_here_and_in_transformers(bundle, stock, tmp_path):
    bertjax.save(bundle, tmp_path / "new" / "place")
    again = bertjax.load(tmp_path / "new" / "place")
    assert again.config == bundle.config
    assert again.tokenizer is not None
    assert again.tokenizer.fingerprint == getattr(bundle.tokenizer, "fingerprint", None)
    for path, array in flatten(bundle.params).items():
        np.testing.assert_array_equal(flatten(again.params)[path], array)
    np.testing.assert_array_equal(reference_logits(tmp_path / "new" / "place", TEXTS), reference_logits(stock, TEXTS))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["place"]


def test_parameters_from_jax_are_saved_too(bundle, tmp_path):
    bertjax.save(bertjax.Bundle(bundle.config, bundle.device_params, bundle.tokenizer), tmp_path / "saved")
    assert bertjax.load(tmp_path / "saved").predict(TEXTS).labels == bundle.predict(TEXTS).labels


def test_saving_again_replaces_the_whole_folder(bundle, folder):
    (folder / "stale.txt").write_text("of the old model")
    bertjax.save(bundle, folder)
    assert not (folder / "stale.txt").exists()
    assert bertjax.load(folder).predict(TEXTS).labels == bundle.predict(TEXTS).labels


def test_a_folder_of_something_else_is_not_replaced(bundle, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    assert "exists and is not a model folder" in refusal(bertjax.save, bundle, tmp_path / "thesis")
    assert "exists and is not a model folder" in refusal(bertjax.save, bundle, tmp_path / "thesis" / "chapter.tex")
    assert "cannot write" in refusal(bertjax.save, bundle, tmp_path / "thesis" / "chapter.tex" / "bundle")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years"


def test_parameters_that_do_not_fit_the_config_are_not_written(bundle, tmp_path):
    params = {**bundle.params, "classifier": {"kernel": bundle.params["classifier"]["kernel"][:, :2]}}
    message = refusal(bertjax.save, bertjax.Bundle(bundle.config, params), tmp_path / "wrong")
    assert "missing: classifier/bias (3,)" in message
    assert "shape of classifier/kernel" in message
    assert not (tmp_path / "wrong").exists()


# --- open ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_module_and_parameters_are_ready_to_apply(bundle):
    """As in the README, with NumPy arrays and nothing compiled."""
    ids = np.array([[2, 5, 6, 3]])
    output = bundle.model.apply({"params": bundle.params}, ids, np.ones_like(ids), np.zeros_like(ids))
    assert output.logits.shape == (1, 3)
    assert len(output.hidden_states) == bundle.config.num_hidden_layers + 1
    assert len(output.attention_scores) == bundle.config.num_hidden_layers


def test_settings_of_the_run_are_chosen_when_opening(stock):
    config = bertjax.load(stock, dtype="bfloat16", remat=True, hidden_dropout_prob=0.0).config
    assert (config.dtype, config.remat, config.hidden_dropout_prob) == ("bfloat16", True, 0.0)
    message = refusal(bertjax.load, stock, hidden_size=8)
    assert message.startswith("hidden_size cannot be set when a model is loaded; these can: dtype, attention, remat")
    for kernel, device in (("cudnn", "an NVIDIA GPU"), ("flash", "a TPU")):
        message = refusal(bertjax.load, stock, attention=kernel, dtype="bfloat16")
        assert f"attention='{kernel}' needs {device}" in message


ALBERT = {"model_type": "albert", "architecture": "AlbertForSequenceClassification", "embedding_size": 6}
HALTING = {"num_hidden_layers": 1, "recurrence": Recurrence(3, "sinusoid", "sinusoid", halting=Halting())}


@pytest.mark.parametrize("changes", [{}, {**ALBERT, "num_hidden_groups": 1}, HALTING])
def test_rounding_the_matrices_once_is_rounding_them_at_every_call(changes):
    model, params = tiny(dtype="bfloat16", **changes)
    opened = bertjax.Bundle(model.config, params)
    layers = flatten(opened.device_params["encoder"])
    assert any(leaf.dtype == jnp.bfloat16 for leaf in layers.values())
    once, always = (apply(model, given, tiny_batch()).logits for given in (opened.device_params, params))
    np.testing.assert_array_equal(once, always)


def test_a_path_that_is_no_model_says_what_may_stand_there(tmp_path):
    assert "give a folder, hf:NAME for a model of the hub, or demo" in refusal(bertjax.load, tmp_path / "nowhere")
    assert "has no config.json" in refusal(bertjax.load, tmp_path)


def test_the_config_alone_is_read_without_weights(folder, bundle):
    (folder / "model.safetensors").unlink()
    assert stored_config(folder) == bundle.config


def test_every_kind_of_task_has_its_head():
    assert architecture_for("regression", "bert") == "BertForSequenceClassification"
    assert architecture_for("tokens", "distilbert") == "DistilBertForTokenClassification"
    assert architecture_for("qa", "bert") == "BertForQuestionAnswering"


# --- hub -------------------------------------------------------------------------------------------------------------


def test_a_hub_name_opens_from_the_local_cache_without_a_network(stock, tmp_path, monkeypatch):
    revision, home = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--model"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(stock, home / "snapshots" / revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert bertjax.load("hf:some/model").predict(["good"]).labels == bertjax.load(stock).predict(["good"]).labels
    message = refusal(bertjax.load, "hf:some/other")
    assert message.startswith("cannot download hf:some/other from the hub: ")
    assert message.endswith("Check the name and the network, or give a folder.")
    assert len(message.splitlines()) == 2


def test_of_a_hub_folder_no_pickle_is_fetched(stock, monkeypatch):
    names = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    names += ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    names += ["added_tokens.json", "special_tokens_map.json", "spiece.model"]
    others = [
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "onnx/model.onnx",
        "adapter.safetensors",
        "a.py",
    ]

    def download(name, allow_patterns):
        assert name == "some/model"
        kept = huggingface_hub.utils.filter_repo_objects([*names, *others], allow_patterns=allow_patterns)
        assert list(kept) == names
        return str(stock)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert bertjax.load("hf:some/model").tokenizer is not None


def test_whatever_the_hub_client_raises_is_one_clear_message(monkeypatch):
    def fail(name, allow_patterns):
        raise ConnectionError("")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert refusal(bertjax.load, "hf:some/model").startswith(
        "cannot download hf:some/model from the hub: ConnectionError"
    )


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 100_000},
        {"num_hidden_layers": 10**9},
        {"id2label": None, "num_labels": 10_000_000_000},
        {"id2label": None, "num_labels": 1_000_000, "hidden_size": 4096},
        {"vocab_size": 10**9},
        {"max_position_embeddings": 2**31 - 1},
        {"intermediate_size": 2 * 10**9},
    ],
    ids=str,
)
def test_sizes_are_compared_with_the_files_before_anything_is_built(folder, changes):
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    began = time.monotonic()
    said = [refusal(bertjax.load, folder), refusal(stored_config, folder)]
    assert time.monotonic() - began < 5
    for message in said:
        assert re.search(
            rf"config.json says ({'|'.join(changes)})=.*too small for such a model \([\d,]+ bytes in total\)", message
        )


def test_sizes_of_our_own_configs_are_compared_too(bundle, tmp_path):
    config = bundle.config.replace(num_hidden_groups=1)
    params = bundle.params | {"encoder": {"layer_0": bundle.params["encoder"]["layer_0"]}}
    bertjax.save(bertjax.Bundle(config, params), tmp_path / "shared")
    content = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert content["model_type"] == "bertjax"
    content["bertjax"]["num_hidden_layers"] = 100_000
    (tmp_path / "shared" / "config.json").write_text(json.dumps(content))
    (tmp_path / "shared" / manifest.FILE).unlink()
    assert "says num_hidden_layers=100000" in refusal(bertjax.load, tmp_path / "shared")


def test_a_model_that_could_not_be_saved_is_refused_when_it_is_made(bundle, monkeypatch):
    """Types of fields are checked while tests run alone, so that a config cannot hold a number of NumPy here."""
    monkeypatch.setattr("bertjax.model.hf_config.config_to_json", lambda *_: {"layer_norm_eps": np.float32(0)})
    said = refusal(bertjax.Bundle, bundle.config, bundle.params)
    assert said == "a model with such a config could not be saved: Object of type float32 is not JSON serializable."


@pytest.mark.parametrize("label", ["\ud800", "half \udcff of a name"])
def test_a_head_for_labels_that_could_not_be_saved_is_refused_before_it_is_trained(stock, label):
    assert "expected Unicode text" in refusal(bertjax.load, stock, labels=("good", label))
