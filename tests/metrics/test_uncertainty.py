"""Intervals and paired tests against enumeration, SciPy and simulation."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import (
    examples_needed,
    mcnemar,
    mean_difference_interval,
    mean_interval,
    paired_difference_interval,
    paired_p_value,
    proportion_difference_interval,
    score_interval,
)

RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, 2, 200)
GOOD = np.where(RNG.random(200) < 0.9, LABELS, 1 - LABELS)
FAIR = np.where(RNG.random(200) < 0.7, LABELS, 1 - LABELS)
REAL = RNG.normal(size=200)
NEAR, FAR = REAL + RNG.normal(size=200), REAL + 3 * RNG.normal(size=200)
TAGS = np.array(["O", "B-A", "I-A"])


def wrongly(metric: str, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return RNG.permutation(predictions) if metric in ("pearson", "spearman") else 1 - labels


def rightly(metric: str, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.sort(predictions)[labels.argsort().argsort()] if metric in ("pearson", "spearman") else labels


@pytest.mark.parametrize(
    ("metric", "predictions", "labels"),
    [
        ("f1", GOOD, LABELS),
        ("f1_macro", GOOD, LABELS),
        ("matthews", GOOD, LABELS),
        ("pearson", NEAR, REAL),
        ("spearman", NEAR, REAL),
    ],
)
def test_an_end_is_the_bootstrap_of_the_examples_and_one_more_that_is_answered_wrongly_or_rightly(
    metric, predictions, labels
):
    found, n = score_interval(metric, predictions, labels, resamples=1000), len(labels)
    for end, answer, level in zip(found, (wrongly, rightly), (2.5, 97.5), strict=True):
        said = np.concatenate([predictions, answer(metric, predictions, labels)])
        gold, scores = np.concatenate([labels, labels]), []
        for _ in range(200):
            drawn = RNG.integers(n + 1, size=n + 1)
            drawn = np.where(drawn == n, RNG.integers(n, 2 * n, size=n + 1), drawn)
            scores.append(score(metric, said[drawn], gold[drawn]))
        # both are random: 200 resamples know the ends so well
        assert end == pytest.approx(np.percentile(scores, level), rel=0, abs=0.2 * (found[1] - found[0]))
    assert found[0] < score(metric, predictions, labels) < found[1]


def test_of_right_and_wrong_answers_the_interval_is_exact():
    for n in (1, 7, 20, 200):
        for count in {0, 1, n // 2, n - 1, n}:
            right = np.arange(n) < count
            theirs = binomtest(count, n).proportion_ci(method="exact")
            ours = score_interval("accuracy", right.astype(int), np.ones(n, int))
            assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-8)
            words = np.where(right, "yes", "no").tolist()
            for metric in ("squad_em", "squad_f1"):
                assert score_interval(metric, words, [["yes"]] * n) == ours


def test_the_interval_of_a_difference_joins_the_limits_of_both_shares_by_their_squares():
    """Against the formula in plain floats, with SciPy's limits; and the published one where r is 0 and a limit too."""
    for only_a, only_b, n in ((40, 20, 160), (3, 1, 20), (0, 4, 60), (1, 0, 1), (10, 10, 20)):
        p, q = only_a / n, only_b / n
        a, b = (binomtest(count, n).proportion_ci(method="exact") for count in (only_a, only_b))
        r = -((p * q / ((1 - p) * (1 - q))) ** 0.5) if p * q else 0.0
        low = p - q - ((p - a.low) ** 2 + (b.high - q) ** 2 - 2 * r * (p - a.low) * (b.high - q)) ** 0.5
        high = p - q + ((a.high - p) ** 2 + (q - b.low) ** 2 - 2 * r * (a.high - p) * (q - b.low)) ** 0.5
        only = np.arange(n) < only_a, (np.arange(n) >= only_a) & (np.arange(n) < only_a + only_b)
        a_said, b_said = (side.astype(int) for side in only)
        found = paired_difference_interval("accuracy", a_said, b_said, np.ones(n, int))
        assert found == pytest.approx((max(low, -1), min(high, 1)), abs=1e-8)
        mirrored = paired_difference_interval("accuracy", b_said, a_said, np.ones(n, int))
        assert mirrored == pytest.approx((-found[1], -found[0]))


PERFECT: dict[str, tuple[Any, Any]] = {
    "accuracy": (LABELS[:20], LABELS[:20]),
    "f1": (LABELS[:20], LABELS[:20]),
    "f1 of one class": (np.ones(20, int), np.ones(20, int)),
    "f1 of no positive": (np.zeros(20, int), np.zeros(20, int)),
    "f1_macro": (LABELS[:20], LABELS[:20]),
    "f1_macro of one class": (np.zeros(20, int), np.zeros(20, int)),
    "f1_micro": (np.eye(4, dtype=int)[np.arange(20) % 4], np.eye(4, dtype=int)[np.arange(20) % 4]),
    "matthews": (LABELS[:20], LABELS[:20]),
    "pearson": (REAL[:20], REAL[:20]),
    "spearman": (REAL[:20], REAL[:20]),
    "entity_f1": ([["B-A", "O"]] * 20, [["B-A", "O"]] * 20),
    "entity_f1 of no entity": ([["O"]] * 20, [["O"]] * 20),
    "tag_accuracy": ([["X", "Y"]] * 20, [["X", "Y"]] * 20),
    "squad_em": (["yes"] * 20, [["yes"]] * 20),
    "squad_f1": (["x y"] * 20, [["x y"]] * 20),
}


@pytest.mark.parametrize("case", PERFECT)
def test_a_sample_without_errors_promises_no_perfect_score_and_one_without_disagreement_no_equal_models(case):
    said, gold = PERFECT[case]
    metric = case.partition(" ")[0]
    low, high = score_interval(metric, said, gold)
    assert low <= 0.93, "of 20 texts 12 to 17 % may be wrong unseen"
    assert high == pytest.approx(1)
    down, up = paired_difference_interval(metric, said, said, gold)
    assert down <= -0.07
    assert up >= 0.07
    assert down == pytest.approx(-up)
    assert mean_interval(metric, [said] * 3, gold) == pytest.approx((low, high))


def test_three_runs_without_a_common_error_are_not_taken_for_perfect():
    gold = np.ones(60, int)
    runs = [gold.copy() for _ in range(3)]
    runs[0][0] = 0
    low, high = mean_interval("accuracy", runs, gold)
    assert low < 0.96
    assert high == pytest.approx(1)
    low, high = mean_difference_interval("accuracy", runs, [gold] * 3, gold)
    assert low < -0.04
    assert high > 0.03


def test_examples_needed_are_those_from_which_equal_answers_show_the_bound():
    for bound in (0.2, 0.05, 0.01, 0.001):
        n = examples_needed(bound)
        assert proportion_difference_interval(0, 0, n)[1] <= bound < proportion_difference_interval(0, 0, n - 1)[1]


def test_interval_repeats_with_its_seed():
    assert score_interval("f1", FAIR, LABELS) == score_interval("f1", FAIR, LABELS)
    assert score_interval("pearson", FAR, REAL) != score_interval("pearson", FAR, REAL, seed=1)


def test_mcnemar_is_a_fair_coin_on_the_disagreements():
    for _ in range(20):
        a, b = RNG.random((2, 40)) < RNG.random((2, 1))
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        flips = np.array(list(itertools.product((0, 1), repeat=min(only_a + only_b, 12)))).sum(1)
        wanted = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        if only_a + only_b <= 12:
            centre = (only_a + only_b) / 2
            wanted = np.mean(np.abs(flips - centre) >= abs(only_a - centre))
        assert mcnemar(a, b) == pytest.approx(wanted)
    assert mcnemar(a, a) == 1


def test_accuracy_is_tested_by_mcnemar():
    assert paired_p_value("accuracy", GOOD, FAIR, LABELS) == mcnemar(GOOD == LABELS, FAIR == LABELS)
    assert paired_p_value("squad_em", ["a", "b"], ["c", "b"], [["a"], ["b"]]) == 1  # one coin is never uneven


def swapped(swap, a, b):
    return [y if s else x for s, x, y in zip(swap, a, b, strict=True)], [
        x if s else y for s, x, y in zip(swap, a, b, strict=True)
    ]


@pytest.mark.parametrize(
    "metric", ["f1", "f1_macro", "matthews", "pearson", "spearman", "entity_f1", "tag_accuracy", "squad_f1", "f1_micro"]
)
def test_permutation_test_agrees_with_every_exchange_enumerated(metric):
    rng, n = np.random.default_rng(5), 7
    if metric in ("entity_f1", "tag_accuracy"):
        a, b, labels = ([list(rng.choice(TAGS, 3)) for _ in range(n)] for _ in range(3))
    elif metric == "squad_f1":
        a, b = (["".join(rng.choice(list("x y "), 6)) for _ in range(n)] for _ in range(2))
        labels = [["x y"]] * n
    elif metric in ("pearson", "spearman"):
        labels = rng.normal(size=n)
        a, b = labels + 0.5 * rng.normal(size=n), 2 + rng.normal(size=n)
    else:
        shape = (n, 3) if metric == "f1_micro" else (n,)
        labels, a, b = rng.integers(0, 2, (3, *shape))
        a = np.where(rng.random(shape) < 0.8, labels, a)
    observed = abs(score(metric, a, labels) - score(metric, b, labels))
    extreme = []
    for swap in itertools.product((False, True), repeat=n):
        left, right = swapped(swap, a, b)
        extreme.append(abs(score(metric, left, labels) - score(metric, right, labels)) >= observed - 1e-9)
    assert paired_p_value(metric, a, b, labels, permutations=4000) == pytest.approx(np.mean(extreme), abs=0.03)


def test_equal_models_are_never_told_apart():
    for metric, model, labels in [("f1", FAIR, LABELS), ("spearman", FAR, REAL)]:
        assert paired_p_value(metric, model, model, labels) == 1
        low, high = paired_difference_interval(metric, model, model, labels)
        assert low < 0 < high


def test_interval_of_the_difference_resamples_both_models_together():
    low, high = paired_difference_interval("f1", GOOD, FAIR, LABELS)
    drawn = [np.random.default_rng(i).integers(200, size=200) for i in range(300)]
    found = [score("f1", GOOD[i], LABELS[i]) - score("f1", FAIR[i], LABELS[i]) for i in drawn]
    np.testing.assert_allclose((low, high), np.percentile(found, (2.5, 97.5)), rtol=0, atol=0.03)
    assert low > 0
    assert paired_p_value("f1", GOOD, FAIR, LABELS) < 0.05


def test_chunks_change_nothing_but_memory(monkeypatch):
    whole = (
        paired_difference_interval("f1", GOOD, FAIR, LABELS),
        paired_p_value("f1", GOOD, FAIR, LABELS, permutations=99),
    )
    monkeypatch.setattr("bertjax.metrics.uncertainty._CELLS", 1000)
    cut = (
        paired_difference_interval("f1", GOOD, FAIR, LABELS),
        paired_p_value("f1", GOOD, FAIR, LABELS, permutations=99),
    )
    assert cut == whole
