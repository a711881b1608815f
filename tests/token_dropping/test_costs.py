"""The arithmetic of a text, against the products of the compiled model."""

from typing import Any

import jax
import numpy as np
import pytest

from bertjax.model import Retention, build
from bertjax.token_dropping.costs import mean_flops, tokens_left
from bertjax.token_dropping.counts import measured_tokens
from tests.model.test_tokens import LENGTHS, THRESHOLDS, dropping, places_of
from tests.model.tiny import run, tiny
from tests.text.tiny import made_up


def products(jaxpr: Any) -> float:
    """FLOPs of all matrix products in a jaxpr, those inside of calls too."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            size = np.prod([eqn.invars[0].aval.shape[axis] for axis in contracted])
            total += 2 * np.prod(eqn.outvars[0].aval.shape) * size
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += products(inner)
    return float(total)


@pytest.mark.parametrize("after", ["attention", "layer"])
@pytest.mark.parametrize("shares", [None, (0.7, 0.4, 0.4), (1.0, 0.5, 0.2)])
@pytest.mark.parametrize("head", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_it_is_that_of_the_models_products(shares: Any, after: Any, head: str):
    retention = shares and Retention(shares, after=after)
    model, params = tiny(num_hidden_layers=3, retention=retention, architecture=head)
    ids = np.ones((1, 13), np.int32)
    # Without unused results, as a compiled program has none.
    from jax.interpreters import partial_eval as pe

    closed = jax.make_jaxpr(lambda params: run(model, params, {"input_ids": ids}).logits)(params)
    used, _ = pe.dce_jaxpr(closed.jaxpr, [True])
    head_flops = 2 * 12 * 12 + 2 * 12 * 3 if model.reads_first else 13 * 2 * 12 * 3
    expected = mean_flops(model.config, np.array([13]), retention, model.reads_first) + head_flops
    assert products(used) == expected


def test_means_are_over_texts():
    config = build(tiny()[0].config.replace(retention=Retention((0.5, 0.25)))).config
    left = tokens_left(config, np.array([8, 10]))
    assert left is not None
    assert left.mean_tokens == (4.5, 2.5)
    both = [mean_flops(config, np.array([n]), config.retention) for n in (8, 10)]
    assert mean_flops(config, np.array([8, 10]), config.retention) == np.mean(both)


def test_where_thresholds_decide_the_tokens_of_every_text_are_counted():
    model, params = dropping(THRESHOLDS, vocab_size=200)
    encoded = made_up(list(LENGTHS))
    found = measured_tokens(model, params, encoded)
    kept = np.zeros((4, len(encoded)))
    for row, length in enumerate(LENGTHS):
        ids, types = (x[None, encoded.offsets[row] :][:, :length] for x in (encoded.ids, encoded.type_ids))
        alone = run(model, params, {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": types})
        kept[:, row] = [len(places_of(alone, step, 0)) for step in range(4)]
    np.testing.assert_allclose(found.mean_tokens, kept.mean(axis=1))
    most = tokens_left(model.config.replace(retention=Retention(THRESHOLDS.shares, "all")), LENGTHS)
    assert most is not None
    assert found.flops_left < most.flops_left
    assert tokens_left(model.config, LENGTHS) is None
