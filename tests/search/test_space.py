"""Shapes and their predicted costs against the models that are cut and the files that are written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax.errors import UserError
from bertjax.export.folder import write_export
from bertjax.jobs.search_costs import with_integers
from bertjax.measure.cost import stored_bytes
from bertjax.params import flatten
from bertjax.prune.second_order import input_products, removal_curves
from bertjax.quantized.formats import INT8
from bertjax.recipes.quantize import Quantize
from bertjax.search.costs import TimeModel, features, file_bytes
from bertjax.search.space import FORMS, Form, Shape, cut, cut_shapes, grid, largest_columns, plain
from tests.train.tiny import write_model

SIZES = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 192}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> bertjax.Bundle:
    folder = write_model(tmp_path_factory.mktemp("space") / "model", **SIZES)
    loaded = bertjax.load(folder, architecture="BertForSequenceClassification", labels=("bad", "good"), seed=0)
    return plain(dataclasses.replace(loaded, newly_initialized=()))


def test_predicted_shapes_are_those_of_the_model_that_is_cut(teacher):
    shapes = grid(teacher.config)
    assert len(shapes) == len(set(shapes)) == 4 * 3 * 4 * 3 * 2
    for shape in shapes[::17]:
        predicted = cut_shapes(teacher, shape)
        params = flatten(cut(teacher, shape).params)
        assert sorted(predicted.values()) == sorted(leaf.shape for leaf in params.values()), shape
    assert grid(teacher.config)[-1] == Shape(4, 6, 192, 96, 96)
    whole = cut(teacher, shapes[-1])
    np.testing.assert_array_equal(whole.params["pooler"]["kernel"], teacher.params["pooler"]["kernel"])


def test_a_shape_keeps_what_the_second_order_keeps(teacher):
    ids = np.random.default_rng(0).integers(5, 20, (8, 12))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    batch = {**inputs, "weights": np.ones(8, np.float32)}
    curves = removal_curves(teacher.config, teacher.params, input_products(teacher.model, teacher.params, [batch]))
    model = cut(teacher, Shape(2, 3, 48, 96, 96), curves)
    for step, layer in enumerate((1, 3)):  # at even distances, the last among them
        neurons = curves["neurons"][layer].kept(48)
        kept = model.params["encoder"][f"layer_{step}"]["ffn"]
        whole = teacher.params["encoder"][f"layer_{layer}"]["ffn"]["intermediate"]["kernel"]
        np.testing.assert_array_equal(kept["intermediate"]["kernel"], whole[:, neurons])
        np.testing.assert_array_equal(kept["output"]["kernel"], curves["neurons"][layer].corrected(48)[neurons])


def test_hidden_columns_that_are_0_are_the_first_to_go(teacher):
    params = {
        "embeddings": {"position": {"embedding": np.ones((3, 6), np.float32)}, "layer_norm": {"scale": np.ones(6)}}
    }
    params["embeddings"]["position"]["embedding"][:, [1, 4]] = 0.01
    assert largest_columns(params, 4) == [0, 2, 3, 5]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_predicted_bytes_are_those_of_the_file(teacher, form, tmp_path: Path):
    words = 12 if form.fewer_words else teacher.config.vocab_size
    for shape in (Shape(4, 6, 192, 96, 96), Shape(1, 2, 24, 48, 48), Shape(3, 6, 96, 72, 24)):
        model = cut(teacher, shape)
        table = model.params["embeddings"]["word"]["embedding"][:words]
        embeddings = {**model.params["embeddings"], "word": {"embedding": table}}
        config = model.config.replace(vocab_size=words)
        model = dataclasses.replace(model, config=config, params={**model.params, "embeddings": embeddings})
        model = with_integers(model, Quantize(weights=tuple(form.rules(INT8)))) if form.integers else model
        folder = tmp_path / shape.name
        folder.mkdir()
        write_export(model, "onnx", folder, False, "int8")
        predicted = file_bytes(cut_shapes(teacher, shape), form, words, INT8, shape.layers)
        # Nodes that unpack some matrix or other are not counted; in a file of megabytes they are far below 2 %.
        assert predicted == pytest.approx(stored_bytes(folder), rel=0.02, abs=4_000)


def test_times_that_follow_the_terms_are_predicted_exactly(teacher):
    rng = np.random.default_rng(0)
    prices, shapes = rng.random(10), grid(teacher.config)
    chosen = rng.choice(len(shapes), 24, replace=False)
    times = tuple((shapes[i], float(features(shapes[i]) @ prices)) for i in chosen)
    model = TimeModel(times)
    for shape in shapes[::11]:
        assert model(shape) == pytest.approx(features(shape) @ prices, rel=1e-6)
    assert model.error() < 1e-6
    noisy = TimeModel(tuple((shape, ms * (1.3 if i % 2 else 0.8)) for i, (shape, ms) in enumerate(times)))
    assert noisy.error() > 0.1
    assert (noisy.prices >= 0).all()


def test_a_model_that_cannot_be_cut_is_refused(tmp_path: Path):
    folder = write_model(
        tmp_path / "model", model_type="mobilebert", architecture="MobileBertForSequenceClassification"
    )
    with pytest.raises(UserError, match="MobileBERT"):
        plain(bertjax.load(folder))


def test_forms_are_all_ways_to_store_a_shape():
    assert len(set(FORMS)) == len(FORMS) == 6
    assert {form.parts for form in FORMS if form.fewer_words} == {"-words", "-words-int8", "-words-int8-table4"}
    assert Form(True, False).rules(INT8) == ()
    assert Form(True, True).rules(INT8) == INT8
