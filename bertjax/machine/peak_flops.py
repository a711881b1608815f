"""The peak FLOP/s of a device, to compare with the FLOP/s of a training run.

For accelerators it is the number of the data sheet (dense products of bfloat16), the usual denominator of MFU. For
other devices the best rate of a large square product is measured once. On a busy CPU that is the rate of the remaining
capacity, so the fraction says how well the step uses that, not how good the CPU is.
"""

import time
from functools import partial
from typing import NamedTuple

from bertjax.machine.chips import CHIPS


class Peak(NamedTuple):
    """Multiplications and additions per second on one device, and the source of the number."""

    flops: float
    source: str


BFLOAT16 = {
    "TPU v3": 61.5e12,  # one jax device is one of a chip's two cores here
    **{chip.device_kind: chip.flops for chip in CHIPS.values()},
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""By prefix of jax's `device_kind`; the longest match wins."""


def device_peak(dtype: str) -> Peak:
    """The peak of the first device: by the data sheet in bfloat16, whatever the dtype, or measured in this dtype."""
    import jax

    kind = jax.local_devices()[0].device_kind
    known = [name for name in BFLOAT16 if kind.startswith(name)]
    if known:
        return Peak(BFLOAT16[max(known, key=len)], "data sheet, bfloat16")
    return Peak(measured_peak(dtype), f"best of {TRIES} products of {SIZE} x {SIZE}, {dtype}")


SIZE, TRIES = 1536, 5


def measured_peak(dtype: str) -> float:
    """The best rate of a square product, summed in float32: XLA multiplies bfloat16 on a CPU as such only then
    (`bertjax.machine.bf16.bf16_matmul`)."""
    import jax
    import jax.numpy as jnp

    matrix, product = jnp.ones((SIZE, SIZE), dtype), jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    seconds = []
    for _ in range(TRIES + 1):  # the first one compiles, and is the slowest
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)
