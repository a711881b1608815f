"""Which runtime is the faster one for an ONNX file on this machine.

No rule says it: it depends on the processor, the dtype of the file and the length of the texts. So both are timed. The
price is a measurement of half a minute for each file, whose times are used for the choice alone.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.measure.latency import Candidate, Timing, measure_latency
from bertjax.measure.openvino import INSTALL
from bertjax.measure.runtimes import FILE_RUNTIMES, FileRuntime, FileRuntimes


class Choice(NamedTuple):
    """The runtime of a file, and why it was chosen; "" if it was given."""

    runtime: FileRuntime
    why: str = ""


def require_runtime(given: FileRuntimes) -> None:
    """Refuses to start without the package of a runtime.

    Raises:
      UserError: It is missing.
    """
    if given != "onnxruntime" and find_spec("openvino") is None:
        raise UserError(f"--runtime={given}: {INSTALL}")


def choose_runtime(
    name: str,
    folder: str | os.PathLike,
    given: FileRuntimes,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    notify: Callable[[str], None] = lambda message: None,
    **settings: Any,
) -> Choice:
    """The given runtime; for "auto", the one that takes less time for one text (median). `settings` are those of
    `measure_latency`.

    Raises:
      UserError: A runtime cannot open the file, or its package is missing.
    """
    require_runtime(given)
    if given != "auto":
        return Choice(given)
    candidates = {f"{name} in {runtime}": Candidate(runtime, folder) for runtime in FILE_RUNTIMES}
    timings = measure_latency(candidates, texts, pairs, notify=notify, **settings)
    return faster(name, dict(zip(FILE_RUNTIMES, timings.values(), strict=True)))


def faster(name: str, timings: Mapping[FileRuntime, Timing]) -> Choice:
    """The runtime with the smallest median for one text, and the times of all."""
    times: dict[FileRuntime, float] = {runtime: timing.latency.batch_1.p50 for runtime, timing in timings.items()}
    first = min(times, key=lambda runtime: times[runtime])
    each = [f"{time:.3g} ms in {run} {timings[run].versions.get(run, '')}".strip() for run, time in times.items()]
    return Choice(first, f"{name} takes for one text {' and '.join(each)}; it is measured in {first}, the faster here")
