"""A word table as the product of two narrow ones."""

import numpy as np
import pytest

import bertjax
from bertjax.model import build
from bertjax.share import factorise_words
from tests.model.tiny import apply, tiny, tiny_batch

WIDTH = 12


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "BertForMaskedLM"])
def test_at_full_rank_the_model_computes_what_it_did(architecture):
    model, params = tiny(architecture=architecture)
    config, factored = factorise_words(model.config, params, WIDTH)
    ours, theirs = apply(build(config), factored, tiny_batch()), apply(model, params, tiny_batch())
    for mine, reference in zip((*ours.hidden_states, ours.logits), (*theirs.hidden_states, theirs.logits), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 5, 11])
def test_the_product_is_the_truncated_singular_value_decomposition(width):
    model, params = tiny()
    table = params["embeddings"]["word"]["embedding"]
    _, factored = factorise_words(model.config, params, width)
    word, mapping = factored["embeddings"]["word"]["embedding"], factored["embeddings"]["word_mapping"]["kernel"]
    assert (word.shape, mapping.shape) == ((43, width), (width, WIDTH))
    left, values, right = np.linalg.svd(table, full_matrices=False)
    np.testing.assert_allclose(word @ mapping, left[:, :width] * values[:width] @ right[:width], rtol=0, atol=1e-5)


def test_the_factors_survive_a_folder_and_what_is_no_width_is_refused(tmp_path):
    model, params = tiny()
    config, factored = factorise_words(model.config, params, 5)
    bertjax.save(bertjax.Bundle(config, factored), tmp_path / "narrow")
    back = bertjax.load(tmp_path / "narrow")
    np.testing.assert_array_equal(
        apply(back.model, back.params, tiny_batch()).logits, apply(build(config), factored, tiny_batch()).logits
    )
    for bad in (0, 13):
        with pytest.raises(bertjax.UserError, match=f"width is {bad}; expected 1 to 12"):
            factorise_words(model.config, params, bad)
    with pytest.raises(bertjax.UserError, match="factorised already, with a width of 5"):
        factorise_words(config, factored, 3)
