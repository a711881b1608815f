"""Sizes of layers within a budget, against enumeration."""

import itertools
from typing import Any

import numpy as np
import pytest

from bertjax import UserError
from bertjax.prune.allocate import (
    Options,
    all_counts,
    cost_of,
    geometric_counts,
    least_error,
    options_for,
    search_sizes,
)
from bertjax.prune.costs import model_cost
from bertjax.prune.second_order import RemovalCurve
from tests.model.tiny import TINY


class Table:
    """A made-up table: attention costs 2 and 1 more per head, a feed-forward layer 1/4 per neuron."""

    base = 3.0

    def cost(self, part: str, count: int) -> float:
        return float(count and 2 + count) if part == "heads" else count / 4


def layers(seed: int, count: int = 3) -> list[Options]:
    rng = np.random.default_rng(seed)
    sizes = np.arange(5)[::-1]
    return [Options("heads", group, sizes, 1.7 * sizes, np.sort(rng.random(5)) * (sizes < 4)) for group in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_the_least_error_within_a_budget_is_that_of_an_enumeration(seed: int):
    rng = np.random.default_rng(seed)
    costs, errors = rng.integers(0, 20, (3, 6)), rng.random((3, 6))
    for budget in (int(costs.min(axis=1).sum()), 15, 24, 33, 60):
        within = [
            chosen
            for chosen in itertools.product(range(6), repeat=3)
            if sum(costs[layer, one] for layer, one in enumerate(chosen)) <= budget
        ]
        best = min(within, key=lambda chosen: sum(errors[layer, one] for layer, one in enumerate(chosen)))
        assert tuple(least_error(list(costs), list(errors), budget)) == best
    with pytest.raises(UserError, match=r"the budget is \d+, and the smallest sizes of all layers together cost"):
        least_error(list(costs), list(errors), int(costs.min(axis=1).sum()) - 1)


def test_the_search_finds_the_allocation_of_the_lowest_loss():
    """The loss weights the layers very unequally, and the search does not know how."""
    options, weights, budget = layers(1), (0.2, 0.05, 1.0), 10.5
    tried = []

    def loss(sizes: Any) -> float:
        tried.append(sizes)
        return sum(
            weight * float(one.errors[one.counts == sizes["heads"][one.group]][0])
            for weight, one in zip(weights, options, strict=True)
        )

    found = search_sizes(options, budget, loss, candidates=60, seed=1)
    within = [
        {"heads": dict(enumerate(sizes))}
        for sizes in itertools.product(range(5), repeat=3)
        if 1.7 * sum(sizes) <= budget
    ]
    assert found == min(within, key=loss)
    assert loss(found) < loss(search_sizes(options, budget, loss, candidates=1))
    assert search_sizes(options, budget, loss, candidates=60, seed=1) == found
    tried.clear()
    search_sizes(options, budget, loss, candidates=60, seed=1)
    assert all(1.7 * sum(one["heads"].values()) <= budget for one in tried)
    assert len({tuple(one["heads"].values()) for one in tried}) == len(tried) < 60  # none is evaluated twice


def test_whole_numbers_of_parts_fill_the_budget_exactly():
    counts = np.arange(13)[::-1]
    options = [Options("heads", g, counts, counts.astype(float), (12 - counts) ** 2 / (1.0 + g)) for g in range(7)]
    for budget in (0, 1, 41, 84):
        found = search_sizes(options, budget, lambda sizes: 0.0, candidates=2, unit=1.0)
        assert sum(found["heads"].values()) == budget


def test_sizes_on_offer_fall_to_nothing():
    assert all_counts(12, 1) == list(range(12, -1, -1))
    assert all_counts(10, 4) == [10, 8, 4, 0]
    assert all_counts(8, 4) == [8, 4, 0]
    assert all_counts(0) == geometric_counts(0) == [0]
    sizes = geometric_counts(3072, 8)
    assert sizes[:3] == [3072, 2768, 2488]
    assert sizes[-2:] == [32, 0]
    assert all(size % 8 == 0 for size in sizes)
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_group_costs_as_often_as_it_is_used():
    config = TINY.replace(num_hidden_layers=3, num_hidden_groups=1)
    curve = RemovalCurve(np.zeros((12, 5)), np.eye(12), np.arange(3), np.array([1.0, 0.5, 0.1, 0.0]))
    (one,) = options_for({"heads": {0: curve}}, cost_of(config, Table()), lambda _, count: all_counts(count))
    np.testing.assert_array_equal(one.counts, [3, 2, 1, 0])
    np.testing.assert_array_equal(one.costs, [15, 12, 9, 0])
    np.testing.assert_allclose(one.errors, [0, 0.01, 0.25, 1])
    assert model_cost(Table(), config) == 3 + 3 * (5 + 2.5)
