"""What ONNX Runtime computes from our file is what JAX computes, for every kind of model that is written down."""

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.check import CLOSE, expected_output, open_export, random_tokens
from bertjax.export.folder import exported_file
from bertjax.export.onnx import onnx_model
from bertjax.model import BertConfig, ExitRule, Exits, LayerConfig, build, init_params
from bertjax.prune import keep_heads, keep_neurons
from bertjax.quantize import Activation, Format, Quantization, quantise_weights
from bertjax.share import factorise_words
from tests.model.tiny import apply, tiny, tiny_batch
from tests.train.tiny import ROOT, write_model

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LABELS = ("a", "b", "c")
INT8 = Format(bits=7)
CLASSIFIER = BertConfig(architecture="BertForSequenceClassification", labels=LABELS, **SIZES)
MODELS = {
    "bert": CLASSIFIER,
    "ragged": CLASSIFIER.replace(layers=(LayerConfig(1, 24), LayerConfig(2, 8)), hidden_act="relu"),
    "narrow": BertConfig(**{**vars(CLASSIFIER), "hidden_size": 18, "embedding_size": 18}),
    "empty": CLASSIFIER.replace(layers=(LayerConfig(0, 24), LayerConfig(2, 0))),
    "shared": CLASSIFIER.replace(layers=(LayerConfig(3, 40), LayerConfig(3, 40, attention=0, ffn=0, ffn_norm=1))),
    "tinybert": CLASSIFIER.replace(classifier_activation="relu"),
    "bare": BertConfig(architecture="BertModel", **SIZES),
    "tokens": BertConfig(architecture="BertForTokenClassification", labels=LABELS, hidden_act="gelu_new", **SIZES),
    "answers": BertConfig(architecture="BertForQuestionAnswering", **SIZES),
    "distilbert": BertConfig(
        model_type="distilbert", architecture="DistilBertForSequenceClassification", type_vocab_size=0, **SIZES
    ),
    "albert": BertConfig(
        model_type="albert",
        architecture="AlbertForSequenceClassification",
        embedding_size=16,
        num_hidden_groups=1,
        **SIZES,
    ),
}


def run(model: Any, inputs: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = dict(zip(("input_ids", "attention_mask", "token_type_ids"), inputs, strict=True))
    outputs: Any = session.run(None, {name: given[name].astype(np.int64) for name in names})
    return np.stack(outputs, axis=-1) if len(outputs) == 2 and outputs[0].ndim == 2 else outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_file_computes_what_jax_does(name: str):
    config = MODELS[name]
    params = init_params(config, 0)
    model = onnx_model(config, params)
    for number, shape in enumerate(((1, 5), (3, 17), (2, 64))):
        inputs = random_tokens(config, *shape, number)
        expected = expected_output(Bundle(config, params), inputs)
        real = inputs[1][..., None] if expected.ndim == 3 else 1
        np.testing.assert_allclose(run(model, inputs) * real, expected * real, rtol=1e-4, atol=1e-5)


def test_a_factorised_table_is_written_as_two():
    config, params = factorise_words(CLASSIFIER, init_params(CLASSIFIER, 0), 10)
    inputs = random_tokens(config, 3, 17, 0)
    given = run(onnx_model(config, params), inputs)
    np.testing.assert_allclose(given, expected_output(Bundle(config, params), inputs), rtol=1e-4, atol=1e-5)


def test_what_layers_share_is_stored_once():
    sizes = {}
    for name in ("bert", "shared"):
        model = onnx_model(MODELS[name], init_params(MODELS[name], 0))
        sizes[name] = sum(int(np.prod(array.dims)) for array in model.graph.initializer)
    layer = 4 * (24 * 24 + 24) + 2 * 24 * 40 + 40 + 24 + 2 * 24  # one of its two LayerNorms is its own
    assert sizes["bert"] - sizes["shared"] == layer


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CLASSIFIER.replace(architecture="BertForTokenClassification"), (2, 4, 2)),
        (CLASSIFIER, (1, 4, 2)),  # of the last layer one row is computed, which is no pattern of theirs
    ],
    ids=["tokens", "classifier"],
)
def test_onnx_runtime_knows_attention_and_the_sums_around_it(config: BertConfig, expected: tuple, tmp_path):
    from onnxruntime.transformers import optimizer

    onnx.save(onnx_model(config, init_params(config, 0)), tmp_path / "model.onnx")
    found = optimizer.optimize_model(str(tmp_path / "model.onnx"), "bert", num_heads=3, hidden_size=24)
    fused = found.get_fused_operator_statistics()
    assert (fused["Attention"], fused["SkipLayerNormalization"], fused["BiasGelu"]) == expected


def test_a_classifier_computes_one_row_of_its_last_layer():
    """Queries, what follows them, and the head: of the first row alone, products of 1 row in a batch of 1."""
    model = onnx_model(CLASSIFIER, init_params(CLASSIFIER, 0))
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMul"]
    for name in products:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.ones((1, 9), np.int64)
    given = {one.name: ids for one in session.get_inputs()}
    rows = [np.asarray(array).shape[-2] for array in session.run(products, given)]
    everywhere = [9, 9, 9, 9, 9, 9, 9, 9]  # queries, keys, values, scores, context, output, and two of the ffn
    assert rows == [*everywhere, 1, 9, 9, 1, 1, 1, 1, 1, 1, 1]  # the last two are the head


def quantised(activation: Activation, weights: Format = INT8) -> Bundle:
    config, params = quantise_weights(
        CLASSIFIER,
        init_params(CLASSIFIER, 0),
        (
            (r"^embeddings/.*embedding$", Format(block_rows=1, block_cols=None)),
            (r"^(encoder|pooler).*kernel$", weights),
        ),
    )
    parts = (
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/output",
        "ffn/intermediate",
        "ffn/output",
    )
    sites = [f"step_{number}/{part}" for number in range(2) for part in parts] + ["pooler"]
    assert config.quantization is not None
    rounded = Quantization(config.quantization.weights, tuple((site, activation) for site in sites))
    return Bundle(config.replace(quantization=rounded), params)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [Activation(8, -3.0, 4.0), Activation()], ids=["fixed", "token"])
def test_integers_compute_what_they_do_in_jax(activation: Activation, tmp_path):
    bundle = quantised(activation)
    model = onnx_model(bundle.config, bundle.params)
    differences = []
    for number, shape in enumerate(((1, 5), (6, 17), (9, 40))):
        inputs = random_tokens(bundle.config, *shape, number)
        differences += np.abs(run(model, inputs) - expected_output(bundle, inputs)).max(axis=1).tolist()
    assert np.median(differences) < 1e-4  # a number between two integers may fall to the other side
    assert np.max(differences) < 0.1
    onnx.save(model, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "executed.onnx"), 3
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    executed = Counter(node.op_type for node in onnx.load(tmp_path / "executed.onnx").graph.node)
    assert executed["MatMulIntegerToFloat"] + executed["MatMulInteger"] + executed["QLinearMatMul"] >= 12, executed


@pytest.mark.slow
@pytest.mark.parametrize("activation", [Activation(8, -3.0, 4.0), Activation()], ids=["fixed", "token"])
def test_a_text_gets_the_same_answer_beside_others_and_with_padding(activation: Activation):
    bundle = quantised(activation)
    model = onnx_model(bundle.config, bundle.params)
    ids, mask, types = random_tokens(bundle.config, 5, 20, 0)
    together = run(model, (ids, mask, types))
    garbage = [np.pad(x, ((0, 2), (0, 9)), constant_values=c) for x, c in ((ids, 7), (mask, 0), (types, 1))]
    np.testing.assert_allclose(run(model, garbage)[:5], together, rtol=1e-5, atol=1e-5)
    for row in range(5):
        alone = [x[row : row + 1, : mask[row].sum()] for x in (ids, mask, types)]
        np.testing.assert_allclose(run(model, alone)[0], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_without_an_integer_product_are_floating_point():
    bundle = quantised(Activation(8, -3.0, 4.0), Format(2, "asymmetric", block_cols=6))
    model = onnx_model(bundle.config, bundle.params)
    inputs = random_tokens(bundle.config, 6, 17, 0)
    difference = np.abs(run(model, inputs) - expected_output(bundle, inputs)).max(axis=1)
    assert np.median(difference) < 1e-4
    assert not any(node.op_type == "MatMulInteger" for node in model.graph.node)


def test_what_cannot_be_expressed_is_refused_with_the_reason():
    narrow = quantised(Activation(4, -3.0, 4.0))
    with pytest.raises(UserError, match=r"4 bits .* cannot be exported to ONNX; quantise them to 8 bits"):
        onnx_model(narrow.config, narrow.params)
    many = Exits(tuple(range(32)), "shared", ExitRule("entropy", 0.1))
    deep = CLASSIFIER.replace(num_hidden_layers=33, exits=many)
    with pytest.raises(UserError, match="this model has 32 exits, and an ONNX file can hold 31"):
        onnx_model(deep, {})


def test_as_many_exits_as_a_file_can_hold_are_read():
    most = Exits(tuple(range(31)), "shared", ExitRule("max_probability", 1.0))
    deep = CLASSIFIER.replace(num_hidden_layers=32, num_hidden_groups=1, exits=most)
    model = onnx_model(deep, init_params(deep, 0)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids = np.ones((2, 5), np.int64)
    given = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    np.testing.assert_array_equal(session.run(["depth"], given)[0], [32, 32])  # nobody is as sure as that


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"architecture": "BertForSequenceClassification", "labels": LABELS, "initializer_range": 0.2}
    return write_model(tmp_path_factory.mktemp("export") / "model", **sizes)


@pytest.mark.parametrize("to", ["onnx", "stablehlo"])
def test_an_exported_folder_is_checked_and_complete(folder, tmp_path, to: Any):
    assert export(folder, to, tmp_path / "out") < CLOSE
    assert exported_file(to, tmp_path / "out") is not None
    assert {"config.json", "tokenizer.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(content["id2label"].values()) == list(LABELS)
    bundle = bertjax.load(folder)
    inputs = random_tokens(bundle.config, 3, 11, 5)
    given = open_export(to, tmp_path / "out")(*inputs).output
    np.testing.assert_allclose(given, expected_output(bundle, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_stablehlo_needs_jax_and_nothing_of_ours(folder, tmp_path):
    export(folder, "stablehlo", tmp_path / "out")
    ids = np.array([[2, 6, 7, 3]], np.int32)
    bundle = bertjax.load(folder)
    expected = expected_output(bundle, (ids, np.ones_like(ids), np.zeros_like(ids)))
    program = f"""
import sys
for name in ("flax", "bertjax"):
    sys.modules[name] = None
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file
program = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
stored = load_file("model.safetensors")
weights = [stored[name] for name in sorted(stored)]
ids = np.array({ids.tolist()}, np.int32)
print(jax.jit(program.call)(weights, ids, np.ones_like(ids), np.zeros_like(ids)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_wrong_export_is_an_error_and_leaves_no_folder(folder, tmp_path, monkeypatch):
    from bertjax.export import folder as module

    right = onnx_model

    def wrong(config: Any, params: Any, weights: Any) -> Any:
        params = {**params, "classifier": {**params["classifier"], "bias": params["classifier"]["bias"] + 1}}
        return right(config, params, weights)

    monkeypatch.setattr(module, "onnx_model", wrong)
    with pytest.raises(UserError, match="the outputs of the export differ from JAX by"):
        export(folder, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_what_is_wrong(folder, tmp_path):
    command = [sys.executable, "-m", "bertjax.cli", "export", str(folder)]
    done = subprocess.run([*command, f"--out={tmp_path / 'a'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'a'}/onnx/model.onnx: the folder has 0.0 MB; its outputs differ")
    done = subprocess.run(
        [*command, "--to=tflite", f"--out={tmp_path / 'b'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "--to tflite: expected one of onnx, stablehlo, huggingface, litert.\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="is not an exported folder, so it is not replaced"):
        export(folder, "onnx", tmp_path / "mine")


def test_layers_of_different_shapes_are_fused_each_with_its_own_heads(tmp_path):
    from onnxruntime.transformers import optimizer

    model, params = tiny(num_hidden_layers=3, architecture="BertForTokenClassification")
    config, params = keep_neurons(*keep_heads(model.config, params, {0: [1], 1: [0, 2]}), {1: [0, 4, 7], 2: [5]})
    onnx.save(onnx_model(config, params), tmp_path / "model.onnx")
    found = optimizer.optimize_model(str(tmp_path / "model.onnx"), "bert", num_heads=0, hidden_size=0)
    heads = [
        attribute.i
        for node in found.model.graph.node
        if node.op_type == "Attention"
        for attribute in node.attribute
        if attribute.name == "num_heads"
    ]
    assert heads == [1, 2, 3]
    found.save_model_to_file(str(tmp_path / "fused.onnx"))
    given = {name: array.astype(np.int64) for name, array in tiny_batch().items()}
    expected = apply(build(config), params, tiny_batch()).logits
    real = tiny_batch()["attention_mask"] > 0
    for name in ("model", "fused"):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        logits: Any = session.run(["logits"], given)[0]
        np.testing.assert_allclose(logits[real], np.asarray(expected)[real], rtol=0, atol=1e-4)
