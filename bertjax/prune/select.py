"""Selection: which parts to keep, from their scores, and how many, from a target speedup."""

from collections.abc import Callable, Mapping

import numpy as np

from bertjax.errors import UserError

STEPS = 32
"""Resolution of the search for a speedup, as 1/32 of the prunable parts: smaller differences are within measurement
noise."""


def select_top(
    scores: Mapping[int, np.ndarray], remove: int, at_least: int = 1, multiple: int = 1
) -> dict[int, list[int]]:
    """The parts to keep in each group when the `remove` lowest of all groups are pruned.

    Of equal scores, later groups and later indices are pruned first. A group keeps at least `at_least` parts. With a
    `multiple`, it keeps its next best parts until their number is a multiple (or all of them); then fewer than `remove`
    are pruned.

    Raises:
      UserError: `remove` exceeds the number of prunable parts.
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
    """The smallest fraction to prune for a model `wanted` times as fast, in steps of 1/32, and the speedup it reached.

    `reached` measures the speedup of a fraction. The search bisects, on the assumption that speed rises with the
    fraction. The result is measured again, and while it misses the target one more step is pruned, because the best of
    several noisy measurements tends to be too good.

    Raises:
      UserError: Even the largest fraction misses the target.
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
