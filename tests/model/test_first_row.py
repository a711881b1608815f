"""The last layer under a head that reads one row of each text: cheaper, and otherwise no different."""

from functools import partial

import jax
import numpy as np
import pytest

from bertjax.model import build
from bertjax.model.products import plain_product
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

READERS = ("BertForSequenceClassification", "DistilBertForSequenceClassification", "BertForNextSentencePrediction")


def whole(model):
    """The same model, its products watched, so that no row is computed apart."""
    return model.clone(product=lambda *operands: plain_product(*operands))


def packed_batch() -> dict[str, np.ndarray]:
    """Texts of 4, 3 and 5 tokens in two rows; the second row has one text, and a place for another that is empty."""
    segments = np.array([[1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]], np.int32)
    positions = np.array([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 0]], np.int32)
    ids = np.random.default_rng(0).integers(1, TINY.vocab_size, segments.shape).astype(np.int32)
    return {
        "input_ids": ids,
        "attention_mask": (segments > 0).astype(np.int32),
        "position_ids": positions,
        "segment_ids": segments,
        "cls_positions": np.array([[0, 4], [0, 0]], np.int32),
    }


BATCHES = {"apart": tiny_batch, "packed": packed_batch}


def of(architecture, **changes):
    distil = {"model_type": "distilbert", "type_vocab_size": 0} if architecture.startswith("Distil") else {}
    return tiny(architecture=architecture, **distil, **changes)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("architecture", READERS)
def test_nothing_but_the_cost_tells_that_the_first_row_was_computed_apart(architecture, batch):
    model, params = of(architecture, norm="pre" if architecture.endswith("Prediction") else "post")
    apart, together = (apply(m, params, BATCHES[batch]()) for m in (model, whole(model)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), apart, together)


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_through_the_first_row_and_through_all_rows_are_the_same_as_together(batch):
    model, params = of("BertForSequenceClassification")

    def loss(params, model, every_row):
        out = run(model, params, BATCHES[batch]())
        return (out.logits**2).sum() + every_row * (out.hidden_states[-1] ** 3).sum()

    gradients = [jax.jit(partial(jax.grad(loss), model=m)) for m in (model, whole(model))]
    for every_row in (0.0, 1.0):
        apart, together = (gradient(params, every_row=every_row) for gradient in gradients)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), apart, together)


def test_with_dropout_the_head_reads_the_row_that_is_returned():
    model, params = of("BertForSequenceClassification", classifier_dropout=0.0)
    out = apply(model, params, tiny_batch(), rngs={"dropout": jax.random.key(0)})
    first = np.asarray(out.hidden_states[-1][:, 0])
    pooled = np.tanh(first @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    np.testing.assert_allclose(out.pooled, pooled, **SAME_MATHS)


def test_packed_rows_of_one_text_and_single_columns():
    model, params = of("BertForSequenceClassification")
    batch = tiny_batch()
    for segments in ({}, {"segment_ids": batch["attention_mask"]}):
        packed = batch | segments | {"cls_positions": np.zeros((3, 1), np.int32)}
        np.testing.assert_allclose(
            apply(model, params, packed).logits[:, 0], apply(model, params, batch).logits, **SAME_MATHS
        )
    one_text = batch | {"segment_ids": batch["attention_mask"]}  # and nobody says where its [CLS] is
    np.testing.assert_allclose(apply(model, params, one_text).logits, apply(model, params, batch).logits, **SAME_MATHS)
    single = {name: array[:, :1] for name, array in batch.items()}
    assert apply(model, params, single).logits.shape == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("places", [{}, {"cls_positions": np.zeros((2, 1), np.int32)}])
@pytest.mark.parametrize("remat", [False, True])
def test_a_step_that_uses_the_logits_alone_pays_for_one_row_of_the_last_layer(remat, places):
    """Of the second of two layers, the keys and values are left: 2 of 12 equal products, so 14 of 24 in all."""
    config = TINY.replace(hidden_size=48, intermediate_size=192, head_size=16, remat=remat)
    ids = np.ones((2, 16), np.int32)

    def cost(model):
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), ids)["params"])
        step = jax.grad(lambda params: model.apply({"params": params}, ids, **places).logits.sum())
        return (jax.jit(step).lower(params).compile().cost_analysis() or {})["flops"]

    model = build(config)
    assert cost(model) < 0.75 * cost(whole(model))
