"""A file drops the tokens that the bundle drops, whatever else is in the batch."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.check import CLOSE, check_export, expected_output, near_ties, random_tokens
from bertjax.export.folder import write_export
from bertjax.export.onnx import onnx_model
from bertjax.jobs.latency import measure_table
from bertjax.model import BertConfig, LayerConfig, Retention, init_params
from bertjax.params import flatten, unflatten
from bertjax.text.examples import Examples
from tests.export.test_onnx import LABELS, run
from tests.model.test_tokens import CLOSE as TIE
from tests.model.test_tokens import run as apply_model
from tests.model.test_tokens import survivors_of
from tests.train.tiny import write_model

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
    "initializer_range": 0.2,
}
CLASSIFIER = BertConfig(architecture="BertForSequenceClassification", labels=LABELS, **SIZES)
MODELS = {
    "classifier": CLASSIFIER,
    "tags": CLASSIFIER.replace(architecture="BertForTokenClassification"),
    "answers": BertConfig(architecture="BertForQuestionAnswering", **SIZES),
    "bare": BertConfig(architecture="BertModel", **SIZES),
    "distilbert": BertConfig(
        model_type="distilbert",
        architecture="DistilBertForTokenClassification",
        labels=LABELS,
        type_vocab_size=0,
        **SIZES,
    ),
    "shared": CLASSIFIER.replace(layers=(LayerConfig(3, 40), *[LayerConfig(3, 40, 0, 0, 0, 0)] * 3)),
    "empty": CLASSIFIER.replace(layers=(LayerConfig(3, 40), LayerConfig(0, 40), LayerConfig(2, 0), LayerConfig(3, 8))),
}
NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHARES = (0.8, 0.8, 0.5, 0.25)


def with_tokens(name: str, retention: Retention) -> Bundle:
    config = MODELS[name].replace(retention=retention)
    return Bundle(config, init_params(config, 0))


def gaps(bundle: Bundle, inputs: Any) -> np.ndarray:
    """For each text, by how little the closest choice between two tokens was made."""
    retention = bundle.config.retention
    assert retention is not None
    out = apply_model(bundle.model, bundle.params, dict(zip(NAMES, inputs, strict=True)))
    steps = retention.steps
    if retention.ranked_by in ("first", "random"):
        return np.full(len(inputs[0]), np.inf)
    sizes = inputs[1].sum(axis=1).tolist()
    return np.array(
        [min(survivors_of(out, row, n, retention, size).gap for n in steps) for row, size in enumerate(sizes)]
    )


def compare(bundle: Bundle, model: Any, inputs: Any) -> int:
    """Holds the file against the bundle; returns how many texts were not compared, because a choice was too close."""
    expected, found = expected_output(bundle, inputs), run(model, inputs)
    real = inputs[1][..., None] if expected.ndim == 3 else np.ones((len(expected), 1))
    sure = gaps(bundle, inputs) > TIE
    np.testing.assert_allclose((found * real)[sure], (expected * real)[sure], rtol=1e-5, atol=1e-5)
    return int(np.sum(~sure))


CASES = [
    *(("tags", ranked_by, after) for ranked_by in ("others", "all", "random") for after in ("attention", "layer")),
    ("classifier", "others", "attention"),
    ("classifier", "first", "layer"),
    ("answers", "all", "layer"),
    ("bare", "first", "attention"),
    ("distilbert", "others", "layer"),
    ("shared", "random", "attention"),
    ("empty", "others", "attention"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranked_by", "after"), CASES)
def test_a_file_computes_what_the_bundle_does(name: str, ranked_by: Any, after: Any):
    bundle = with_tokens(name, Retention(SHARES, ranked_by, after))
    model = onnx_model(bundle.config, bundle.params)
    shapes = (1, 5), (9, 17), (6, 48)
    close = [compare(bundle, model, random_tokens(bundle.config, *shape, 0)) for shape in shapes]
    assert sum(close) <= 1


@pytest.mark.parametrize(
    ("name", "ranked_by", "after"), [("tags", "all", "attention"), ("classifier", "others", "layer")]
)
def test_a_file_drops_the_tokens_below_a_threshold_and_its_arrays_shrink(name: str, ranked_by: Any, after: Any):
    retention = Retention((1.0, 1.0, 0.9, 0.9), ranked_by, after, thresholds=(0.0, 0.025, 0.04, 0.0))
    bundle = with_tokens(name, retention)
    model = onnx_model(bundle.config, bundle.params)
    shapes = (1, 5), (9, 17), (6, 48)
    assert sum(compare(bundle, model, random_tokens(bundle.config, *shape, 0)) for shape in shapes) <= 1
    model.graph.output.append(onnx.helper.make_tensor_value_info("step_2/hidden", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = random_tokens(bundle.config, 1, 48, 0)
    given = {name: array.astype(np.int64) for name, array in zip(NAMES, inputs, strict=True)}
    [found] = session.run(["step_2/hidden"], given)
    left = apply_model(bundle.model, bundle.params, dict(zip(NAMES, inputs, strict=True))).tokens[3]
    assert np.asarray(found).shape[1] == int(left.real.sum()) < 0.9 * 48


def test_a_text_gets_the_same_answer_beside_others_and_with_padding():
    """Alone it goes on with fewer rows than beside longer ones."""
    bundle = with_tokens("tags", Retention(SHARES, multiple=4))
    model = onnx_model(bundle.config, bundle.params)
    ids, mask, types = random_tokens(bundle.config, 7, 20, 0)
    together = run(model, (ids, mask, types))
    garbage = [np.pad(x, ((0, 2), (0, 9)), constant_values=c) for x, c in ((ids, 7), (mask, 0), (types, 1))]
    for row, length in enumerate(mask.sum(axis=1)):
        alone = run(model, [x[row : row + 1, :length] for x in (ids, mask, types)])[0]
        np.testing.assert_allclose(together[row, :length], alone, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(run(model, garbage)[row, :length], alone, rtol=1e-5, atol=1e-5)


def test_of_equal_tokens_the_earlier_goes_on():
    """Without positions, tokens of the same word get the same attention, and a tag shows how far its token went."""
    bundle = with_tokens("tags", Retention((0.5, 0.5, 0.5, 0.5)))
    flat = flatten(bundle.params)
    unplaced = {
        name: leaf * (not name.endswith(("position/embedding", "token_type/embedding"))) for name, leaf in flat.items()
    }
    bundle = Bundle(bundle.config, unflatten(unplaced))
    ids = np.full((1, 9), 7, np.int32)
    ids[0, 0], ids[0, 4] = 2, 8
    inputs = ids, ids * 0 + 1, ids * 0
    found = run(onnx_model(bundle.config, bundle.params), inputs)
    np.testing.assert_allclose(found, expected_output(bundle, inputs), rtol=1e-5, atol=1e-5)
    stayed = np.abs(found[0, [1, 2, 3, 5]] - found[0, 1]).max() < 1e-5
    assert stayed, found
    assert np.abs(found[0, 6:] - found[0, 1]).max() > 0.1
    assert near_ties(bundle, inputs).tolist() == [True]
    assert not near_ties(with_tokens("tags", Retention(SHARES)), inputs).any()


def test_the_sizes_of_a_batch_are_those_of_its_longest_text_and_shrink():
    bundle = with_tokens("classifier", Retention((0.5, 0.5, 0.25, 0.25)))
    model = onnx_model(bundle.config, bundle.params)
    names = [f"step_{number}/hidden" for number in range(4)]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ids, mask = np.ones((2, 2, 40), np.int64)
    mask[0, 12:], mask[1, 20:] = 0, 0
    given = dict(zip(("input_ids", "attention_mask", "token_type_ids"), (ids, mask, ids * 0), strict=True))
    found: Any = session.run(names, given)
    assert [array.shape[:2] for array in found] == [(2, 10), (2, 10), (2, 5), (2, 1)]


def test_an_exported_folder_is_checked_and_what_it_cannot_be_is_refused(tmp_path):
    sizes = {"architecture": "BertForSequenceClassification", "labels": LABELS, "initializer_range": 0.2}
    folder = write_model(tmp_path / "model", **sizes, retention=Retention((0.8, 0.4)))
    assert export(folder, "onnx", tmp_path / "out") < CLOSE
    with pytest.raises(UserError, match="litert program cannot express; use --to onnx or stablehlo"):
        export(folder, "litert", tmp_path / "other")


def test_a_file_that_drops_other_tokens_is_a_defect_of_the_layer_that_drops_them(tmp_path):
    right = with_tokens("classifier", Retention((1.0, 0.5, 0.5, 0.25), "others", "layer"))
    config = right.config.replace(retention=Retention((1.0, 0.5, 0.5, 0.25), "first", "layer"))
    write_export(Bundle(config, right.params), "onnx", tmp_path, False, "int8")
    with pytest.raises(UserError, match="This is a defect of bertjax: layer 1 is the first to differ"):
        check_export(right, "onnx", tmp_path)


def test_parts_whose_time_the_text_decides_are_not_timed():
    with pytest.raises(UserError, match="measure the parts of the model that it was made from"):
        measure_table(with_tokens("classifier", Retention(SHARES)), Examples(["a text"]), 16)
