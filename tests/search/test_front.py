"""Fronts, promotion and hypervolume against brute force on small random problems."""

import itertools

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.search.front import even_sample, fronts, hypervolume, planned_by_steps, planned_by_time, promoted, rungs

RNG = np.random.default_rng(0)


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("columns", [2, 3])
def test_a_front_is_what_nothing_dominates_once_the_fronts_before_it_are_gone(columns):
    for _ in range(30):
        points = RNG.integers(0, 5, (9, columns)).astype(float)
        left, found = set(range(9)), fronts(points)
        for number in itertools.count():
            free = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
            assert free == {i for i in range(9) if found[i] == number}
            left -= free
            if not left:
                break


def test_whatever_training_adds_the_winner_is_promoted():
    """If all drops shrink by the same amount, the cheapest trial within the bound then is one of those that go on, in
    the order in which larger amounts make them win."""
    for _ in range(50):
        costs, drops = RNG.permutation(12).astype(float), RNG.permutation(12).astype(float)
        winners = []
        for gained in range(-1, 13):
            within = [i for i in range(12) if drops[i] - gained <= 3.0]
            if within and gained >= 0:
                winners.append(min(within, key=lambda i: costs[i]))
        distinct = list(dict.fromkeys(winners))
        keep = int(RNG.integers(1, len(distinct) + 1))
        assert promoted(costs, drops, keep, 3.0) == distinct[:keep]


def test_without_an_allowed_drop_the_smallest_drop_of_each_front_goes_on_first():
    costs, drops = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 1.0, 2.0, 0.5])
    assert promoted(costs, drops, 3, None) == [3, 1, 0]


def test_the_hypervolume_is_the_share_of_a_grid_that_is_dominated():
    for _ in range(20):
        points = RNG.integers(0, 12, (5, 2)).astype(float)
        cells = [(x + 0.5, y + 0.5) for x in range(10) for y in range(10)]
        dominated = sum(any(p[0] < x and p[1] < y for p in points) for x, y in cells)
        assert hypervolume(points, (10.0, 10.0)) == dominated


def test_a_plan_fits_its_time_and_uses_it():
    assert [rungs(n) for n in (27, 18, 9, 6, 3, 2)] == [(27, 9, 3), (18, 6, 3), (9, 3), (6, 3), (3,), (2,)]
    plan = planned_by_time(100, 1200.0, 10.0, 0.05)
    spent = sum(n * (10.0 + 0.05 * steps) for n, steps in zip(plan.trials, plan.steps, strict=True))
    assert plan.trials == (27, 9, 3)
    assert 0.9 * 1200 < spent <= 1200
    assert sum(plan.minutes or ()) == pytest.approx(spent / 60)
    assert planned_by_time(100, 300.0, 10.0, 0.05).trials == (9, 3)  # less time: fewer trials, not fewer steps
    assert planned_by_time(4, 1200.0, 10.0, 0.05).trials == (4, 3)
    with pytest.raises(UserError, match="give more --minutes"):
        planned_by_time(100, 30.0, 10.0, 0.05)


def test_a_survivor_of_the_default_plan_is_trained_as_long_as_the_recipe_says():
    plan = planned_by_steps(40, 400)
    assert plan.trials == (9, 3)
    assert sum(plan.steps) == 400
    assert planned_by_steps(2, 4).trials == (2,)


def test_a_sample_has_one_trial_of_every_part_of_the_costs():
    costs = RNG.random(40)
    chosen = even_sample(costs.tolist(), 8, np.random.default_rng(1))
    places = sorted(int(np.sum(costs < costs[i])) // 5 for i in chosen)
    assert places == list(range(8))
    assert chosen == even_sample(costs.tolist(), 8, np.random.default_rng(1))
    assert sorted(even_sample([1.0, 2.0], 8, np.random.default_rng(1))) == [0, 1]
