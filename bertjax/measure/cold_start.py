"""Measures a model as on a small device: one thread, one text at a time, from a cold start.

Candidates run one after the other, each alone on the machine. The memory is that of the whole process, including the
interpreter and the runtime, because a device needs all of it.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bertjax.measure.latency import Edge, Percentiles
from bertjax.measure.processes import Candidate, Process, ask, load_requests, processors, sampled


def measure_edge(
    candidates: Mapping[str, Candidate],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int = 512,
    sample: int = 64,
    timeout_s: float = 600.0,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Edge]:
    """Latency, cold start and memory of every candidate, on a random `sample` of the texts.

    Raises:
      UserError: A candidate cannot be loaded.
      RuntimeError: As in `measure_latency`.
    """
    results = {}
    for name, load in load_requests(candidates, *sampled(texts, pairs, sample), max_length).items():
        notify(f"{name} on one thread, from a cold start")
        start = time.perf_counter()
        with processors(1), Process(name, timeout_s) as process:
            load_ms = ask({name: process}, {name: load})[name]["load_ms"]
            ask({name: process}, {name: {"command": "first"}})
            cold = time.perf_counter() - start
            answer = ask({name: process}, {name: {"command": "singly"}})[name]
        p50, p95 = np.percentile(answer["batch_1"], (50, 95))
        results[name] = Edge(Percentiles(float(p50), float(p95)), 1000 * cold, answer["peak_bytes"], load_ms)
    return results
