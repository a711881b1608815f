"""What leaving early gains on the clock, against the same model run to its end.

All ways of running are of one runtime, so they share a process and its threads, and take turns: a round lets each of
them run every batch once, in an order that turns, and what counts is the median over the rounds. The model run to its
end has the same batches in the same few lengths; padding to a maximum would be a baseline that is easily beaten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids, mask and types of one batch."""


class Times(NamedTuple):
    """Milliseconds per text, at batch 1 and in full batches."""

    alone: float
    batched: float


def time_ways(
    ways: Mapping[str, Callable[..., Any]],
    alone: Sequence[Arrays],
    batched: Sequence[Arrays],
    *,
    rounds: int = 5,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Times]:
    """The time of each way, which is a function of (ids, mask, types) that returns when its answers are there."""
    for name, run in ways.items():
        notify(f"compiling {name}")
        for batch in [*alone, *batched]:
            run(*batch)
    order, taken = list(ways), {name: ([], []) for name in ways}
    for turn in range(rounds):
        notify(f"round {turn + 1} of {rounds}")
        for name in order:
            for batches, times in zip((alone, batched), taken[name], strict=True):
                texts = sum(len(ids) for ids, _, _ in batches)
                start = time.perf_counter()
                for batch in batches:
                    ways[name](*batch)
                times.append(1000 * (time.perf_counter() - start) / texts)
        order = [*order[1:], order[0]]
    return {name: Times(*(float(np.median(times)) for times in both)) for name, both in taken.items()}
