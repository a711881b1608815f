"""Comparable times: each runtime in its own process, the processes taking turns.

In each repeat every runtime runs the same texts once; the order rotates from repeat to repeat. The result is the median
over repeats of each repeat's median (and of its 95th percentile). So a machine that is busy for a moment affects one
repeat of all models rather than all repeats of one model. Texts keep their real lengths, and a call is timed until its
result is there. While one process works the others wait for input; a process that uses processor time while waiting is
named in a warning, because it slowed the others.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.processes import Candidate, InProcess, Process, ask, load_requests, processors, sampled

SAMPLE = 128
"""The number of texts that are timed."""
SETTLE_S = 0.2  # threads that spin after a call are asleep by then


@dataclass(frozen=True)
class Percentiles:
    """The median and the 95th percentile."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one text: from its token ids, and from its string (`end_to_end`)."""

    batch_1: Percentiles
    end_to_end: Percentiles


@dataclass(frozen=True)
class PeakMemory:
    """Bytes alive at once: arguments, outputs and temporaries of one compiled call."""

    inference: int | None = None
    training_step: int | None = None


@dataclass(frozen=True)
class Edge:
    """On one thread: latency of one text at a time, time from process start to the first prediction, peak memory of the
    process, and the part of the cold start that opens the model, its runtime's import included."""

    latency_ms: Percentiles
    cold_start_ms: float
    peak_resident_bytes: int
    load_ms: float | None = None


@dataclass(frozen=True)
class Timing:
    """Times of one candidate, and the environment they were measured in. `throughput_per_s` is texts per second at
    batch 32."""

    runtime: str
    device: str
    threads: int
    versions: Mapping[str, str]
    latency: Latency
    throughput_per_s: float
    repeats: tuple[float, ...] = ()
    """The median milliseconds at batch 1 of every repeat; their spread shows how steady the machine was."""
    milliseconds: tuple[float, ...] = ()
    """At batch 1 for each text of the sample, as medians over the repeats."""


def measure_latency(
    candidates: Mapping[str, Candidate],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int = 512,
    sample: int = SAMPLE,
    repeats: int = 3,
    threads: int | None = None,
    isolated: bool = True,
    timeout_s: float = 600.0,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Timing]:
    """Latency at batch 1 and throughput at batch 32 of every candidate, on a random `sample` of the texts.

    `threads` limits the processors that each process may use (Linux; default: all that this process may use).
    `isolated=False` runs everything in this process, for devices that only one process can hold (a TPU). `notify` is
    called with a line for each step.

    Raises:
      UserError: A candidate cannot be loaded; no texts; fewer than three repeats.
      RuntimeError: A process died or did not answer in `timeout_s`; the end of its stderr is in the message.
    """
    if not texts or repeats < 3:
        raise UserError(f"Timing needs at least 1 text and 3 repeats; given: {len(texts)} texts and {repeats} repeats.")
    loads = load_requests(candidates, *sampled(texts, pairs, sample), max_length)
    with ExitStack() as stack:
        with processors(threads):
            started = {name: Process(name, timeout_s) if isolated else InProcess() for name in candidates}
            workers = {name: stack.enter_context(worker) for name, worker in started.items()}
        notify("loading and compiling")
        about = ask(workers, loads)
        ask(workers, {name: {"command": "warm_up"} for name in workers})
        results = _take_turns(workers, repeats, notify)
    if isolated:
        _warn_of_busy_waiting(results)
    return {name: _timing(about[name], results[name]) for name in candidates}


def _take_turns(
    workers: Mapping[str, Any], repeats: int, notify: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """The results of every worker in each repeat. The first worker of one repeat is the last of the next."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    order = list(workers)
    for turn in range(repeats):
        for name in order:
            notify(f"timing {name}, repeat {turn + 1} of {repeats}")
            time.sleep(SETTLE_S)
            results[name].append(ask(workers, {name: {"command": "measure"}})[name])
        order = [*order[1:], order[0]]
    return results


def _warn_of_busy_waiting(results: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, repeats in results.items():
        share = max(answer["idle_share"] for answer in repeats)
        if share > 0.1:
            warnings.warn(f"{name} used {share:.0%} of a processor while others were timed", stacklevel=3)


def _timing(about: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> Timing:
    """Medians over the repeats."""

    def percentiles(kind: str) -> Percentiles:
        p50, p95 = np.median([np.percentile(answer[kind], (50, 95)) for answer in repeats], axis=0)
        return Percentiles(float(p50), float(p95))

    throughput = float(np.median([answer["batch_32_per_s"] for answer in repeats]))
    latency = Latency(percentiles("batch_1"), percentiles("end_to_end"))
    medians = tuple(float(np.median(answer["batch_1"])) for answer in repeats)
    by_text = tuple(np.median([answer["batch_1"] for answer in repeats], axis=0).tolist())
    machine = about["runtime"], about["device"], about["threads"], about["versions"]
    return Timing(*machine, latency, throughput, medians, by_text)
