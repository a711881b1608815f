"""Confidence against scipy, patience against a state machine written out, and what never leaves."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from bertjax.adaptive import Confidence, Patience, policy_of
from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.adaptive.policies import first_exit, oracle_exit
from bertjax.errors import UserError
from bertjax.model import ExitRule, Exits
from tests.model.tiny import TINY
from tests.tolerances import SAME_MATHS

RNG = np.random.default_rng(0)
OPEN = dict.fromkeys(LOW_IS_SURE, 1000000000.0) | dict.fromkeys(HIGH_IS_SURE, -1.0) | {"patience": 1.0}
DEEP = TINY.replace(num_hidden_layers=6, exits=Exits((0, 1, 2, 3, 4)))


def test_confidences_are_those_of_scipy():
    logits = RNG.normal(0, 3, (50, 4)).astype(np.float32)
    p = softmax(logits.astype(np.float64), axis=-1)
    by_rank = np.sort(p, axis=-1)
    expected = {
        "entropy": scipy_entropy(p, axis=-1),
        "normalised_entropy": scipy_entropy(p, axis=-1) / np.log(4),
        "max_probability": p.max(axis=-1),
        "margin": by_rank[:, -1] - by_rank[:, -2],
    }
    for name, rule in (LOW_IS_SURE | HIGH_IS_SURE).items():
        np.testing.assert_allclose(rule(jnp.asarray(logits)), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_large_logits_are_certain_and_do_not_overflow():
    logits = jnp.asarray([[1e4, -1e4], [-3e38, 3e38], [0.0, 0.0]])
    np.testing.assert_allclose(LOW_IS_SURE["entropy"](logits), [0, 0, np.log(2)], **SAME_MATHS)
    np.testing.assert_allclose(HIGH_IS_SURE["margin"](logits), [1, 1, 0], **SAME_MATHS)


@pytest.mark.parametrize("rule", [*LOW_IS_SURE, *HIGH_IS_SURE, "patience"])
def test_what_is_no_number_never_leaves(rule):
    policy = policy_of(DEEP, ExitRule(rule, OPEN[rule]))
    sound, broken = np.zeros((5, 1, 3), np.float32), np.full((5, 1, 3), np.nan, np.float32)
    broken[:, 0, 0] = 0.0  # one bad number is enough
    taken = first_exit(policy, np.concatenate([sound, broken], axis=1), np.zeros((2, 3), np.float32))
    assert taken[1] == 5
    assert taken[0] == (1 if rule == "patience" else 0)


def waited(answers: np.ndarray, patience: int) -> int:
    """PABEE's rule for one example, in Python."""
    count = 0
    for number in range(1, len(answers)):
        count = count + 1 if answers[number] == answers[number - 1] else 0
        if count == patience:
            return number
    return len(answers)


def test_patience_counts_answers_in_a_row_for_each_example():
    exits, logits = RNG.normal(size=(5, 200, 3)).astype(np.float32), np.zeros((200, 3), np.float32)
    answers, before = exits.argmax(axis=-1), None
    for patience in range(1, 6):
        taken = first_exit(Patience(patience), exits, logits)
        assert taken.tolist() == [waited(answers[:, i], patience) for i in range(200)]
        assert (taken >= min(patience, 5)).all()
        assert before is None or (taken >= before).all(), "more patience never leaves earlier"
        before = taken


def test_numbers_agree_within_a_tolerance():
    exits = np.array([0.0, 0.5, 0.55, 0.58, 0.9], np.float32).reshape(5, 1, 1)
    assert first_exit(Patience(2, tolerance=0.1), exits, np.zeros((1, 1), np.float32)).tolist() == [3]


def test_the_oracle_leaves_where_the_answer_is_first_the_last_one():
    exits = np.eye(3, dtype=np.float32)[[[0, 1], [2, 1], [2, 0]]]
    assert oracle_exit(exits, np.eye(3)[[2, 2]]).tolist() == [1, 3]


def test_a_threshold_in_normalised_entropy_means_the_same_for_any_number_of_classes():
    for classes in (2, 3, 30):
        unsure = np.zeros((1, 1, classes), np.float32)
        assert first_exit(Confidence("normalised_entropy", 0.999), unsure, unsure[0]).tolist() == [1]
        assert first_exit(Confidence("normalised_entropy", 1.001), unsure, unsure[0]).tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "exit_rule", "said"),
    [
        ({}, None, "calibrate"),
        ({"labels": ("score",)}, ExitRule("entropy", 0.1), "regression"),
        ({"labels": ("score",)}, ExitRule("patience", 2.0), "tolerance"),
        ({}, ExitRule("patience", 0.5), "whole number"),
        ({"problem_type": "multi_label_classification"}, ExitRule("entropy", 0.1), "not support multi-label"),
    ],
)
def test_a_rule_that_says_nothing_of_these_answers_is_refused(changes, exit_rule, said):
    with pytest.raises(UserError, match=said):
        policy_of(DEEP.replace(**changes), exit_rule)
