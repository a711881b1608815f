"""What leaving early gains on the clock, against the same model run to its end.

All ways of running are of one runtime, so they share a process and its threads, and take turns: a round lets each of
them run every batch once, one right after the other, in an order that turns. What counts is the median over the rounds,
and of one way against another the median of what each round says, which a machine that is slower for some seconds
changes little. The model run to its end has the same batches in the same few lengths; padding to a maximum would be a
baseline that is easily beaten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bertjax.text.batches import Inputs


def time_ways(
    ways: Mapping[str, Callable[[Sequence[Inputs]], Any]],
    calls: Mapping[str, Sequence[Sequence[Inputs]]],
    *,
    rounds: int = 5,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, Float[np.ndarray, "rounds"]]]:
    """Milliseconds per text, by round, of each way, a function of batches that returns when its answers are there, in
    each kind of `calls`: {"one by one": [[a], [b]], "together": [[a, b]]} gives {way: {"one by one": ms, ...}}."""
    for name, run in ways.items():
        notify(f"compiling {name}")
        for kind in calls.values():
            for batches in kind:
                run(batches)
    order, taken = list(ways), {name: {kind: np.zeros(rounds) for kind in calls} for name in ways}
    for turn in range(rounds):
        notify(f"round {turn + 1} of {rounds}")
        for kind, several in calls.items():
            texts = sum(len(ids) for batches in several for ids, _, _ in batches)
            for name in order:
                start = time.perf_counter()
                for batches in several:
                    ways[name](batches)
                taken[name][kind][turn] = 1000 * (time.perf_counter() - start) / texts
        order = [*order[1:], order[0]]
    return taken
