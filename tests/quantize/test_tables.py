"""A word table of a given size: it fits on the disk, and no other width or format that fits loses less."""

from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax.errors import UserError
from bertjax.export.check import expected_output, random_tokens
from bertjax.export.onnx import onnx_model
from bertjax.model import BertConfig, build, init_params
from bertjax.model.huggingface import read_tensors
from bertjax.quantize import quantise_weights
from bertjax.quantize.tables import FORMATS, fit_word_table, stored_bytes
from bertjax.quantized.formats import Format
from bertjax.quantized.tensor import Quantized
from bertjax.share import factorise_words
from tests.export.test_onnx import run

ROWS, COLUMNS = 400, 32
CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=ROWS,
    hidden_size=COLUMNS,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=32,
)


@pytest.fixture(scope="module")
def params():
    """A model whose word table has falling singular values, as trained ones do."""
    made = init_params(CONFIG, 0)
    rng = np.random.default_rng(0)
    spectrum = 0.85 ** np.arange(COLUMNS)
    table = (rng.normal(size=(ROWS, COLUMNS)) * spectrum) @ np.linalg.qr(rng.normal(size=(COLUMNS, COLUMNS)))[0]
    made["embeddings"]["word"]["embedding"] = table.astype(np.float32)
    return made


COUNTS = np.random.default_rng(1).zipf(1.5, ROWS).clip(max=10_000)


def error_of(params, config, quantised) -> float:
    """The weighted error of a quantised model's word table, by its own arrays."""
    table, parts = params["embeddings"]["word"]["embedding"].astype(np.float64), quantised["embeddings"]
    rounded = np.asarray(parts["word"]["embedding"].dequantised(), np.float64)
    if config.factorised == "words":
        rounded = rounded @ np.asarray(parts["word_mapping"]["kernel"].dequantised(), np.float64)
    weights = COUNTS + 1
    return float(weights @ np.square(table - rounded).sum(1) / (weights @ np.square(table).sum(1)))


@pytest.mark.parametrize("most", [3_200, 6_500, 9_000, 20_000])
def test_no_other_table_of_that_size_loses_less(params, most: int, tmp_path: Path):
    best, config, narrow, rules = fit_word_table(CONFIG, params, COUNTS, most)
    quantised = quantise_weights(config, narrow, rules)
    bertjax.save(bertjax.Bundle(*quantised), tmp_path / "small")
    parts = {name: array.nbytes for name, array in read_tensors(tmp_path / "small").items() if ".word_" in name}
    assert sum(parts.values()) == best.size <= most
    assert error_of(params, *quantised) == pytest.approx(best.error, rel=1e-4)
    for format in FORMATS:
        for width in (4, 8, 12, 16, 20, 24, 28):
            if stored_bytes(ROWS, width, COLUMNS, format) <= most:
                other = factorise_words(CONFIG, params, width, COUNTS + 1.0)
                tried = quantise_weights(*other, ((r"word/embedding$", format), (r"word_mapping/kernel$", Format())))
                assert error_of(params, *tried) >= 0.999 * best.error, (format, width)


def test_a_large_size_keeps_all_columns_and_a_small_one_does_not(params):
    widths = [fit_word_table(CONFIG, params, COUNTS, most)[0].width for most in (3_200, 9_000, 20_000)]
    assert widths[0] < widths[1] <= widths[2] == COLUMNS


def test_frequent_tokens_lose_less(params):
    """With weights the directions are those of the frequent rows."""
    table = params["embeddings"]["word"]["embedding"]
    losses = []
    for weights in (None, COUNTS + 1.0):
        parts = factorise_words(CONFIG, params, 8, weights)[1]["embeddings"]
        difference = table - parts["word"]["embedding"] @ parts["word_mapping"]["kernel"]
        losses.append((COUNTS + 1.0) @ np.square(difference).sum(axis=1))
    assert losses[1] < losses[0]


def test_a_table_that_is_fitted_computes_in_the_file_what_it_does_in_jax(params):
    _, config, narrow, rules = fit_word_table(CONFIG, params, COUNTS, 6_500)
    config, quantised = quantise_weights(config, narrow, (*rules, (r"^encoder/.*kernel$", Format(4))))
    assert isinstance(quantised["embeddings"]["word_mapping"]["kernel"], Quantized)
    bundle = bertjax.Bundle(config, quantised)
    inputs = random_tokens(config, 3, 17, 0)
    np.testing.assert_allclose(
        run(onnx_model(config, quantised), inputs), expected_output(bundle, inputs), rtol=0, atol=1e-5
    )
    assert build(config).config.embedding_size == config.embedding_size < COLUMNS


def test_a_size_in_which_no_table_fits_is_refused(params):
    with pytest.raises(UserError, match=r"400 tokens takes at least 0\.00\d+ MB, and 0\.0005 MB are asked for"):
        fit_word_table(CONFIG, params, COUNTS, 500)
