"""Intervals hold the truth as often as they say: exact sums over everything that may be seen."""

import numpy as np
import pytest

from bertjax.metrics.uncertainty import TAIL, proportion_difference_interval, proportion_interval
from tests.benchmarks.coverage import (
    ACCURACIES,
    ALONE,
    bootstrap,
    misses,
    of_difference,
    of_f1,
    of_one,
    outcomes,
    tango,
    wilson,
)


@pytest.mark.parametrize("n", [5, 20, 60, 277, 872])
def test_the_interval_of_a_share_covers_95_per_cent_everywhere(n):
    for p in (*ACCURACIES, *np.linspace(0.5, 0.9999, 97)):
        assert of_one(proportion_interval, n, float(p)) >= 0.95


def test_the_methods_that_were_not_taken_fall_short():
    """So that what counts the coverage is known to find it: the values are those of the percentile bootstrap at n = 60
    and 20, and Wilson's dips."""
    assert of_one(bootstrap, 60, 0.98) == pytest.approx(0.70, abs=0.005)
    assert of_one(bootstrap, 20, 0.95) == pytest.approx(0.64, abs=0.005)
    assert of_one(bootstrap, 872, 0.9) == pytest.approx(0.95, abs=0.005)
    assert of_one(wilson, 20, 0.95) < 0.93
    assert of_one(wilson, 60, 0.983) < 0.93


@pytest.mark.parametrize("n", [10, 20, 60])
def test_the_interval_of_a_difference_covers_95_per_cent_and_errs_to_neither_side(n):
    ends = proportion_difference_interval(*outcomes(n), n)
    for p in (*ALONE, 0.4):
        for q in (*ALONE, 0.4):
            above, below = misses(ends, n, p, q)
            assert max(above, below) <= TAIL
    assert all(of_difference(ends, n, accuracy) >= 0.95 for accuracy in ACCURACIES)


def test_tangos_interval_of_a_known_table():
    """The example of its R package PropCIs: 40 and 20 of 160."""
    low, high = tango(np.array([40.0]), np.array([20.0]), 160)
    statistic = lambda d, q: (20 - 160 * d) / np.sqrt(160 * (2 * q + d * (1 - d)))  # noqa: E731
    for d, z in ((low[0], 1.96), (high[0], -1.96)):
        qs = np.linspace(1e-6, (1 - d) / 2 - 1e-6, 400_001)  # the likeliest nuisance share, by search
        likelihood = 40 * np.log(qs + d) + 20 * np.log(qs) + 100 * np.log(1 - 2 * qs - d)
        assert statistic(d, qs[likelihood.argmax()]) == pytest.approx(z, abs=1e-3)


@pytest.mark.parametrize("accuracy", [0.8, 0.98])
def test_the_interval_of_f1_covers_what_it_says_on_few_examples(accuracy):
    assert of_f1(60, accuracy, samples=150) >= 0.92  # 2 standard errors below 0.95
