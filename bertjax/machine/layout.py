"""Axis orders and batch sizes that a backend computes fastest. They change a result by rounding at most."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from bertjax.machine.xla import platform

TOKENS_AT_ONCE = 2048
"""Tokens per forward pass on a CPU. With more, the output of one matrix product has left the cache before the next one
reads it, which costs a sixth of the time in bfloat16 and nothing in float32."""


def softmax_axis() -> int:
    """The axis of a four-axis array over which a softmax is computed fastest, counted from the end.

    A CPU vectorises sums over the second last axis, but not over the last: a batch of 32 x 128 takes a ninth less time.
    GPUs and TPUs have kernels for the last.
    """
    return -2 if platform() == "cpu" else -1


def run_in_parts(run: Callable[..., object], *batch: Int[np.ndarray, "b l"]) -> np.ndarray:
    """The result of `run(*batch)`, one row per example. On a CPU the batch is split into equal parts of at most
    `TOKENS_AT_ONCE` tokens, if its rows can be divided so."""
    rows, length = batch[0].shape
    needed = -(-rows * length // TOKENS_AT_ONCE) if platform() == "cpu" else 1
    parts = next((n for n in range(needed, 2 * needed) if rows % n == 0), 1)
    cut = zip(*(np.split(array, parts) for array in batch), strict=True)
    return np.concatenate([np.asarray(result) for result in [run(*part) for part in cut]])
