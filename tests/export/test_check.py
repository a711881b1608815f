"""An export that is not what JAX computes says whose fault it is: ours, the runtime's on this processor, the texts'."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.export import check as module
from bertjax.export import export
from bertjax.export.check import ROUNDED, cause, check_batches, check_export
from bertjax.export.folder import write_export
from bertjax.measure import integer_products
from bertjax.measure.integer_products import Operand, inexact_products, is_exact, operands
from bertjax.model import BertConfig, init_params
from bertjax.model.sites import integer_sites
from bertjax.quantize import Activation, Format, quantise_weights
from bertjax.quantize.activations import find_ranges, shares_outside
from bertjax.quantized.calibration import Calibration
from bertjax.quantized.formats import INT8, full_int8
from bertjax.recipes.quantize import Quantize

CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    labels=("a", "b", "c"),
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=40,
    initializer_range=0.2,
)
ROWS = tuple(tuple(np.random.default_rng(n).integers(5, 60, 6 + n).tolist()) for n in range(12))
TEXTS = Calibration(ROWS, tuple((0,) * len(row) for row in ROWS))


def quantised(rules: Any = INT8, fixed: bool = True, params: Any = None) -> Bundle:
    """A model of integers, its ranges found on `TEXTS`."""
    plain = Bundle(CONFIG, params or init_params(CONFIG, 0), calibration=TEXTS)
    config, params = quantise_weights(plain.config, plain.params, rules)
    bundle = dataclasses.replace(plain, config=config, params=params)
    batches = list(check_batches(bundle))
    found = find_ranges(bundle.model, params, batches, "min_max") if fixed else {}
    sites = found or {site: Activation() for site in integer_sites(bundle.model, params)}
    return with_activations(bundle, sites)


def with_activations(bundle: Bundle, sites: dict[str, Activation]) -> Bundle:
    assert bundle.config.quantization is not None
    rounding = dataclasses.replace(bundle.config.quantization, activations=tuple(sites.items()))
    return dataclasses.replace(bundle, config=bundle.config.replace(quantization=rounding))


def in_16_bits(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The sums of a processor without VNNI: pairs of products saturate at 16 bits before they are added up (Intel's
    PMADDUBSW)."""
    products = left[:, :, None].astype(np.int32) * right[None].astype(np.int32)
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


class WithoutVnni:
    """A session of one product, as such a processor computes it."""

    def __init__(self, model: bytes):
        import onnx

        self.right = onnx.numpy_helper.to_array(onnx.load_from_string(model).graph.initializer[0])

    def run(self, names: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        right, left = self.right.astype(np.int64), given["left"]
        if self.right.dtype == np.uint8:  # which is multiplied in 16 bits and added up in 32
            return [left.astype(np.int64) @ right]
        return [in_16_bits(left, right)]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False], ids=["MatMul", "MatMulInteger"])
@pytest.mark.parametrize(("rules", "weights"), [(INT8, "int8"), (full_int8(INT8), "uint8")])
def test_what_ships_is_exact_in_this_runtime_and_without_vnni(rules, weights, fixed, tmp_path, monkeypatch):
    bundle = quantised(rules, fixed)
    write_export(bundle, "onnx", tmp_path, False, weights)
    assert len(list(operands(tmp_path))) == 6 * 3 + 1
    assert inexact_products(tmp_path) == ()
    assert check_export(bundle, "onnx", tmp_path) <= ROUNDED
    monkeypatch.setattr(integer_products, "new_session", WithoutVnni)
    assert inexact_products(tmp_path) == ()


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (31, 7)])
def test_one_product_at_the_extremes_is_exact_in_the_runtime(kind: str, shape: tuple[int, int]):
    """Seven bits, their largest number everywhere: 2 x 255 x 64 still fits into 16 bits."""
    for value in (63, -64):
        right = np.full(shape, value + (128 if kind == "uint8" else 0), kind)
        assert is_exact(Operand("x", right, np.dtype(np.uint8)))


def test_eight_bits_saturate_without_vnni_and_seven_do_not(monkeypatch):
    monkeypatch.setattr(integer_products, "new_session", WithoutVnni)
    exact = [
        is_exact(Operand("x", np.full((8, 3), value, np.int8), np.dtype(np.uint8))) for value in (63, 64, 65, -64, -65)
    ]
    assert exact == [True, True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False], ids=["MatMul", "MatMulInteger"])
def test_a_runtime_that_multiplies_wrongly_is_named_with_the_cure(fixed, tmp_path, monkeypatch):
    monkeypatch.setattr(integer_products, "new_session", WithoutVnni)
    bertjax.save(quantised(full_int8(INT8), fixed), tmp_path / "model")
    with pytest.raises(UserError) as found:
        export(tmp_path / "model", "onnx", tmp_path / "out")
    assert f"ONNX Runtime {onnxruntime.__version__} computes wrong integer products on this processor" in str(
        found.value
    )
    assert "(the first is encoder/layer_0/attention/query/kernel); nothing was written" in str(found.value)
    assert "weights of 7 bits (the default), which are exact everywhere" in str(found.value)
    assert not (tmp_path / "out").exists()
    export(tmp_path / "model", "onnx", tmp_path / "out", weights="uint8")


@pytest.mark.slow
def test_a_file_that_is_wrong_is_a_defect_of_one_layer(tmp_path):
    right = quantised()
    other = init_params(CONFIG, 0)
    bias = other["encoder"]["layer_1"]["ffn"]["output"]["bias"]
    other["encoder"]["layer_1"]["ffn"]["output"]["bias"] = bias + 2 * np.random.default_rng(0).normal(
        size=bias.shape
    ).astype(np.float32)
    assert right.config.quantization is not None
    wrong = with_activations(quantised(params=other), dict(right.config.quantization.activations))
    write_export(wrong, "onnx", tmp_path, False, "int8")
    with pytest.raises(
        UserError,
        match=r"(?s)nothing was written.*This is a defect of bertjax: layer 1 is the first to differ, by 0\.\d+ times",
    ):
        check_export(right, "onnx", tmp_path)


def test_texts_far_outside_of_the_ranges_are_named_and_no_defect(tmp_path):
    bundle = quantised()
    assert bundle.config.quantization is not None
    ranges = dict(bundle.config.quantization.activations)
    site = "step_1/ffn/intermediate"
    narrow = ranges | {site: Activation(8, ranges[site].low / 4, ranges[site].high / 4)}  # type: ignore[operator]
    small = with_activations(bundle, narrow)
    write_export(small, "onnx", tmp_path, False, "int8")
    batches = list(check_batches(small))
    said = cause(small, "onnx", tmp_path, batches)
    assert said.startswith("It was checked with its calibration texts;")
    assert f"of the inputs of {site} are outside of their quantisation range" in said
    without = dataclasses.replace(small, calibration=None)
    assert "random tokens (the bundle has no calibration.json)" in cause(without, "onnx", tmp_path, batches)


def test_the_share_outside_of_a_range_is_that_of_a_count():
    bundle = quantised()
    assert bundle.config.quantization is not None
    halves = {site: Activation(8, a.low / 2, a.high / 2) for site, a in bundle.config.quantization.activations}  # type: ignore[operator]
    batches = list(check_batches(bundle))
    shares = shares_outside(with_activations(bundle, halves).model, bundle.params, batches)
    plain = dataclasses.replace(
        bundle,
        config=bundle.config.replace(quantization=dataclasses.replace(bundle.config.quantization, activations=())),
    )
    first = []
    for ids, mask, types in batches:
        output: Any = plain.model.apply({"params": plain.params}, ids, mask, types)
        first.append(np.asarray(output.hidden_states[0])[mask > 0])
    numbers = np.concatenate([part.ravel() for part in first])
    low, high = halves["step_0/attention/query"].low, halves["step_0/attention/query"].high
    np.testing.assert_allclose(shares["step_0/attention/query"], np.mean((numbers < low) | (numbers > high)), rtol=1e-3)
    assert max(shares_outside(bundle.model, bundle.params, batches).values()) < 0.02


def test_an_export_is_checked_with_the_texts_that_travel(tmp_path, monkeypatch):
    bertjax.save(quantised(), tmp_path / "model")
    assert bertjax.load(tmp_path / "model").calibration == TEXTS
    seen: list[Any] = []
    farthest = module.farthest
    monkeypatch.setattr(
        module, "farthest", lambda bundle, run, batches, _: seen.extend(batches) or farthest(bundle, run, batches)
    )
    export(tmp_path / "model", "onnx", tmp_path / "out")
    ids = [row[mask > 0].tolist() for batch in seen for row, mask in zip(batch[0], batch[1], strict=True)]
    assert ids == [list(row) for row in TEXTS.input_ids]
    assert all((mask == 0).any() for _, mask, _ in seen)  # padding is tried, too


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", "null", '{"input_ids": [[1]], "token_type_ids": [[2]]}',
        '{"input_ids": [[60]], "token_type_ids": [[0]]}', '{"input_ids": [["a"]], "token_type_ids": [[0]]}',
        '{"input_ids": [[1, 2]], "token_type_ids": [[0]]}', '{"input_ids": [[true]], "token_type_ids": [[0]]}',
        '{"input_ids": [], "token_type_ids": []}', '{"input_ids": 5, "token_type_ids": [[0]]}', "[" * 100_000,
        json.dumps({"input_ids": [[1] * 41], "token_type_ids": [[0] * 41]}),
    ],
)  # fmt: skip
def test_a_calibration_file_that_is_none_is_one_clear_error(content: str, tmp_path: Path):
    bertjax.save(quantised(), tmp_path / "model")
    (tmp_path / "model" / "calibration.json").write_text(content)
    (tmp_path / "model" / "digests.json").unlink()  # else the change itself is what is found
    with pytest.raises(UserError, match=r"calibration\.json: expected rows of input_ids and token_type_ids"):
        bertjax.load(tmp_path / "model")


def test_an_onnx_runtime_that_is_too_old_is_refused_by_its_version(tmp_path, monkeypatch):
    write_export(quantised(), "onnx", tmp_path, False, "int8")
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.3")
    with pytest.raises(UserError, match=r"onnxruntime 1\.24\.3 is installed; at least 1\.25 is needed"):
        check_export(quantised(), "onnx", tmp_path)


def test_full_int8_widens_the_kernels_that_have_seven_bits():
    rules = ((r"a", Format(4)), (r"b", None), *INT8)
    assert [format and format.bits for _, format in full_int8(rules)] == [4, None, 8, 8]


def test_two_spellings_of_full_int8_are_one_recipe():
    assert Quantize(full_int8=True) == Quantize(weights=full_int8(INT8))
    assert dataclasses.replace(Quantize(full_int8=True), bits=8).weights == full_int8(INT8)
