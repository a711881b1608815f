"""Mixed precision: the bits of each part of a model for a budget in bytes.

Every part (a layer or a matrix) has a few choices of bits, each with a size and a cost: curvature times squared error,
or the measured increase of the loss when that part alone is quantised. Costs are assumed to add up over parts, which
avoids trying every combination. Under that assumption the result is exactly optimal; Q-BERT chooses by hand.

The algorithm goes part by part and keeps the Pareto-optimal totals of size and cost. A dominated total stays dominated
whatever later parts add, so it is dropped. The result is the whole Pareto front, from the smallest model to the one
with the lowest cost; a budget selects a point on it. The number of totals kept is at most the number of distinct sizes,
a few hundred for layers of one shape.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import UserError


class Choice(NamedTuple):
    """One option for a part: its bits, with their size and cost."""

    bits: int
    size: int
    """In bytes."""
    cost: float


class Assignment(NamedTuple):
    """A choice of bits for every part, in the order of the parts, with the total size and cost."""

    size: int
    cost: float
    bits: tuple[int, ...]


def cheapest(parts: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, int]:
    """The bits of every part that minimise the total cost within `budget` bytes.

    Ties go to the smallest size, then to the lowest bits, part by part.

    Raises:
      UserError: Even the smallest choices exceed the budget.
    """
    points = frontier(parts)
    affordable = [point for point in points if point.size <= budget]
    if not affordable:
        raise UserError(
            f"the budget is {budget} bytes, and the model takes {points[0].size} bytes even with the smallest choice "
            "of bits for every part; raise the budget, or offer lower bits."
        )
    return dict(zip(parts, affordable[-1].bits, strict=True))


def frontier(parts: Mapping[str, Sequence[Choice]]) -> list[Assignment]:
    """The Pareto front of total size and cost: size rises, cost falls."""
    points = [Assignment(0, 0.0, ())]
    for name, choices in parts.items():
        _check(name, choices)
        sums = [
            Assignment(point.size + choice.size, point.cost + choice.cost, (*point.bits, choice.bits))
            for point in points
            for choice in choices
        ]
        points = []
        for point in sorted(sums):
            if not points or point.cost < points[-1].cost:
                points.append(point)
    return points


def _check(name: str, choices: Sequence[Choice]) -> None:
    if not choices:
        raise UserError(f"{name} has no choice of bits; expected one or more.")
    for choice in choices:
        if choice.size < 0 or not math.isfinite(choice.cost):
            raise UserError(
                f"{name} with {choice.bits} bits has size {choice.size} and cost {choice.cost}; "
                "expected a size of at least 0 bytes and a finite cost."
            )
