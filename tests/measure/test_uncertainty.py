"""Intervals and paired tests against enumeration, SciPy and simulation."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from bertjax.measure.scores import score
from bertjax.measure.uncertainty import bootstrap_interval, mcnemar, paired_difference_interval, paired_p_value

RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, 2, 200)
GOOD = np.where(RNG.random(200) < 0.9, LABELS, 1 - LABELS)
FAIR = np.where(RNG.random(200) < 0.7, LABELS, 1 - LABELS)
REAL = RNG.normal(size=200)
NEAR, FAR = REAL + RNG.normal(size=200), REAL + 3 * RNG.normal(size=200)
TAGS = np.array(["O", "B-A", "I-A"])


@pytest.mark.parametrize(
    ("metric", "predictions", "labels"),
    [
        ("accuracy", GOOD, LABELS),
        ("f1", GOOD, LABELS),
        ("matthews", GOOD, LABELS),
        ("pearson", NEAR, REAL),
        ("spearman", NEAR, REAL),
    ],
)
def test_interval_is_the_percentile_bootstrap_of_scipy(metric, predictions, labels):
    ours = bootstrap_interval(metric, predictions, labels, resamples=1000)
    theirs = bootstrap(
        (predictions, labels),
        lambda p, y: score(metric, p, y),
        paired=True,
        vectorized=False,
        n_resamples=300,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=0.2 * width
    )  # both are random: 300 resamples know the ends so well
    assert ours[0] < score(metric, predictions, labels) < ours[1]


def test_interval_covers_the_truth_nineteen_times_in_twenty():
    rng, covered = np.random.default_rng(2), 0
    for i in range(400):
        right = (rng.random(150) < 0.8).astype(int)
        low, high = bootstrap_interval("accuracy", right, np.ones(150, int), resamples=400, seed=i)
        covered += low <= 0.8 <= high
    assert (
        0.91 <= covered / 400 <= 0.98
    )  # 3.5 standard errors around 0.945, what the percentile method keeps at n = 150


def test_interval_repeats_with_its_seed():
    assert bootstrap_interval("accuracy", FAIR, LABELS) == bootstrap_interval("accuracy", FAIR, LABELS)
    assert bootstrap_interval("pearson", FAR, REAL) != bootstrap_interval("pearson", FAR, REAL, seed=1)


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
    "metric", ["f1", "f1_macro", "matthews", "pearson", "spearman", "entity_f1", "squad_f1", "f1_micro"]
)
def test_permutation_test_agrees_with_every_exchange_enumerated(metric):
    rng, n = np.random.default_rng(5), 7
    if metric == "entity_f1":
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
        assert paired_difference_interval(metric, model, model, labels) == (0, 0)


def test_interval_of_the_difference_resamples_both_models_together():
    low, high = paired_difference_interval("accuracy", GOOD, FAIR, LABELS)
    difference = (GOOD == LABELS).astype(float) - (FAIR == LABELS)
    rng = np.random.default_rng(9)
    means = [difference[rng.integers(200, size=200)].mean() for _ in range(2000)]
    np.testing.assert_allclose((low, high), np.percentile(means, (2.5, 97.5)), rtol=0, atol=0.015)
    assert low > 0
    assert paired_p_value("accuracy", GOOD, FAIR, LABELS) < 0.05


def test_chunks_change_nothing_but_memory(monkeypatch):
    whole = (
        paired_difference_interval("f1", GOOD, FAIR, LABELS),
        paired_p_value("f1", GOOD, FAIR, LABELS, permutations=99),
    )
    monkeypatch.setattr("bertjax.measure.uncertainty._CELLS", 1000)
    cut = (
        paired_difference_interval("f1", GOOD, FAIR, LABELS),
        paired_p_value("f1", GOOD, FAIR, LABELS, permutations=99),
    )
    assert cut == whole
