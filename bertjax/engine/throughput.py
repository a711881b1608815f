"""How fast training is: tokens per second, the used fraction of a device's peak, and a profile of a range of steps."""

import contextlib
import time
from pathlib import Path

import jax

from bertjax.engine.hosts import is_main_process
from bertjax.storage.paths import staged


class Throughput:
    """Tokens (without padding) per second and the fraction of the device's peak, compilation excluded.

    FLOPs are XLA's count for the compiled step, so they include padding and recomputation (remat).
    """

    def __init__(self, peak: float | None):
        self.peak = peak
        self.reset()

    def reset(self) -> None:
        self.tokens, self.flops, self.began = 0, 0.0, time.monotonic()

    def add(self, tokens: int, flops: float, compile_seconds: float) -> None:
        self.tokens, self.flops, self.began = self.tokens + tokens, self.flops + flops, self.began + compile_seconds

    def since_reset(self) -> dict[str, float]:
        """The rates since the last call. Call it after the devices have finished, not only received, their steps."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        rates = {"tokens_per_second": round(self.tokens / seconds, 1)}
        if self.peak and self.flops:
            rates["share_of_peak"] = round(self.flops / seconds / self.peak, 4)
        self.reset()
        return rates


class Profile:
    """A trace of host and devices over a range of steps, in the main process."""

    def __init__(self, steps: str | None, folder: Path):
        self.start, self.stop = map(int, steps.split(":")) if steps and is_main_process() else (-1, -1)
        self.folder, self.recording = folder, contextlib.ExitStack()

    def before(self, number: int, last: dict[str, jax.Array]) -> None:
        """Call it before each step, with the outputs of the step before."""
        if number == self.start:
            jax.block_until_ready(last)  # earlier steps do not belong into the trace
            jax.profiler.start_trace(str(self.recording.enter_context(staged(self.folder))))
            self.recording.callback(jax.profiler.stop_trace)
        if number == self.stop:
            self.end(last)

    def end(self, last: dict[str, jax.Array]) -> None:
        jax.block_until_ready(last)
        self.recording.close()
