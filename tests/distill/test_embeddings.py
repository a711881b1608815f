"""Losses on embeddings, against torch and sentence-transformers."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from sentence_transformers.sentence_transformer.losses import (
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
)

from bertjax.distill.terms import Embeddings, HardLabels, InBatchNegatives, Loss, Similarities, SoftTargets
from bertjax.errors import UserError
from bertjax.model import BertConfig
from tests.tolerances import OTHER_FRAMEWORK

WIDE = BertConfig(architecture="BertForSentenceEmbedding", hidden_size=24, num_attention_heads=2)
NARROW = WIDE.replace(hidden_size=12)
RNG = np.random.default_rng(0)
OURS, THEIRS, SHORT = (RNG.normal(size=(8, width)).astype(np.float32) for width in (24, 24, 12))
PLAIN = {"weights": np.ones(8, np.float32), "example_ids": np.arange(8, dtype=np.int32)}
PAIRED = {**PLAIN, "example_ids": np.array([6, 2, 8, 4, 7, 3, 9, 5]), "labels": np.tile([0.9, -0.2, 0.4, 0.0], 2)}
"""Pairs 3, 1, 4, 2: first texts, then second texts, as training batches have them."""


def computed(loss: Loss, ours: Any, theirs: Any, batch: Any, student: BertConfig, extra: Any = None) -> tuple[Any, Any]:
    """The loss per row, and its gradient to the student's vectors."""
    formula = loss.build(student, WIDE)

    def mean(vectors: Any, target: Any, batch: Any) -> Any:
        total, weight = formula(extra or {}, SimpleNamespace(logits=vectors), SimpleNamespace(logits=target), batch)
        return total / weight

    return jax.jit(jax.value_and_grad(mean))(jnp.asarray(ours), theirs, batch)


def expected(formula: Any, ours: Any) -> tuple[Any, Any]:
    given = torch.tensor(ours, requires_grad=True)
    value = formula(given)
    value.backward()
    return value.detach().numpy(), given.grad.numpy()  # type: ignore[union-attr]


def matryoshka(ours: Any) -> Any:
    target = torch.tensor(THEIRS)
    parts = [1 - functional.cosine_similarity(ours[:, :n], target[:, :n]).mean() for n in (3, 8, ours.shape[1])]
    return sum(parts) / 3


def divergence(ours: Any) -> Any:
    unit = [functional.normalize(one) for one in (ours, torch.tensor(THEIRS))]
    others = ~torch.eye(8, dtype=torch.bool)
    rows = [(one @ one.T)[others].reshape(8, 7) / 0.1 for one in unit]
    logs, target = (functional.log_softmax(one, dim=1) for one in rows)
    return functional.kl_div(logs, target, log_target=True, reduction="batchmean")


def squared(ours: Any) -> Any:
    unit = [functional.normalize(one) for one in (ours, torch.tensor(THEIRS))]
    return ((unit[0] @ unit[0].T - unit[1] @ unit[1].T) ** 2).sum() / 56  # the diagonal differs by 0


def of_pairs(kind: Any, **more: Any) -> Any:
    loss = kind(torch.nn.Identity(), **more)
    labels = torch.tensor(PAIRED["labels"][:4], dtype=torch.float32)
    return lambda ours: loss.compute_loss_from_embeddings([ours[:4], ours[4:]], labels)


CASES = {
    "cosine": (Embeddings(), OURS, lambda x: 1 - functional.cosine_similarity(x, torch.tensor(THEIRS)).mean()),
    "mse": (
        Embeddings(distance="mse"),
        OURS,
        lambda x: functional.mse_loss(functional.normalize(x), functional.normalize(torch.tensor(THEIRS))),
    ),
    "matryoshka": (Embeddings(match="first", dimensions=(3, 8)), SHORT, matryoshka),
    "targets": (SoftTargets(), OURS, lambda x: 1 - functional.cosine_similarity(x, torch.tensor(THEIRS)).mean()),
    "divergence": (Similarities(temperature=0.1), SHORT, divergence),
    "similarities": (Similarities(), SHORT, squared),
    "narrow targets": (SoftTargets(), SHORT, squared),
}


@pytest.mark.parametrize("name", CASES)
def test_a_distance_to_the_teacher_and_its_gradient_are_those_of_torch(name):
    loss, ours, formula = CASES[name]
    found = computed(loss, ours, THEIRS, PLAIN, WIDE if ours is OURS else NARROW)
    for mine, reference in zip(found, expected(formula, ours), strict=True):
        np.testing.assert_allclose(mine, reference, **OTHER_FRAMEWORK)


def test_a_projection_maps_the_narrower_vector_and_learns():
    loss = Embeddings()
    extra = loss.parameters(jax.random.key(0), NARROW, WIDE)
    value, gradient = computed(loss, SHORT, THEIRS, PLAIN, NARROW, extra)
    mapped = functional.cosine_similarity(torch.tensor(SHORT @ np.asarray(extra["kernel"])), torch.tensor(THEIRS))
    np.testing.assert_allclose(value, 1 - mapped.mean(), **OTHER_FRAMEWORK)
    assert np.abs(gradient).min() > 0
    assert loss.parameters(jax.random.key(0), WIDE, WIDE) == {}


BOTH_WAYS = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
PAIRS = {
    "scores": (HardLabels(), of_pairs(CosineSimilarityLoss)),
    "negatives": (InBatchNegatives(), of_pairs(MultipleNegativesRankingLoss, scale=20.0, **BOTH_WAYS)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_loss_on_pairs_is_that_of_sentence_transformers_and_filler_changes_nothing(name):
    loss, formula = PAIRS[name]
    value, gradient = computed(loss, OURS, None, PAIRED, WIDE)
    for mine, reference in zip((value, gradient), expected(formula, OURS), strict=True):
        np.testing.assert_allclose(mine, reference, **OTHER_FRAMEWORK)
    filled = {name: np.append(array, array.dtype.type(-1)) for name, array in PAIRED.items()} | {
        "weights": np.append(np.ones(8, np.float32), np.float32(0))
    }
    more = np.vstack([OURS, np.full((1, 24), np.nan, np.float32)])
    again, moved = computed(loss, more, None, filled, WIDE)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    np.testing.assert_allclose(moved, np.vstack([gradient, np.zeros((1, 24))]), rtol=1e-5, atol=1e-7)


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(UserError, match="a BertModel has none: give --data"):
        Embeddings().build(BertConfig(), BertConfig())
    with pytest.raises(UserError, match="with `dimensions`, use match='first'"):
        Embeddings(dimensions=(3,)).build(NARROW, WIDE)
    with pytest.raises(UserError, match="expected no more"):
        Embeddings(match="first").build(WIDE, NARROW)
    with pytest.raises(UserError, match="expected 1 to 11"):
        Embeddings(match="first", dimensions=(12,)).build(NARROW, WIDE)
