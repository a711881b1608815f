"""An exported folder in the hands of a client that nobody here wrote: it answers as `predict` does.

`Client` does what transformers.js 4 does with a folder, rule by rule (src/models/session.js, src/utils/dtypes.js and
src/pipelines/text-classification.js of its package): which file it opens, which families it knows, where it cuts, and
what it makes of logits. sentence-transformers and text-embeddings-inference look for `onnx/model.onnx`, too.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from scipy.special import expit, softmax

import bertjax
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.folder import exported_file
from bertjax.measure.cost import stored_bytes
from bertjax.measure.onnx import FLOATS, INTEGERS, onnx_file, open_session, read_arrays
from bertjax.model.hf_config import config_to_json
from bertjax.prune import keep_neurons
from bertjax.quantize import Activation, Format, Quantization, quantise_weights
from bertjax.storage import manifest
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify.folder import runtime_of, shipped_bytes
from tests.train.tiny import BAD, FILLER, GOOD, write_model

onnxruntime = pytest.importorskip("onnxruntime", reason="an extra")

LABELS = ("schlecht", "sehr gut", "naja")
TEXTS = ["a fine film", "the cast and its dull story", " ".join((*FILLER, *GOOD, *BAD) * 45)]
FAMILIES = "bert", "distilbert", "albert", "mobilebert"
SUFFIXES = {"fp32": "", "q8": "_quantized"}


class Client:
    """A pipeline over a folder. `device` says which file it takes where the folder does not: fp32 on a server, q8 in a
    browser."""

    def __init__(self, folder: Path, device: str = "fp32"):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert self.config["model_type"] in FAMILIES, f"Unsupported model type: {self.config['model_type']}"
        dtype = self.config.get("transformers.js_config", {}).get("dtype", device)
        self.session = onnxruntime.InferenceSession(folder / "onnx" / f"model{SUFFIXES[dtype]}.onnx")
        limit = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(limit)

    def __call__(self, text: str) -> tuple[str, float]:
        read = self.tokenizer.encode(text)
        given = {"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}
        inputs = {one.name: np.array([given[one.name]], np.int64) for one in self.session.get_inputs()}
        (logits,) = self.session.run(["logits"], inputs)[0]
        several = self.config.get("problem_type") == "multi_label_classification"
        shares = expit(logits) if several else softmax(logits)
        return self.config["id2label"][str(shares.argmax())], float(shares.max())


def bundle_of(folder: Path, **changes: Any) -> bertjax.Bundle:
    """A classifier with random numbers, its tokenizer without a limit."""
    sizes = {"labels": LABELS, "initializer_range": 0.5, **changes}
    whole = bertjax.load(write_model(folder, **{"architecture": "BertForSequenceClassification", **sizes}))
    return dataclasses.replace(whole, tokenizer=Tokenizer.wrap(whole.tokenizer))


def plain(folder: Path) -> bertjax.Bundle:
    return bundle_of(folder)


def several_labels(folder: Path) -> bertjax.Bundle:
    return bundle_of(folder, problem_type="multi_label_classification")


def distilbert(folder: Path) -> bertjax.Bundle:
    family = {"model_type": "distilbert", "architecture": "DistilBertForSequenceClassification", "type_vocab_size": 0}
    return bundle_of(folder, **family)


def albert(folder: Path) -> bertjax.Bundle:
    family = {"model_type": "albert", "architecture": "AlbertForSequenceClassification", "embedding_size": 8}
    return bundle_of(folder, **family, num_hidden_groups=1)


def ragged(folder: Path) -> bertjax.Bundle:
    """Layers that no stock BERT has: of our own type as a bundle."""
    whole = bundle_of(folder)
    config, params = keep_neurons(whole.config, whole.params, {0: [1, 5, 7]})
    assert config_to_json(config)["model_type"] == "bertjax"
    return dataclasses.replace(whole, config=config, params=params)


def integers(folder: Path) -> bertjax.Bundle:
    whole = bundle_of(folder)
    rules = ((r"^embeddings/.*embedding$", Format(block_rows=1, block_cols=None)), (r"^encoder.*kernel$", Format()))
    config, params = quantise_weights(whole.config, whole.params, rules)
    assert config.quantization is not None
    sites = [f"step_{step}/ffn/{part}" for step in range(2) for part in ("intermediate", "output")]
    rounded = Quantization(config.quantization.weights, tuple((site, Activation()) for site in sites))
    return dataclasses.replace(whole, config=config.replace(quantization=rounded), params=params)


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, several_labels, distilbert, albert, ragged, integers])
def test_another_client_labels_as_predict_does(make: Any, tmp_path: Path):
    bundle = make(tmp_path / "model")
    bertjax.save(bundle, tmp_path / "bundle")
    export(tmp_path / "bundle", "onnx", tmp_path / "out")
    assert onnx_file(tmp_path / "out") == tmp_path / "out" / (INTEGERS if make is integers else FLOATS)
    said = bundle.predict(TEXTS)
    assert said.truncated == 1
    assert said.probabilities is not None
    for device in SUFFIXES:
        client = Client(tmp_path / "out", device)
        for text, shares in zip(TEXTS, said.probabilities, strict=True):
            label, probability = client(text)
            assert label == LABELS[shares.argmax()]
            assert probability == pytest.approx(float(shares.max()), abs=0.02 if make is integers else 1e-4)


@pytest.mark.slow
def test_the_family_stands_in_the_config_and_what_is_ours_under_one_key(tmp_path: Path):
    bertjax.save(integers(tmp_path / "model"), tmp_path / "bundle")
    export(tmp_path / "bundle", "onnx", tmp_path / "out")
    kept, given = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("bundle", "out"))
    assert (kept["model_type"], given["model_type"]) == ("bertjax", "bert")
    assert given.pop("transformers.js_config") == {"dtype": "q8"}
    assert set(given) == set(kept)
    assert set(given["bertjax"]) == {*kept["bertjax"], "bundle", "onnx"}
    assert (
        shipped_bytes(tmp_path / "out") > stored_bytes(tmp_path / "out") == (tmp_path / "out" / INTEGERS).stat().st_size
    )


@pytest.mark.slow
def test_stock_code_still_refuses_a_folder_whose_weights_it_would_misread(tmp_path: Path):
    bertjax.save(integers(tmp_path / "model"), tmp_path / "bundle")
    export(tmp_path / "bundle", "stablehlo", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "bertjax"


@pytest.mark.slow
def test_a_tokenizer_that_reads_more_than_the_model_is_held_to_it(tmp_path: Path):
    for name, limit in (("longer", 10**9), ("shorter", 11)):
        whole = bundle_of(tmp_path / f"{name}-model")
        bertjax.save(whole, tmp_path / name)
        content = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        said = json.dumps({**content, "model_max_length": limit})
        manifest.put_text(tmp_path / name, "tokenizer_config.json", said)
        export(tmp_path / name, "onnx", tmp_path / f"{name}-out")
        said = json.loads((tmp_path / f"{name}-out" / "tokenizer_config.json").read_text())["model_max_length"]
        assert said == min(limit, whole.config.max_position_embeddings)


def test_a_folder_with_its_file_at_the_top_opens_as_before(tmp_path: Path):
    bertjax.save(plain(tmp_path / "model"), tmp_path / "bundle")
    export(tmp_path / "bundle", "onnx", tmp_path / "out")
    arrays = read_arrays(tmp_path / "out")
    (tmp_path / "out" / FLOATS).rename(tmp_path / "out" / "model.onnx")
    (tmp_path / "out" / "onnx").rmdir()
    assert runtime_of(tmp_path / "out") == "onnx"
    assert set(read_arrays(tmp_path / "out")) == set(arrays)
    assert open_session(tmp_path / "out", threads=1).get_outputs()[0].name == "logits"
    export(tmp_path / "bundle", "onnx", tmp_path / "out")  # and is replaced by one of today
    assert exported_file("onnx", tmp_path / "out") == tmp_path / "out" / FLOATS
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_of_a_checkpoint_with_files_for_other_clients_it_is_the_weights_that_count(tmp_path: Path):
    bertjax.save(plain(tmp_path / "model"), tmp_path / "bundle")
    (tmp_path / "bundle" / "onnx").mkdir()
    for name in (FLOATS, INTEGERS):
        (tmp_path / "bundle" / name).write_bytes(b"of somebody else")
    assert runtime_of(tmp_path / "bundle") == "jax"
    (tmp_path / "bundle" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"onnx/model\.onnx and onnx/model_quantized\.onnx, which is ambiguous"):
        runtime_of(tmp_path / "bundle")
