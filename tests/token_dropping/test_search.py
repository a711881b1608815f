"""The search, against enumeration where that is possible."""

from itertools import product

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.token_dropping.search import LADDER, ladder, search, tidy

NEED = (0.6, 0.35, 0.2)


def cost(shares: tuple[float, ...]) -> float:
    return sum(shares) / 3


def loss(shares: tuple[float, ...]) -> float:
    """What is lacking of what each layer needs, and a little for every token that is dropped."""
    return sum(max(0.0, need - share) for need, share in zip(NEED, shares, strict=True)) + 0.01 * (3 - sum(shares))


@pytest.mark.parametrize("most", [0.3, 0.45, 0.6])
def test_a_search_comes_close_to_the_best_of_an_enumeration_and_keeps_the_budget(most: float):
    grid = np.arange(0.05, 1.01, 0.025)
    allowed = [s for s in product(grid, repeat=3) if s[0] >= s[1] >= s[2] and cost(s) <= most + 1e-9]
    found = search(cost, loss, 3, most, evaluations=100, seed=0)
    assert found[0].loss <= min(map(loss, allowed)) + 0.01
    assert [one.loss for one in found] == sorted(one.loss for one in found)
    assert all(most - 0.02 < one.cost <= most for one in found)


def test_it_is_reproducible_stops_at_the_number_of_evaluations_and_never_tries_twice():
    tried: list[tuple[float, ...]] = []

    def counted(shares: tuple[float, ...]) -> float:
        tried.append(shares)
        return loss(shares)

    first = search(cost, counted, 3, 0.5, evaluations=40, seed=3)
    assert len(tried) == len(set(tried)) == 40
    assert search(cost, loss, 3, 0.5, evaluations=40, seed=3) == first
    assert search(cost, loss, 3, 0.5, evaluations=40, seed=4) != first


def test_shares_never_rise_and_a_cost_below_reach_is_refused():
    assert tidy((0.5, 0.70001, 0.0)) == (0.5, 0.5, 0.02)
    with pytest.raises(UserError, match=r"at most 1\.0% was asked"):
        search(cost, loss, 3, 0.01, evaluations=5, seed=0)


def best_within(most: float) -> float:
    grid = np.arange(0.05, 1.01, 0.025)
    return min(loss(s) for s in product(grid, repeat=3) if s[0] >= s[1] >= s[2] and cost(s) <= most + 1e-9)


def test_a_ladder_comes_close_to_the_enumeration_on_every_rung_with_the_evaluations_of_one_search():
    tried: list[tuple[float, ...]] = []

    def counted(shares: tuple[float, ...]) -> float:
        tried.append(shares)
        return loss(shares)

    rungs = list(ladder(cost, counted, 3, evaluations=100, seed=0))
    assert len(tried) <= 100
    assert all(0.98 - removed < one.cost <= 1 - removed for removed, one in zip(LADDER, rungs, strict=True))
    for removed, one in zip(LADDER, rungs, strict=True):
        assert one.loss <= best_within(1 - removed) + 0.02


def test_a_ladder_is_searched_as_far_as_it_is_read_and_ends_where_no_cost_is_within_reach():
    tried: list[tuple[float, ...]] = []

    def counted(shares: tuple[float, ...]) -> float:
        tried.append(shares)
        return loss(shares)

    next(ladder(cost, counted, 3, evaluations=60, seed=0))
    assert len(tried) == 12
    fixed = list(ladder(lambda shares: 0.5 + cost(shares) / 2, loss, 3, evaluations=60, seed=0))
    assert len(fixed) == sum(removed <= 0.49 for removed in LADDER)
    with pytest.raises(UserError, match="of the cost is left"):
        list(ladder(lambda shares: 0.95 + cost(shares) / 20, loss, 3, evaluations=60, seed=0))
