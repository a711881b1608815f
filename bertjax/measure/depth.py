"""What leaving early gains on the clock, against the same model run to its end.

All ways of running are of one runtime, so they share a process and its threads, and take turns: a round lets each of
them run every batch once, in an order that turns, and what counts is the median over the rounds. The model run to its
end has the same batches in the same few lengths; padding to a maximum would be a baseline that is easily beaten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.text.batches import Inputs


def time_ways(
    ways: Mapping[str, Callable[[Sequence[Inputs]], Any]],
    calls: Mapping[str, Sequence[Sequence[Inputs]]],
    *,
    rounds: int = 5,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, float]]:
    """Milliseconds per text of each way, a function of batches that returns when its answers are there, in each kind of
    `calls`: {"one by one": [[a], [b]], "together": [[a, b]]} gives {way: {"one by one": ms, "together": ms}}."""
    for name, run in ways.items():
        notify(f"compiling {name}")
        for kind in calls.values():
            for batches in kind:
                run(batches)
    order, taken = list(ways), {name: {kind: [] for kind in calls} for name in ways}
    for turn in range(rounds):
        notify(f"round {turn + 1} of {rounds}")
        for name in order:
            for kind, several in calls.items():
                texts = sum(len(ids) for batches in several for ids, _, _ in batches)
                start = time.perf_counter()
                for batches in several:
                    ways[name](batches)
                taken[name][kind].append(1000 * (time.perf_counter() - start) / texts)
        order = [*order[1:], order[0]]
    return {name: {kind: float(np.median(ms)) for kind, ms in kinds.items()} for name, kinds in taken.items()}
