import itertools

import numpy as np
import pytest

from bertjax import UserError
from bertjax.quantize.assignment import Assignment, Choice, cheapest, frontier

BITS = (2, 4, 8)


def instance(seed: int, whole: bool) -> dict[str, list[Choice]]:
    """Six layers with three choices; small whole numbers make ties."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 4, (6, 3)).astype(float) if whole else rng.normal(1, 1, (6, 3))
    sizes = rng.integers(0, 6 if whole else 1000, (6, 3))
    return {
        f"layer_{i}": [Choice(bits, int(sizes[i, j]), float(costs[i, j])) for j, bits in enumerate(BITS)]
        for i in range(6)
    }


def everything(parts: dict[str, list[Choice]]) -> list[Assignment]:
    """All 729 ways, added up from the first part to the last."""
    ways = []
    for choices in itertools.product(*parts.values()):
        cost = 0.0
        for choice in choices:
            cost += choice.cost
        ways.append(Assignment(sum(c.size for c in choices), cost, tuple(c.bits for c in choices)))
    return ways


@pytest.mark.parametrize("whole", [False, True])
def test_the_assignment_is_the_best_of_all(whole: bool):
    for seed in range(20):
        parts = instance(seed, whole)
        ways = everything(parts)
        smallest, largest = min(ways).size, max(ways).size
        for budget in np.linspace(smallest, largest, 8).astype(int).tolist():
            cost, size, bits = min((way.cost, way.size, way.bits) for way in ways if way.size <= budget)
            chosen = cheapest(parts, budget)
            assert list(chosen) == list(parts)
            assert tuple(chosen.values()) == bits
            assert Assignment(size, cost, bits) in frontier(parts)


@pytest.mark.parametrize("whole", [False, True])
def test_the_frontier_is_all_that_nothing_beats(whole: bool):
    for seed in range(20):
        parts = instance(seed, whole)
        points, ways = frontier(parts), everything(parts)
        pairs = sorted({(way.size, way.cost) for way in ways})
        unbeaten, best = [], np.inf
        for size, cost in pairs:
            if cost < best:
                unbeaten.append((size, cost))
                best = cost
        assert [(point.size, point.cost) for point in points] == unbeaten
        assert (np.diff([point.size for point in points]) > 0).all()
        assert (np.diff([point.cost for point in points]) < 0).all()


def test_layers_of_one_shape_leave_few_sums():
    rng = np.random.default_rng(0)
    layer = {bits: bits * 1000 for bits in BITS}
    parts = {f"layer_{i}": [Choice(b, s, float(rng.random() / b)) for b, s in layer.items()] for i in range(48)}
    assert len(frontier(parts)) <= 48 * 3 + 1


def test_a_budget_below_the_smallest_model_is_refused():
    parts = {"a": [Choice(2, 10, 1.0), Choice(4, 20, 0.5)], "b": [Choice(2, 7, 1.0)]}
    with pytest.raises(UserError, match=r"budget is 16 bytes.* takes 17"):
        cheapest(parts, 16)
    assert cheapest(parts, 17) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "a has no choice of bits"),
        ([Choice(2, 10, float("nan"))], "a with 2 bits has size 10 and cost nan"),
        ([Choice(2, -1, 0.0)], "size -1"),
    ],
)
def test_choices_that_mean_nothing_are_refused(choices: list[Choice], message: str):
    with pytest.raises(UserError, match=message):
        cheapest({"a": choices}, 100)
