"""From scores to the parts that stay."""

from collections.abc import Mapping

import numpy as np

from bertjax.errors import UserError


def strongest(
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
