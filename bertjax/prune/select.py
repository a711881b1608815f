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
        raise UserError(
            f"{remove} of {sum(map(len, scores.values()))} parts are to be removed; expected 0 to {most}, because "
            f"every group keeps at least {at_least}."
        )
    order = {group: np.argsort(-one, kind="stable") for group, one in scores.items()}
    candidates = [
        (float(scores[group][index]), -group, -int(index))
        for group in scores
        for index in order[group][at_least:].tolist()
    ]
    removed = {(-group, -index) for _, group, index in sorted(candidates)[:remove]}
    kept = {}
    for group, ranked in order.items():
        count = sum((group, int(index)) not in removed for index in ranked)
        count = min(len(ranked), -(-count // multiple) * multiple)
        kept[group] = sorted(ranked[:count].tolist())
    return kept


def search_speedup(measure: Callable[[float], float], target: float) -> tuple[float, float]:
    """The smallest fraction to prune for a model `target` times as fast, in steps of 1/32, and the speedup it reached.

    `measure` returns the speedup of a fraction. The search bisects, on the assumption that speed rises with the
    fraction. The result is measured again, and while it misses the target one more step is pruned, because the best of
    several noisy measurements tends to be too good.

    Raises:
      UserError: Even the largest fraction misses the target.
    """
    best = measure(1.0)
    if best < target:
        raise UserError(
            f"a model {target:g} times as fast was requested; with all prunable heads and neurons removed it is "
            f"{best:.2f} times as fast. Remove layers as well, or request a smaller speedup."
        )
    low, high = 0, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(middle / STEPS) >= target else (middle, high)
    for number in range(high, STEPS):
        if (speedup := measure(number / STEPS)) >= target:
            return number / STEPS, speedup
    return 1.0, best
