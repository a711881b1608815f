"""Matrices as arrays of a file: bit for bit the same after a round trip, at every format and pattern of zeros."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bertjax
from bertjax.errors import UserError
from bertjax.model.huggingface import read_tensors
from bertjax.params import flatten, map_with_path
from bertjax.prune.masks import apply_masks, magnitude_masks
from bertjax.quantize import Format, quantise_weights
from bertjax.quantized.grid import grid_of
from bertjax.quantized.stored import from_parts, matrix_parts
from bertjax.quantized.tensor import Quantized
from tests.quantize.test_packing import FORMATS
from tests.storage.test_zeros import PATTERNS, pattern
from tests.train.tiny import write_model


def integers(format: Format, kind: str, shape: tuple[int, int], share: float, seed: int) -> Quantized:
    """A quantised matrix whose integers have the pattern of zeros."""
    rng = np.random.default_rng(seed)
    values = rng.integers(format.lowest, format.highest + 1, shape).astype(np.int8)
    values *= pattern(kind, shape, share, seed) != 0
    grid = grid_of(shape, format)
    scale, offset = rng.random((2, *grid.shape)).astype(np.float32)
    return Quantized(values, scale, offset if format.scheme == "asymmetric" else None, format, grid)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([*FORMATS, Format(7), Format(4, block_rows=3, block_cols=2)]),
    st.sampled_from(PATTERNS),
    st.tuples(st.integers(1, 20), st.integers(1, 40)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_an_integer_matrix_comes_back_as_it_was(format, kind, shape, share, seed):
    leaf = integers(format, kind, shape, share, seed)
    back = from_parts(leaf, matrix_parts(leaf), "a")  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.values, leaf.values)
    np.testing.assert_array_equal(back.scale, leaf.scale)
    assert (back.offset is None) == (leaf.offset is None)
    assert leaf.offset is None or np.array_equal(back.offset, leaf.offset)


@pytest.mark.parametrize(("dtype", "bytes_"), [(np.float16, 2), (ml_dtypes.bfloat16, 2), (np.float32, 4)])
def test_numbers_take_16_bits_where_that_is_exact(dtype, bytes_):
    rng = np.random.default_rng(0)
    matrix = (rng.normal(0, 1e-3 if dtype == np.float16 else 1e20, (64, 64))).astype(dtype).astype(np.float32)
    matrix *= rng.random(matrix.shape) < 0.1
    parts = matrix_parts(matrix)
    assert parts is not None
    assert parts["numbers"].itemsize == bytes_
    np.testing.assert_array_equal(from_parts(matrix, parts, "a"), matrix)


def test_a_matrix_that_is_smaller_with_its_zeros_stays_as_it_is():
    assert matrix_parts(np.ones((9, 9), np.float32)) is None
    parts = matrix_parts(integers(Format(8), "all", (9, 9), 1, 0))
    assert parts is not None
    assert parts.keys() == {"integers", "scale"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> bertjax.Bundle:
    """A classifier with 90 % zeros in its encoder."""
    sizes = {"architecture": "BertForSequenceClassification", "initializer_range": 0.2, "num_attention_heads": 4}
    folder = write_model(tmp_path_factory.mktemp("zeros") / "model", hidden_size=64, intermediate_size=256, **sizes)
    bundle = bertjax.load(folder)
    masks = magnitude_masks(bundle.params, "^encoder/.*kernel$", 0.9, "matrix")
    return dataclasses.replace(
        bundle, params=map_with_path(lambda _, x: np.asarray(x), apply_masks(bundle.params, masks))
    )


def assert_same(bundle: bertjax.Bundle, other: bertjax.Bundle) -> None:
    ours, theirs = flatten(bundle.params), flatten(other.params)
    assert bundle.config == other.config
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        pairs = [(leaf, theirs[path])]
        if isinstance(leaf, Quantized):
            pairs = [(leaf.values, theirs[path].values), (leaf.scale, theirs[path].scale)]
        for a, b in pairs:
            np.testing.assert_array_equal(a, b, err_msg=path)


def test_a_pruned_float_model_keeps_the_stock_format_unless_asked(model, tmp_path: Path):
    bertjax.save(model, tmp_path / "dense")
    bertjax.save(model, tmp_path / "small", without_zeros=True)
    assert "bert.encoder.layer.0.attention.self.query.weight" in read_tensors(tmp_path / "dense")
    assert '"model_type": "bertjax"' in (tmp_path / "small" / "config.json").read_text()
    assert_same(model, bertjax.load(tmp_path / "dense"))
    assert_same(model, bertjax.load(tmp_path / "small"))
    bertjax.save(bertjax.load(tmp_path / "small"), tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "dense" / "config.json").read_bytes()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_pruned_quantised_model_has_no_zeros_on_disk(model, bits, tmp_path: Path):
    config, params = quantise_weights(model.config, model.params, ((r"^encoder/.*kernel$", Format(bits)),))
    bundle = dataclasses.replace(model, config=config, params=params)
    bertjax.save(bundle, tmp_path / "small")
    assert_same(bundle, bertjax.load(tmp_path / "small"))
    tensors = read_tensors(tmp_path / "small")
    weights = sum(leaf.values.size for leaf in flatten(params).values() if isinstance(leaf, Quantized))
    parts = [array.nbytes for name, array in tensors.items() if name.endswith(".integers") or "weight.gaps" in name]
    assert 8 * sum(parts) / weights == pytest.approx(0.1 * (bits + 5), rel=0.1)  # and a few fillers


def test_a_damaged_file_is_an_error_that_names_the_array(model):
    parts = matrix_parts(integers(Format(8), "random", (9, 9), 0.1, 0))
    assert parts is not None
    leaf, (encoding,) = integers(Format(8), "all", (9, 9), 1, 0), parts.keys() - {"integers", "scale"}
    with pytest.raises(UserError, match=rf"^a\.{encoding} is damaged: .*; write the model again"):
        from_parts(leaf, parts | {encoding: np.full(30, 255, np.uint8)}, "a")
    with pytest.raises(UserError, match=r"^a\.integers is uint8 \(1,\); expected uint8"):
        from_parts(leaf, parts | {"integers": parts["integers"][:1]}, "a")
