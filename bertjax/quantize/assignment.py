"""How many bits for which part, when only so many bytes are left.

Every part (a layer, a matrix) has a few choices of bits, each with its bytes and its cost: curvature times squared
error, or how much the loss rose when it was rounded alone. That costs add up over parts is an assumption, the price of
not having to try every combination; given it, the answer here is the exact one. Q-BERT chooses by hand.

Part by part, the sums of bytes and cost which no other sum beats in both are kept, and all others dropped: whatever the
later parts add, they stay beaten. What is left in the end is the whole trade, from the smallest model to the
cheapest; a budget is a point on it. The number of sums kept is at most the number of different sizes, a few hundred for
layers of one shape.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import UserError


class Choice(NamedTuple):
    """A part with this many bits."""

    bits: int
    size: int
    """Bytes."""
    cost: float


class Assignment(NamedTuple):
    """One choice for every part, in the order of the parts."""

    size: int
    cost: float
    bits: tuple[int, ...]


def cheapest(parts: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, int]:
    """The bits of every part at the least total cost of all that fit into `budget` bytes.

    Of equally cheap ones it is the smallest, and of those the first in the order of their bits, part by part.

    Raises:
      UserError: Nothing fits.
    """
    points = frontier(parts)
    within = [point for point in points if point.size <= budget]
    if not within:
        raise UserError(
            f"The budget is {budget} bytes, and with the smallest choice for every part it takes {points[0].size}.\n"
            "Raise the budget or offer fewer bits."
        )
    return dict(zip(parts, within[-1].bits, strict=True))


def frontier(parts: Mapping[str, Sequence[Choice]]) -> list[Assignment]:
    """Every total size and cost that no other beats in both: from small to large, and so from dear to cheap."""
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
        raise UserError(f"{name} has no choice of bits: expected one or more.")
    for choice in choices:
        if choice.size < 0 or not math.isfinite(choice.cost):
            raise UserError(
                f"{name} with {choice.bits} bits has size {choice.size} and cost {choice.cost}: "
                "expected bytes from 0 and a finite number."
            )
