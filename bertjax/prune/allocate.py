"""How many heads and neurons each layer keeps, within a budget for the whole model (SPDY, Frantar & Alistarh 2022;
ZipLM, Kurtic et al. 2023).

Each attention and each feed-forward layer has a list of sizes, with a cost (milliseconds, or a number of parts) and an
error each. Dynamic programming finds the sizes within the budget whose errors sum to the least. But the sum is not the
loss of the model: an error in one layer may do more harm than the same error in another. So a random search weights the
layers, and the allocation with the lowest loss on calibration text is kept.

The trade-off: dynamic programming takes less than a second and reads no text. Every candidate of the random search
costs a pass over the calibration text.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.prune.costs import Costs
from bertjax.prune.scores import OWNER, Part
from bertjax.prune.second_order import Curves, Sizes

RESOLUTION = 10_000
"""Milliseconds are rounded up to multiples of the budget divided by this."""
EXPLORATION = 0.2
"""The fraction of the candidates that are drawn independently; the others change the best one so far."""
RESAMPLED = 0.1
"""The fraction of the layers whose weights change from the best candidate to the next one."""


class Options(NamedTuple):
    """The sizes that one parameter group may have."""

    part: Part
    group: int
    counts: np.ndarray
    """Descending, so that of equal allocations the larger one is chosen."""
    costs: np.ndarray
    errors: np.ndarray
    """Squared relative output errors."""


def all_counts(count: int, multiple: int = 1) -> list[int]:
    """0, all multiples below `count`, and `count`, in descending order."""
    return [count, *range(multiple * ((count - 1) // multiple), -1, -multiple)] if count else [0]


def geometric_counts(count: int, multiple: int = 1, factor: float = 0.9) -> list[int]:
    """`count`, each size 0.9 times the one before down to 1 %, rounded to a multiple, and 0, in descending order."""
    steps = math.ceil(math.log(0.01) / math.log(factor))
    rounded = (round(count * factor**step / multiple) * multiple for step in range(1, steps + 1))
    return sorted({0, count, *(size for size in rounded if size < count)}, reverse=True)


def cost_of(config: BertConfig, table: Costs) -> Callable[[Part, int, int], float]:
    """`(part, group, count) -> cost` of a parameter group with `count` heads or neurons: that of one layer, for each
    depth step that uses the group."""
    uses = {part: Counter(getattr(step, owner) for step in config.depth_steps()) for part, owner in OWNER.items()}
    return lambda part, group, count: table.cost(part, count) * uses[part][group]


def options_for(
    curves: Curves, cost: Callable[[Part, int, int], float], counts: Callable[[Part, int], list[int]]
) -> list[Options]:
    """The options of every group that has a curve. `counts` gives the sizes to choose from, for a whole size."""
    found = []
    for part, of_part in curves.items():
        for group, curve in of_part.items():
            sizes = np.array(counts(part, len(curve.order)), int)
            costs = np.array([cost(part, group, int(size)) for size in sizes])
            found.append(Options(part, group, sizes, costs, np.square(curve.errors[sizes])))
    return found


def least_error(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], budget: int) -> list[int]:
    """For each layer the index of its size, so that the sum of errors is least and the sum of costs, which are
    integers, at most the budget. Dynamic programming over layers and budgets; exact.

    Raises:
      UserError: Even the cheapest sizes exceed the budget.
    """
    if (cheapest := sum(int(one.min()) for one in costs)) > budget:
        raise UserError(f"the budget is {budget}, and the smallest sizes of all layers together cost {cheapest}.")
    best, choices = np.zeros(budget + 1), []
    for layer_costs, layer_errors in zip(costs, errors, strict=True):
        total, choice = np.full(budget + 1, np.inf), np.zeros(budget + 1, int)
        for index, (cost, error) in enumerate(zip(layer_costs.tolist(), layer_errors.tolist(), strict=True)):
            if cost > budget:
                continue
            candidate = best[: budget + 1 - cost] + error
            lower = candidate < total[cost:]
            total[cost:][lower], choice[cost:][lower] = candidate[lower], index
        best = total
        choices.append(choice)
    chosen, remaining = [], budget
    for layer_costs, choice in zip(reversed(costs), reversed(choices), strict=True):
        chosen.append(int(choice[remaining]))
        remaining -= int(layer_costs[chosen[-1]])
    return chosen[::-1]


def sizes_of(options: Sequence[Options], chosen: Sequence[int]) -> Sizes:
    sizes: dict[Part, dict[int, int]] = {one.part: {} for one in options}
    for one, index in zip(options, chosen, strict=True):
        sizes[one.part][one.group] = int(one.counts[index])
    return sizes


def search_sizes(
    options: Sequence[Options],
    budget: float,
    loss: Callable[[Sizes], float],
    candidates: int,
    seed: int = 0,
    unit: float = 0.0,
) -> Sizes:
    """The sizes within the budget whose loss is the lowest of `candidates` allocations.

    The first candidate weights all layers equally. Then weights from 0 to 1 are drawn for all layers, later for a few
    layers of the best candidate (SPDY). An allocation that was seen before is not evaluated again. Costs are rounded up
    to multiples of `unit`; 0 means a small fraction of the budget.

    Raises:
      UserError: Even the smallest sizes exceed the budget.
    """
    rng = np.random.default_rng(seed)
    unit = unit or budget / RESOLUTION or 1.0
    most = int(budget / unit + 1e-9)
    costs = [np.ceil(one.costs / unit - 1e-9).astype(int) for one in options]
    losses: dict[tuple[int, ...], float] = {}

    def evaluate(weights: np.ndarray) -> tuple[float, tuple[int, ...]]:
        weighted = [weight * one.errors for weight, one in zip(weights, options, strict=True)]
        chosen = tuple(least_error(costs, weighted, most))
        if chosen not in losses:
            losses[chosen] = loss(sizes_of(options, chosen))
        return losses[chosen], chosen

    best = np.ones(len(options))
    lowest, chosen = evaluate(best)
    for number in range(1, candidates):
        weights = rng.random(len(options))
        if number >= EXPLORATION * candidates:
            resampled = rng.permutation(len(options)) < max(1, round(RESAMPLED * len(options)))
            weights = np.where(resampled, weights, best)
        found, allocation = evaluate(weights)
        if found < lowest:
            lowest, chosen, best = found, allocation, weights
    return sizes_of(options, chosen)
