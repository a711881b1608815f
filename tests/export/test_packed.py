"""Packed weights of an ONNX file: unpacked when it is loaded, to the numbers that JAX computes with."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import bertjax
from bertjax.bundle import Bundle
from bertjax.export.check import expected_exits, expected_output, random_tokens
from bertjax.export.graph import FLOAT, INT8, INT64
from bertjax.export.onnx import onnx_model
from bertjax.export.packed import looked_up, whole_matrix
from bertjax.export.products import Products
from bertjax.measure.integer_products import inexact_products, operands
from bertjax.measure.onnx import answer, graphs, new_session
from bertjax.model import ExitRule, Exits, init_params
from bertjax.params import map_with_path
from bertjax.prune.masks import apply_masks, magnitude_masks
from bertjax.quantize import Activation, Format, Quantization, quantise_weights
from tests.export.test_onnx import CLASSIFIER, run
from tests.quantize.test_packing import FORMATS
from tests.quantize.test_stored import integers
from tests.storage.test_zeros import PATTERNS, pattern

GRIDS = ((None, 1), (1, None), (None, None), (None, 3), (4, 3), (1, 5))


def computed(graph: Any, outputs: dict[str, int], ids: np.ndarray | None = None) -> list[np.ndarray]:
    """The named values of a graph, in ONNX Runtime."""
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    given = [] if ids is None else [helper.make_tensor_value_info("ids", INT64, ids.shape)]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    made = helper.make_graph(graph.loading + graph.nodes, "part", given, results, stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return new_session(model.SerializeToString()).run(list(outputs), {} if ids is None else {"ids": ids})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*FORMATS, Format(7)]),
    st.sampled_from(GRIDS),
    st.sampled_from(PATTERNS),
    st.tuples(st.integers(1, 20), st.integers(1, 40)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_an_integer_matrix_and_its_rows_are_those_of_the_bundle(format, grid, kind, shape, share, seed):
    format = dataclasses.replace(format, block_rows=grid[0], block_cols=grid[1])
    leaf = integers(format, kind, shape, share, seed)
    ids = np.random.default_rng(seed).integers(0, shape[0], (2, 3))
    whole = Products(CLASSIFIER, {"a": leaf}, "int8")
    outputs = {whole_matrix(whole.graph, "a", leaf): INT8, whole.parameter("a"): FLOAT}
    rows = Products(CLASSIFIER, {"a": leaf}, "int8")
    row_outputs = {looked_up(rows.graph, "a", leaf, "ids"): INT8, rows.lookup("a", "ids"): FLOAT}
    matrix = np.asarray(leaf.dequantised())
    for found, place in ((computed(whole.graph, outputs), ...), (computed(rows.graph, row_outputs, ids), ids)):
        np.testing.assert_array_equal(found[0], leaf.values[place])
        np.testing.assert_allclose(found[1], matrix[place], rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.tuples(st.integers(1, 20), st.integers(1, 40)),
    st.floats(0, 1),
    st.sampled_from([1.0, 1 / 3]),
)
def test_a_float_matrix_with_zeros_is_that_of_the_bundle(kind, shape, share, factor):
    matrix = pattern(kind, shape, share, 0) * np.float32(factor)  # whole numbers fit into 16 bits, thirds do not
    products = Products(CLASSIFIER, {"a": matrix}, "int8")
    np.testing.assert_array_equal(computed(products.graph, {products.parameter("a"): FLOAT})[0], matrix)


def pruned(weights: Format, tables: Format, activation: Activation | None = None) -> Bundle:
    """A classifier with 85 % zeros in its layers, quantised."""
    params = init_params(CLASSIFIER, 0)
    masks = magnitude_masks(params, "^encoder/.*kernel$", 0.85, "matrix")
    params = map_with_path(lambda _, x: np.asarray(x), apply_masks(params, masks))
    rules = ((r"^embeddings/.*embedding$", tables), (r"^(encoder|pooler).*kernel$", weights))
    config, params = quantise_weights(CLASSIFIER, params, rules)
    assert config.quantization is not None
    sites = [f"step_{step}/attention/{part}" for step in range(2) for part in ("query", "output")] if activation else []
    rounding = Quantization(config.quantization.weights, tuple((site, activation) for site in sites if activation))
    return Bundle(config.replace(quantization=rounding), params)


ROWS = {"block_rows": 1, "block_cols": None}


@pytest.mark.parametrize(
    ("weights", "tables"),
    [
        (Format(8), Format(**ROWS)),
        (Format(4, block_rows=8), Format(4, "asymmetric", **ROWS)),
        (Format(3, "asymmetric", block_cols=6), Format(3, **ROWS)),
        (Format(2, "asymmetric", block_cols=6), Format(4, "asymmetric", block_rows=1, block_cols=8)),
        (Format(scheme="ternary"), Format(2, **ROWS)),
    ],
    ids=["8", "4", "3", "2", "ternary"],
)
def test_a_file_with_low_bits_has_the_logits_and_the_bytes_of_its_bundle(weights, tables, tmp_path: Path):
    bundle = pruned(weights, tables)
    model = onnx_model(bundle.config, bundle.params)
    for number, shape in enumerate(((1, 5), (3, 17))):
        inputs = random_tokens(bundle.config, *shape, number)
        np.testing.assert_allclose(run(model, inputs), expected_output(bundle, inputs), rtol=0, atol=1e-5)
    graph = after_loading(model, tmp_path)
    stored = {one.name for one in graph.initializer}
    assert [node.op_type for node in graph.node if stored.issuperset(node.input)] == []  # computed once, when loaded


def after_loading(model: Any, folder: Path) -> Any:
    """ONNX Runtime's optimised graph."""
    new_session(model.SerializeToString(), optimised=str(folder / "executed.onnx"))
    return onnx.load(folder / "executed.onnx").graph


@pytest.mark.slow
@pytest.mark.parametrize("activation", [Activation(8, -3.0, 4.0), Activation()], ids=["fixed", "token"])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights_are_multiplied_as_integers(activation, kind: Any, bits, tmp_path: Path):
    bundle = pruned(Format(bits), Format(**ROWS), activation)
    model = onnx_model(bundle.config, bundle.params, kind)
    inputs = random_tokens(bundle.config, 6, 17, 0)
    difference = np.abs(run(model, inputs) - expected_output(bundle, inputs)).max(axis=1)
    assert np.median(difference) < 1e-4
    executed = Counter(node.op_type for node in after_loading(model, tmp_path).node)
    assert executed["MatMulIntegerToFloat"] + executed["MatMulInteger"] + executed["QLinearMatMul"] == 4, executed
    onnx.save(model, tmp_path / "model.onnx")
    found = {one.name: one.values for one in operands(tmp_path)}
    query = bundle.params["encoder"]["layer_0"]["attention"]["query"]["kernel"].values
    above = 128 if kind == "uint8" and bits == 8 else 0
    (name,) = (name for name in found if name.startswith("encoder/layer_0/attention/query/"))
    np.testing.assert_array_equal(found[name].astype(int) - above, query)
    assert len(found) == 4
    if kind == "uint8" or bits < 8:
        assert inexact_products(tmp_path) == ()


@pytest.mark.slow
def test_a_file_takes_the_bytes_of_its_bundle(tmp_path: Path):
    """With a layer as wide as those of a small model; one, because what is not weights counts less in more of them."""
    sizes = {"hidden_size": 384, "embedding_size": 384, "intermediate_size": 1536, "head_size": 128, "vocab_size": 2000}
    config = CLASSIFIER.replace(num_hidden_layers=1, **sizes)
    params = init_params(config, 0)
    for bits in (2, 3, 4, 8):
        for sparsity in (0.0, 0.9):
            masks = magnitude_masks(params, "^encoder/.*kernel$", sparsity, "matrix")
            zeros = map_with_path(lambda _, x: np.asarray(x), apply_masks(params, masks))
            rules = ((r"embedding$", Format(max(bits, 4), "asymmetric", **ROWS)), (r"^encoder.*kernel$", Format(bits)))
            quantised, small = quantise_weights(config, zeros, rules)
            folder = tmp_path / f"{bits}-{sparsity}"
            bertjax.save(Bundle(quantised, small), folder)
            stored = (folder / "model.safetensors").stat().st_size
            assert len(onnx_model(quantised, small).SerializeToString()) < 1.1 * stored, folder.name


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_a_packed_word_table_is_the_matrix_of_a_language_model_too(scheme: Any):
    config = CLASSIFIER.replace(architecture="BertForMaskedLM")
    config, params = quantise_weights(
        config, init_params(config, 0), ((r"word/embedding$", Format(4, scheme, **ROWS)),)
    )
    model, inputs = onnx_model(config, params), random_tokens(config, 2, 9, 0)
    expected = expected_output(Bundle(config, params), inputs)
    np.testing.assert_allclose(run(model, inputs), expected, rtol=1e-5, atol=1e-5)
    assert sum(one.name.startswith("embeddings/word/embedding/packed") for one in model.graph.initializer) == 1


def test_packed_weights_of_layers_inside_branches_are_unpacked_outside_of_them(tmp_path: Path):
    """Else they would be unpacked for every text that goes on."""
    config = CLASSIFIER.replace(exits=Exits((0,), "shared", ExitRule("max_probability", 0.9)))
    config, params = quantise_weights(
        config, init_params(config, 0), ((r"^encoder.*kernel$", Format(2, block_cols=6)),)
    )
    model, inputs = onnx_model(config, params), random_tokens(config, 3, 9, 0)
    output, depths = answer(new_session(model.SerializeToString()), *inputs)
    assert depths is not None
    expected, wrong = expected_exits(Bundle(config, params), inputs, depths)
    assert not wrong.any()
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    executed = after_loading(model, tmp_path)
    whole = {one.name for inner in graphs(executed) for one in inner.initializer if one.dims[:] in ([24, 24], [24, 40])}
    assert len([name for name in whole if name.endswith("/dequantised")]) == 2 * 5
