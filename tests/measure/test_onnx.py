"""What an exported folder says, and what its graph becomes."""

import json

import numpy as np
import pytest

from bertjax import UserError
from bertjax.measure.onnx import longest_input, open_session, read_arrays, read_graph
from bertjax.measure.outputs import measure_outputs
from bertjax.measure.processes import Candidate
from bertjax.measure.worker import OnnxFile
from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from tests.verify.tiny import VOCABULARY, WORDS, arrays, stored_as_integers, write_onnx

pytest.importorskip("onnxruntime", reason="an extra")
TEXTS = ["the film good", "bad", "a plot the film a poor " * 3, "fine fine"]


def by_hand(text: str, found: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of one text without padding, the turns left out since they undo each other."""
    ids = [2, *(VOCABULARY.index(word) for word in text.split()), 3]
    return found["table"][ids].sum(axis=0) @ found["head"] + found["bias"]


def test_every_text_is_answered_in_its_place_whatever_it_is_batched_with(tmp_path):
    given = arrays()
    folder = write_onnx(tmp_path / "x", given)
    texts = TEXTS * 10
    examples = Examples(texts)
    encoded = encode_examples(examples, Task("classification"), Tokenizer.from_folder(folder), 64)
    found = measure_outputs({"x": Candidate("onnxruntime", folder)}, examples, {"x": encoded}, threads=1)["x"]
    np.testing.assert_allclose(found, [by_hand(text, given) for text in texts], rtol=1e-4, atol=1e-4)


def test_the_limit_is_the_models_or_what_was_asked_for(tmp_path):
    folder = write_onnx(tmp_path / "x", arrays(), max_position_embeddings=8)
    nested = write_onnx(tmp_path / "y", arrays(), bertjax={"max_position_embeddings": 9})
    content = json.loads((nested / "config.json").read_text())
    content.pop("max_position_embeddings", None)
    (nested / "config.json").write_text(json.dumps(content))
    assert (longest_input(folder), longest_input(nested)) == (8, 9)
    for asked, expected in ((512, 8), (5, 5)):
        runtime = OnnxFile(str(folder), TEXTS, None, asked)
        ids, mask, types = runtime.encode([" ".join(WORDS * 2), "bad"], None)
        assert ids.shape == types.shape == (2, expected)
        assert mask.sum(axis=1).tolist() == [expected, 3]
        assert runtime.forward((ids, mask, types)).shape[0] == 2  # though the graph takes no types


def test_the_graph_that_runs_tells_integer_products_from_integers_that_are_only_stored(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic  # pyright: ignore[reportMissingImports]

    plain = write_onnx(tmp_path / "plain", arrays(2))
    assert read_graph(plain).stored["MatMul"] == 5
    integers = write_onnx(tmp_path / "integers", arrays(2))
    quantize_dynamic(plain / "model.onnx", integers / "model.onnx", weight_type=QuantType.QInt8)
    graph = read_graph(integers)
    assert graph.stored["MatMulInteger"] == 5
    assert graph.executed["DynamicQuantizeMatMul"] + graph.executed["MatMulInteger"] == 5
    only_stored = read_graph(stored_as_integers(plain, tmp_path / "stored"))
    assert only_stored.stored["DequantizeLinear"] == 4
    assert only_stored.executed["MatMul"] >= 4


def test_the_stored_arrays_are_read_as_they_are(tmp_path):
    given = arrays()
    found = read_arrays(write_onnx(tmp_path / "x", given))
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)


def test_files_that_are_no_model_of_ours_are_refused(tmp_path):
    folder = write_onnx(tmp_path / "x", arrays())
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot open .*model\.onnx"):
        open_session(folder, threads=1)
    (folder / "model.onnx").write_bytes(content.replace(b"logits", b"scores"))
    with pytest.raises(UserError, match=r"the outputs scores\.\nExpected .* `logits`"):
        open_session(folder, threads=1)
