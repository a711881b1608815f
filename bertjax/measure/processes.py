"""Runtimes in processes of their own (worker.py), which receive requests over pipes."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.storage.cache import compiled_dir


@dataclass(frozen=True)
class Candidate:
    """A model to measure: a runtime ("jax", "onnxruntime", "openvino", "sklearn" or `package.module:Class`, see
    worker.py) and its folder."""

    runtime: str
    path: str | os.PathLike


def load_requests(
    candidates: Mapping[str, Candidate], texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> dict[str, dict[str, Any]]:
    """The requests by which each candidate's process loads its model and receives the texts."""
    request = {"command": "load", "texts": texts, "pairs": pairs, "max_length": max_length}
    return {
        name: {**request, "runtime": one.runtime, "path": os.path.abspath(one.path)} for name, one in candidates.items()
    }


def sampled(texts: Sequence[str], pairs: Sequence[str] | None, count: int) -> tuple[list[str], list[str] | None]:
    """A random choice of the texts, or of the pairs of texts; always the same one."""
    numbers = chosen(len(texts), count)
    return [texts[i] for i in numbers], None if pairs is None else [pairs[i] for i in numbers]


def chosen(texts: int, count: int) -> list[int]:
    """The numbers of the texts that are chosen of so many."""
    return np.random.default_rng(0).permutation(texts)[:count].tolist()


def ask(workers: Mapping[str, Any], requests: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The replies to several requests, which the processes handle at the same time."""
    for name, request in requests.items():
        workers[name].send(request)
    return {name: workers[name].receive() for name in requests}


@contextmanager
def processors(count: int | None) -> Iterator[None]:
    """Limits processes started inside to the first `count` of this thread's processors (affinity is inherited)."""
    if count is None:
        yield
        return
    if count < 1:
        raise UserError(f"threads is {count}: expected 1 or more.")
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("threads can be limited on Linux only: do not set it here.")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def environment() -> dict[str, str]:
    """The environment for a worker: that of this process with its import path and compilation cache, but without
    reserving the whole GPU.

    If this process uses bertjax's own compilation cache, the worker gets the cache for the processors that this thread
    may use now.
    """
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    if "jax" in sys.modules and (kept := sys.modules["jax"].config.jax_compilation_cache_dir):
        ours = compiled_dir()
        environment["JAX_COMPILATION_CACHE_DIR"] = str(ours if Path(kept).parent == ours.parent else kept)
    return environment


class InProcess:
    """A session in this process."""

    def __init__(self):
        from bertjax.measure.worker import Session  # imported here, or `python -m` finds its module imported already

        self._session = Session()

    def send(self, request: dict[str, Any]) -> None:
        self._answer = self._session.answer(request)

    def receive(self) -> dict[str, Any]:
        return self._answer

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *error: object) -> None:
        del self._session


class Process:
    """A session in a process of its own."""

    def __init__(self, name: str, timeout_s: float):
        self._name, self._timeout_s, self._late = name, timeout_s, ""

    def __enter__(self) -> "Process":
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bertjax.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
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
        try:
            line = self._process.stdout.readline()
        finally:  # after a signal, too: Python waits for every timer before it ends
            alarm.cancel()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "user_error" in answer:
            raise UserError(f"{self._name} cannot be measured: {answer['user_error']}")
        return answer

    def _kill_late(self) -> None:
        self._late = f" (no answer in {self._timeout_s:g} s)"
        self._process.kill()

    def _died(self) -> RuntimeError:
        code = self._process.wait()
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace").strip()[-2000:]
        return RuntimeError(
            f"The process that ran {self._name} ended with code {code}{self._late}. The end of its stderr:\n{tail}"
        )

    def __exit__(self, *error: object) -> None:
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._stderr.close()
