"""Criteria: those of the package by name, and one of a user's own."""

from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.learn.losses import classification
from bertjax.prune.criteria import CRITERIA, Criterion, EvenlySpaced, LeaveOneOut, Random
from bertjax.recipes.prune import Config, CriterionName
from tests.model.tiny import apply, tiny, tiny_batch


def loss(output: Any, batch: Any) -> Any:
    return classification(output.logits, batch)


def bundle(**changes: Any) -> Bundle:
    model, params = tiny(**changes)
    return Bundle(model.config, params)


def labelled() -> Any:
    return tiny_batch() | {"labels": np.array([0, 2, 1]), "weights": np.ones(3, np.float32)}


def test_flags_have_a_name_for_every_criterion():
    assert set(get_args(CriterionName)) == set(CRITERIA)


KEPT = {(6, 3): [1, 3, 5], (6, 6): [0, 1, 2, 3, 4, 5], (6, 4): [1, 2, 4, 5], (12, 6): [1, 3, 5, 7, 9, 11], (4, 1): [3]}


@pytest.mark.parametrize(("depth", "count"), KEPT)
def test_evenly_spaced_layers_keep_the_last(depth: int, count: int):
    given = bundle(num_hidden_layers=depth)
    assert EvenlySpaced().kept_layers(given, [], loss, count) == KEPT[depth, count]


def test_leaving_one_out_is_the_loss_of_the_model_without_that_layer():
    given, batch = bundle(num_hidden_layers=3), labelled()
    found = LeaveOneOut().layer_scores(given, [batch, batch], loss)
    gates = np.eye(3, dtype=bool)
    expected = []
    for row in ~gates:
        output = apply(given.model, given.params, tiny_batch(), switches=jnp.asarray(row))
        expected.append(2 * float(classification(output.logits, jax.tree.map(jnp.asarray, batch))[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    worst = int(np.argmin(found))
    assert LeaveOneOut().kept_layers(given, [batch], loss, 2) == [i for i in range(3) if i != worst]


@dataclass(frozen=True)
class Last(Criterion):
    """The later, the more important."""

    scored = frozenset({"layers", "heads"})
    reads_text = False
    reads_labels = False

    def layer_scores(self, model: Bundle, batches: Any, loss: Any) -> np.ndarray:
        return np.arange(model.config.depth, dtype=float)


def test_a_criterion_of_a_users_own_is_given_like_ours():
    config = Config(layers=0.5, criterion=Last(), finetune_after=False)
    assert config.scores_by == Last()
    assert config.scores_by.kept_layers(bundle(num_hidden_layers=4), [], loss, 2) == [2, 3]
    with pytest.raises(UserError, match="cannot score neurons; for them there are importance"):
        Config(neurons=0.5, criterion=Last())
    with pytest.raises(UserError, match="evenly_spaced chooses once"):
        Config(layers=0.5, criterion="evenly_spaced", iterations=2)
    assert Config(seed=7, criterion="random").scores_by == Random(7)
