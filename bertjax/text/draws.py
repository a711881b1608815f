"""Random numbers that belong to one example of one epoch, and to nothing else.

Each key of small integers (seed, epoch, what for, which example) has numbers of its own. So no example's numbers depend
on the examples before it: any process, thread or restarted run that comes to an example draws the same. NumPy promises
the raw bits of a generator across versions, but not what its distributions make of them, so that is done here.
"""

import numpy as np
from jaxtyping import Float, Int

PAIRS, MASKS, CHUNKS, SUBSTITUTES = 1, 2, 3, 4
"""What numbers are for: keys that differ here share nothing. The order of the data, keyed by seed and epoch alone,
has 0 in this place."""


class Draws:
    """A stream of numbers from a key."""

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([part % 2**64 for part in key]))

    def __call__(self, count: int) -> Float[np.ndarray, "count"]:
        """Uniform in [0, 1)."""
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def below(self, limit: int) -> int:
        """A whole number from 0, below `limit`."""
        return int(self(1)[0] * limit)

    def chance(self, probability: float) -> bool:
        return bool(self(1)[0] < probability)

    def order(self, count: int) -> Int[np.ndarray, "count"]:
        """A permutation."""
        return np.argsort(self._bits.random_raw(count), kind="stable")
