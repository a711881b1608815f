"""Time, measured so that it can be compared: each runtime in its own process, the processes taking turns.

A round lets every runtime run the same texts once, in an order that turns from round to round; what is reported is the
median over rounds of each round's median (and of its 95th percentile), so that a machine that is busy for a moment
spoils one round of everybody rather than all of one model. Texts keep their real lengths, and results are waited for.
While one process works the others wait for input; one that burns processor time while waiting is named in a warning,
because it slowed its neighbours.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.report import Latency, Percentiles

SETTLE_S = 0.2  # threads that spin for more work after a call have gone to sleep by then


@dataclass(frozen=True)
class Candidate:
    """What to time: a runtime ("jax", "sklearn" or `package.module:Class`, see worker.py) and the folder it loads."""

    runtime: str
    path: str | os.PathLike


@dataclass(frozen=True)
class Timing:
    """Times of one candidate, and on what they were taken. `throughput_per_s` is texts per second at batch 32."""

    runtime: str
    device: str
    threads: int
    versions: Mapping[str, str]
    latency: Latency
    throughput_per_s: float


def measure_latency(
    candidates: Mapping[str, Candidate],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int = 512,
    sample: int = 128,
    rounds: int = 3,
    threads: int | None = None,
    isolated: bool = True,
    timeout_s: float = 600.0,
    seed: int = 0,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Timing]:
    """Latency at batch 1 and throughput at batch 32 of every candidate, on a random `sample` of the texts.

    `threads` limits the processors that each process may use (Linux; default: all that this one may). `isolated=False`
    runs everything here, for devices that only one process can hold (a TPU). `notify` hears what is being done.

    Raises:
      UserError: A candidate cannot be loaded; no texts; fewer than three rounds.
      RuntimeError: A process died or did not answer in `timeout_s`; the end of its stderr is in the message.
    """
    if not texts or rounds < 3:
        raise UserError(
            f"Timing got {len(texts)} texts and {rounds} rounds: expected one or more, and at least 3 rounds."
        )
    chosen = np.random.default_rng(seed).permutation(len(texts))[:sample]
    given = {
        "texts": [texts[i] for i in chosen],
        "pairs": pairs and [pairs[i] for i in chosen],
        "max_length": max_length,
    }
    loads = {
        name: {"command": "load", "runtime": one.runtime, "path": os.path.abspath(one.path), **given}
        for name, one in candidates.items()
    }
    with ExitStack() as stack:
        with _processors(threads):
            started = {name: _Process(name, timeout_s) if isolated else _Here() for name in candidates}
            workers = {name: stack.enter_context(worker) for name, worker in started.items()}
        notify("loading and compiling")
        about = _ask(workers, loads)
        _ask(workers, {name: {"command": "warm_up"} for name in workers})
        results = _take_turns(workers, rounds, notify)
    if isolated:
        _warn_of_restless(results)
    return {name: _timing(about[name], results[name]) for name in candidates}


def _take_turns(
    workers: Mapping[str, Any], rounds: int, notify: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """What every worker measured in each round; the first of a round is the last of the next."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    order = list(workers)
    for turn in range(rounds):
        for name in order:
            notify(f"timing {name}, round {turn + 1} of {rounds}")
            time.sleep(SETTLE_S)
            results[name].append(_ask(workers, {name: {"command": "measure"}})[name])
        order = [*order[1:], order[0]]
    return results


def _ask(workers: Mapping[str, Any], requests: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The answers to several requests, worked on at the same time."""
    for name, request in requests.items():
        workers[name].send(request)
    return {name: workers[name].receive() for name in requests}


def _warn_of_restless(results: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, rounds in results.items():
        share = max(answer["idle_share"] for answer in rounds)
        if share > 0.1:
            warnings.warn(f"{name} used {share:.0%} of a processor while others were timed", stacklevel=3)


def _timing(about: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Timing:
    """Medians over the rounds."""

    def percentiles(kind: str) -> Percentiles:
        p50, p95 = np.median([np.percentile(answer[kind], (50, 95)) for answer in rounds], axis=0)
        return Percentiles(float(p50), float(p95))

    throughput = float(np.median([answer["batch_32_per_s"] for answer in rounds]))
    latency = Latency(percentiles("batch_1"), percentiles("end_to_end"))
    return Timing(about["runtime"], about["device"], about["threads"], about["versions"], latency, throughput)


@contextmanager
def _processors(count: int | None) -> Iterator[None]:
    """Processes started inside may run on the first `count` of this thread's processors: affinity is inherited."""
    if count is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("threads can be limited on Linux only: leave it out.")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _environment() -> dict[str, str]:
    """This process's environment, importable modules and compiled programs, without its claim to the whole GPU."""
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if "jax" in sys.modules and (compiled := sys.modules["jax"].config.jax_compilation_cache_dir):
        environment["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
    return environment


class _Here:
    """A session in this process."""

    def __init__(self):
        from bertjax.measure.worker import Session  # here, or `python -m` would find its module imported already

        self._session = Session()

    def send(self, request: dict[str, Any]) -> None:
        self._answer = self._session.answer(request)

    def receive(self) -> dict[str, Any]:
        return self._answer

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *error: object) -> None:
        del self._session


class _Process:
    """A session in a process of its own."""

    def __init__(self, name: str, timeout_s: float):
        self._name, self._timeout_s, self._late = name, timeout_s, ""

    def __enter__(self) -> "_Process":
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bertjax.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            encoding="utf-8",
        )
        return self

    def send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        alarm = threading.Timer(self._timeout_s, self._kill_late)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "user_error" in answer:
            raise UserError(f"{self._name} cannot be timed: {answer['user_error']}")
        return answer

    def _kill_late(self) -> None:
        self._late = f" (no answer in {self._timeout_s:g} s)"
        self._process.kill()

    def _died(self) -> RuntimeError:
        code = self._process.wait()
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace").strip()[-2000:]
        return RuntimeError(
            f"The process that timed {self._name} ended with code {code}{self._late}. Its last words:\n{tail}"
        )

    def __exit__(self, *error: object) -> None:
        self._process.kill()  # it holds nothing that would have to be saved
        self._process.communicate()
        self._stderr.close()
