"""Random numbers that depend only on a key, such as (seed, epoch, purpose, example).

Each key of small integers has its own stream. So the numbers of an example do not depend on the examples before it: any
process, thread or restarted run draws the same ones. NumPy guarantees the raw bits of a generator across versions, but
not its distributions, so these are computed here.
"""

import numpy as np
from jaxtyping import Float, Int

PAIRS, MASKS, CHUNKS, SUBSTITUTES = 1, 2, 3, 4
"""The purpose of the numbers, as a part of the key: streams of different purposes are independent. The order of the
data, keyed by seed and epoch alone, has 0 in this place."""


class Draws:
    """A stream of random numbers from a key."""

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([part % 2**64 for part in key]))

    def __call__(self, count: int) -> Float[np.ndarray, "count"]:
        """`count` numbers, uniform in [0, 1)."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int) -> int:
        """A whole number, uniform in [0, limit)."""
        return int(self(1)[0] * limit)

    def chance(self, probability: float) -> bool:
        return bool(self(1)[0] < probability)

    def order(self, count: int) -> Int[np.ndarray, "count"]:
        """A random permutation of `count` elements."""
        return np.argsort(self._bits.random_raw(count), kind="stable")
