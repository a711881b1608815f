"""OpenVINO computes from every kind of file what ONNX Runtime does; and which of them is used."""

import importlib
import json
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export.check import random_tokens
from bertjax.export.onnx import onnx_model
from bertjax.measure import faster, integer_products
from bertjax.measure.faster import choose_runtime
from bertjax.measure.integer_products import Operand, is_exact
from bertjax.measure.latency import Latency, Percentiles, Timing, measure_latency
from bertjax.measure.onnx import open_session, read_graph
from bertjax.measure.openvino import SETTINGS, OpenVinoSession
from bertjax.measure.processes import Candidate
from bertjax.model import Retention, init_params
from bertjax.quantize import Format
from tests.export import test_families as families
from tests.export import test_onnx as plain
from tests.export import test_onnx_exits as exits
from tests.export import test_onnx_tokens as tokens
from tests.export import test_packed as packed
from tests.tolerances import OTHER_FRAMEWORK
from tests.verify.tiny import arrays, stored_as_integers, write_onnx

if find_spec("openvino") is None:
    pytest.skip("an extra", allow_module_level=True)
NAMES = ("input_ids", "attention_mask", "token_type_ids")
ROUNDED = ("recurrent, pre", "mobilebert, tiny")
"""Models with a value half-way between two integers, which is rounded to either."""
WRONG = ("masked words, factorised",)
"""OpenVINO 2026.4 multiplies wrongly by the transposed matrix of a factorised word table in int8, where a batch has
fewer than five tokens. `verify` and `evaluate` say how many predictions differ from ONNX Runtime."""


def files() -> dict[str, Any]:
    """For every kind of file that an export writes, a function that makes the bundle and batches for it."""
    made: dict[str, Any] = {f"{name}": lambda config=config: seeded(config) for name, config in plain.MODELS.items()}
    for name, changes in families.ENCODERS.items():
        made[f"{name}, family"] = lambda changes=changes: family(families.model_of(**changes))
    for name, fixed in [*((one, True) for one in families.FIXED), *((one, False) for one in families.PER_TOKEN)]:
        if name in WRONG:
            continue
        changes = families.ENCODERS[name]
        made[f"{name}, int8, {'fixed' if fixed else 'per token'}"] = lambda changes=changes, fixed=fixed: family(
            families.quantised(families.model_of(**changes), fixed)
        )
    for bits in (8, 4, 3, 2):
        made[f"{bits} bits, packed"] = lambda bits=bits: packed_bits(bits)
    for name in exits.CASES:
        made[f"{name}, exits"] = lambda name=name: with_exits(name)
    for name, ranked_by, after in tokens.CASES:
        retention = Retention(tokens.SHARES, ranked_by, after)  # pyright: ignore[reportArgumentType]
        made[f"{name}, {ranked_by}, {after}"] = lambda name=name, retention=retention: dropping(name, retention)
    return made


def seeded(config: Any) -> tuple[Bundle, list[Any]]:
    return Bundle(config, init_params(config, 0)), batches(config, ((1, 5), (3, 17), (2, 64)))


def family(bundle: Bundle) -> tuple[Bundle, list[Any]]:
    return bundle, batches(bundle.config, families.SHAPES)


def packed_bits(bits: int) -> tuple[Bundle, list[Any]]:
    bundle = packed.pruned(Format(bits), Format(min(bits, 4), **packed.ROWS))
    return bundle, batches(bundle.config, ((1, 5), (3, 17)))


def with_exits(name: str) -> tuple[Bundle, list[Any]]:
    bundle, batch = exits.made(name)
    whole = [np.asarray(array) for array in exits.inputs(batch)]
    return bundle, [whole, [array[-1:, : exits.LENGTHS[-1]] for array in whole]]


def dropping(name: str, retention: Retention) -> tuple[Bundle, list[Any]]:
    bundle = tokens.with_tokens(name, retention)
    return bundle, batches(bundle.config, ((1, 5), (3, 17), (2, 40)))


def batches(config: Any, shapes: Any) -> list[Any]:
    return [random_tokens(config, rows, length, number) for number, (rows, length) in enumerate(shapes)]


FILES = files()


def sessions(bundle: Bundle) -> tuple[Any, Any]:
    model = onnx_model(bundle.config, bundle.params).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), OpenVinoSession(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_both_runtimes_compute_the_same_from_a_file(name: str):
    bundle, given = FILES[name]()
    known, ours = sessions(bundle)
    names = [one.name for one in known.get_outputs()]
    assert {one.name for one in ours.get_outputs()} == set(names)
    assert [one.name for one in ours.get_inputs()] == [one.name for one in known.get_inputs()]
    halfway = name.startswith(ROUNDED) and "int8" in name
    for inputs in given:
        given_arrays = dict(zip(NAMES, inputs, strict=True))
        feeds = {one.name: np.asarray(given_arrays[one.name], np.int64) for one in known.get_inputs()}
        for output, found, expected in zip(names, ours.run(names, feeds), known.run(names, feeds), strict=True):
            if output == "depth":
                np.testing.assert_array_equal(found, expected)
            elif halfway:
                assert np.median(np.abs(found - expected)) < 0.01
            else:
                np.testing.assert_allclose(found, expected, **OTHER_FRAMEWORK, err_msg=output)


def test_the_file_is_computed_in_its_own_dtypes_on_the_given_threads(tmp_path):
    folder = write_onnx(tmp_path / "x", arrays())
    model = OpenVinoSession(str(folder / "model.onnx"), threads=1)._model
    found = {name: model.get_property(name) for name in (*SETTINGS, "INFERENCE_NUM_THREADS")}
    assert found.pop("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert {name: str(one).upper() for name, one in found.items()} == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "INFERENCE_NUM_THREADS": "1",
    }


def test_inputs_of_weights_that_alone_are_integers_stay_floats(tmp_path):
    folder = stored_as_integers(write_onnx(tmp_path / "x", arrays(2)), tmp_path / "y")
    ids = np.tile(np.arange(5, 13), (32, 4)).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found, expected = (
        open_session(folder, 1, runtime=one).run(["logits"], feeds)[0] for one in ("openvino", "onnxruntime")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_it_runs_tells_products_of_integers_from_those_of_floats(tmp_path):
    bundle = families.quantised(families.model_of(**families.ENCODERS["albert"]), True)
    folder = tmp_path / "x"
    folder.mkdir()
    onnx.save(onnx_model(bundle.config, bundle.params), folder / "model.onnx")
    graph = read_graph(folder, "openvino")
    assert graph.stored == read_graph(folder).stored
    assert graph.executed["MatMulInteger"] >= 10  # of two layers with six products each, of which queries may be merged
    floats = write_onnx(tmp_path / "y", arrays(2))
    executed = read_graph(floats, "openvino").executed
    assert (executed["MatMulInteger"], executed["MatMul"]) == (0, 5)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (31, 7)])
def test_one_product_at_the_extremes_is_exact(kind: str, shape: tuple[int, int]):
    for value in (63, -64):
        right = np.full(shape, value + (128 if kind == "uint8" else 0), kind)
        assert is_exact(Operand("x", right, np.dtype(np.uint8)), "openvino")


def test_sums_that_saturate_are_found(monkeypatch):
    class Saturating(OpenVinoSession):
        def run(self, names, inputs):
            return [np.minimum(found, 2.0**15 * inputs["left"].shape[1] / 2) for found in super().run(names, inputs)]

    monkeypatch.setattr(integer_products, "OpenVinoSession", Saturating)
    exact = [is_exact(Operand("x", np.full((8, 3), n, np.int8), np.dtype(np.uint8)), "openvino") for n in (63, 127)]
    assert exact == [True, False]


def test_a_file_with_an_unknown_operator_is_refused_by_name_before_anything_is_timed(tmp_path):
    folder = write_onnx(tmp_path / "x", arrays())
    model = onnx.load(folder / "model.onnx")
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "BiasAddOfOurOwn", "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, folder / "model.onnx")
    heard: list[str] = []
    with pytest.raises(UserError) as found:
        measure_latency({"student": Candidate("openvino", folder)}, ["good"], notify=heard.append)
    says = f"student cannot be measured: OpenVINO cannot open {folder / 'model.onnx'}: it does not know the operators"
    assert str(found.value) == f"{says} com.microsoft.BiasAddOfOurOwn"
    assert heard == ["loading and compiling"]


def test_half_a_file_is_refused(tmp_path):
    folder = write_onnx(tmp_path / "x", arrays())
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"OpenVINO cannot open .*model\.onnx: Unable to read the model"):
        open_session(folder, 1, runtime="openvino")


@pytest.mark.parametrize("given", ["openvino", "auto"])
def test_the_missing_package_is_named_with_its_extra(given: Any, monkeypatch, tmp_path):
    monkeypatch.setattr(faster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'^--runtime={given}: openvino is not .* pip install "bertjax\[openvino\]"'):
        choose_runtime("x", tmp_path, given, ["good"])
    monkeypatch.undo()

    def missing(name: str) -> Any:
        raise ImportError(name) if name == "openvino" else AssertionError(name)

    monkeypatch.setattr("bertjax.measure.openvino.import_module", missing)
    with pytest.raises(UserError, match=r'pip install "bertjax\[openvino\]"'):
        open_session(write_onnx(tmp_path / "x", arrays()), 1, runtime="openvino")


def timing(runtime: str, milliseconds: float) -> Timing:
    times = Percentiles(milliseconds, milliseconds)
    return Timing(runtime, "cpu", 1, {runtime: "1.2.3"}, Latency(times, times), 1.0)


def test_the_import_reports_nothing_to_its_makers(tmp_path):
    open_session(write_onnx(tmp_path / "x", arrays()), 1, runtime="openvino")
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


def test_the_faster_one_is_chosen_and_both_times_are_told():
    choice = faster.faster("student", {"onnxruntime": timing("onnxruntime", 6), "openvino": timing("openvino", 4.512)})
    assert choice.runtime == "openvino"
    assert choice.why == (
        "student takes for one text 6 ms in onnxruntime 1.2.3 and 4.51 ms in openvino 1.2.3; it is measured in "
        "openvino, the faster here"
    )
    assert choose_runtime("x", "/nowhere", "onnxruntime", []) == ("onnxruntime", "")


@pytest.mark.slow
def test_both_are_timed_in_turns_each_with_its_version(tmp_path):
    folder, heard = write_onnx(tmp_path / "x", arrays()), []
    choice = choose_runtime("x", folder, "auto", ["good film", "bad"], threads=1, notify=heard.append)
    turns = [line.split(",")[0] for line in heard if "repeat" in line]
    first, second = "timing x in onnxruntime", "timing x in openvino"
    assert turns == [first, second, second, first, first, second]
    for runtime in ("onnxruntime", "openvino"):
        version = importlib.import_module(runtime).__version__.partition("-")[0]
        assert f"ms in {runtime} {version}" in choice.why
    assert json.loads((folder / "config.json").read_text())["id2label"]  # nothing was written there
