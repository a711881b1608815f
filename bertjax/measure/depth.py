"""The time that early exit saves, compared with the same model run to its last layer.

All executors use one runtime, so they share a process and its threads and take turns: in each repeat each executor runs
every batch once, in an order that rotates. The result is the median over the repeats. For one executor compared with
another, it is the median of the ratios within a repeat, which hardly changes if the machine is slower for some seconds.
The model run to its last layer gets the same batches with the same few lengths; padding to a maximum would be too weak
a baseline.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bertjax.text.batches import Inputs


def time_executors(
    executors: Mapping[str, Callable[[Sequence[Inputs]], Any]],
    calls: Mapping[str, Sequence[Sequence[Inputs]]],
    *,
    repeats: int = 5,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, dict[str, Float[np.ndarray, "repeats"]]]:
    """Milliseconds per text, by repeat, of each way to run a model, for each kind of `calls`.

    Args:
      executors: Functions of a list of batches that return when the outputs are computed.
      calls: For each kind, a list of calls, each of which gets a list of batches. {"one by one": [[a], [b]],
        "together": [[a, b]]} gives {way: {"one by one": ms, "together": ms}}.
    """
    for name, run in executors.items():
        notify(f"compiling {name}")
        for kind in calls.values():
            for batches in kind:
                run(batches)
    order, taken = list(executors), {name: {kind: np.zeros(repeats) for kind in calls} for name in executors}
    for turn in range(repeats):
        notify(f"repeat {turn + 1} of {repeats}")
        for kind, several in calls.items():
            texts = sum(len(ids) for batches in several for ids, _, _ in batches)
            for name in order:
                start = time.perf_counter()
                for batches in several:
                    executors[name](batches)
                taken[name][kind][turn] = 1000 * (time.perf_counter() - start) / texts
        order = [*order[1:], order[0]]
    return taken
