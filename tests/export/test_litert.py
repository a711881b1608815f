"""What LiteRT computes from our file is what JAX computes; and what is said where LiteRT is not there."""

import sys
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.export import export
from bertjax.export.__main__ import main
from bertjax.export.check import CLOSE, expected_output, random_tokens
from bertjax.export.litert import INSTALL, answer_each, litert_model
from bertjax.model import BertConfig, LayerConfig, init_params
from bertjax.predict import forward
from bertjax.quantize import Activation, Format, quantise_weights
from tests.export.test_onnx import quantised
from tests.train.tiny import write_model

SIZES: dict[str, Any] = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
CLASSIFIER = BertConfig(
    architecture="BertForSequenceClassification",
    labels=("a", "b", "c"),
    intermediate_size=40,
    max_position_embeddings=64,
    initializer_range=0.2,
    **SIZES,
)
MODELS = {
    "bert": CLASSIFIER,
    "ragged": CLASSIFIER.replace(layers=(LayerConfig(1, 24), LayerConfig(2, 8)), hidden_act="relu"),
    "tokens": CLASSIFIER.replace(architecture="BertForTokenClassification", hidden_act="gelu_new"),
}


def converter() -> None:
    about = f"the converter is not installed, it is no part of the test extra: {INSTALL}"
    pytest.importorskip("litert_converter", reason=about)
    pytest.importorskip("ai_edge_litert", reason=about)


@pytest.mark.parametrize("name", MODELS)
def test_the_file_computes_what_jax_does_at_any_length(name: str, tmp_path):
    converter()
    bundle = Bundle(MODELS[name], init_params(MODELS[name], 0))
    bertjax.save(bundle, tmp_path / "bundle")
    assert export(tmp_path / "bundle", "litert", tmp_path / "out") < CLOSE
    for length in (3, 64):
        ids = np.random.default_rng(length).integers(0, 60, (2, length)).astype(np.int32)
        inputs = ids, (np.arange(length) < [[length], [2]]).astype(np.int32), np.zeros_like(ids)
        expected = np.asarray(forward(bundle.model, bundle.params, *inputs))
        given = answer_each(tmp_path / "out" / "model.tflite", *inputs)
        real = inputs[1][..., None] if expected.ndim == 3 else 1
        np.testing.assert_allclose(given * real, expected * real, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [Activation(8, -3.0, 4.0), Activation()], ids=["fixed", "token"])
def test_integers_are_multiplied_as_integers_with_our_ranges(activation, tmp_path):
    converter()
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    bundle = quantised(activation)
    (tmp_path / "model.tflite").write_bytes(litert_model(bundle.model, bundle.params))
    differences = []
    for length in (3, 17, 40):
        inputs = random_tokens(bundle.config, 4, length, length)
        given = answer_each(tmp_path / "model.tflite", *inputs)
        differences += np.abs(given - expected_output(bundle, inputs)).max(axis=1).tolist()
    assert np.median(differences) < 1e-5  # a number between two integers may fall to the other side
    assert np.max(differences) < 0.1
    run = Interpreter(str(tmp_path / "model.tflite"))
    dtypes = {one["index"]: one["dtype"] for one in run.get_tensor_details()}
    kinds = [
        [dtypes[index] for index in one["inputs"]] + [dtypes[index] for index in one["outputs"]]
        for one in run._get_ops_details()
        if one["op_name"] == "BATCH_MATMUL"
    ]
    assert kinds.count([np.int8, np.int8, np.int32]) == 2 * 6 + 1


@pytest.mark.slow
def test_weights_of_few_bits_take_a_byte(tmp_path):
    converter()
    config = CLASSIFIER.replace(vocab_size=4000)
    rules = ((r"embedding$", Format(4, "asymmetric", block_rows=1, block_cols=None)), (r"kernel$", Format(2)))
    bundle = Bundle(*quantise_weights(config, init_params(config, 0), rules))
    content = litert_model(bundle.model, bundle.params)
    (tmp_path / "model.tflite").write_bytes(content)
    inputs = random_tokens(bundle.config, 2, 9, 0)
    given = answer_each(tmp_path / "model.tflite", *inputs)
    np.testing.assert_allclose(given, expected_output(bundle, inputs), rtol=0, atol=1e-5)
    assert len(content) < 4000 * 24 + 4000 * 8 + 150_000


def test_without_the_converter_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litert_converter", None)
    model = write_model(tmp_path / "model", architecture="BertForSequenceClassification", labels=("a", "b"))
    with pytest.raises(SystemExit) as left:
        main([str(model), "--to=litert", f"--out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"an export to litert needs litert_converter: {INSTALL}\n"
    assert not (tmp_path / "out").exists()
