"""From scores to the parts that stay, and from a speed to how many of them."""

from collections.abc import Callable, Mapping

import numpy as np

from bertjax.errors import UserError

STEPS = 32
"""A speed is looked for among so many parts of the whole: what two measurements of one model differ by is no less."""


def select_top(
    scores: Mapping[int, np.ndarray], remove: int, at_least: int = 1, multiple: int = 1
) -> dict[int, list[int]]:
    """What stays of each group when the `remove` lowest of all go; ties by group and index, the last one goes first.

    A group keeps `at_least` so many, and with a `multiple` as many more, its best ones, as make the number one (or all
    there are): then fewer go than were asked for.

    Raises:
      UserError: More should go than can.
    """
    most = sum(max(0, len(one) - at_least) for one in scores.values())
    if not 0 <= remove <= most:
        raise UserError(f"{remove} of {sum(map(len, scores.values()))} parts to remove; at most {most} can go.")
    order = {group: np.argsort(-one, kind="stable") for group, one in scores.items()}
    open_to = [
        (float(scores[group][index]), -group, -int(index))
        for group in scores
        for index in order[group][at_least:].tolist()
    ]
    gone = {(-group, -index) for _, group, index in sorted(open_to)[:remove]}
    kept = {}
    for group, ranked in order.items():
        count = sum((group, int(index)) not in gone for index in ranked)
        count = min(len(ranked), -(-count // multiple) * multiple)
        kept[group] = sorted(ranked[:count].tolist())
    return kept


def search_speedup(reached: Callable[[float], float], wanted: float) -> tuple[float, float]:
    """The smallest part that has to go for a model to be `wanted` times as fast, in steps of 1/32, and what it reached.

    `reached` measures a fraction, and is asked by bisection: what is smaller is faster. What that ends at is measured
    once more, and while it falls short then, a step more goes: the best of several tries is a lucky one.

    Raises:
      UserError: Not even with all gone that can.
    """
    best = reached(1.0)
    if best < wanted:
        raise UserError(
            f"{wanted:g} times as fast was asked for; without any heads and neurons that can go it is {best:.2f} times "
            "as fast. Take layers out as well, or ask for less."
        )
    low, high = 0, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle / STEPS) >= wanted else (middle, high)
    for number in range(high, STEPS):
        if (found := reached(number / STEPS)) >= wanted:
            return number / STEPS, found
    return 1.0, best
