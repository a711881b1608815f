"""A digest of an array's bits, computed where the array lives.

Each 32-bit word, paired with its row-major position, goes through a fixed permutation of 64 bits; the digest is the
sum of the two halves over all words, modulo 2^32 each. A sum does not care about order, so every device adds up its own
shard and the result is the same integer on 1 device or 8, replicated or split, without gathering the array.

What it catches: a change inside one word (any flipped bit) always changes the digest, because the permutation gives
another pair. Any other damage (swapped elements, moved bytes, zeroed pages) goes unseen with the probability that two
random 64-bit numbers are equal, 5e-20. It guards against accidents, not against somebody who searches for a collision.
Positions count modulo 2^32 words: inside one array above 16 GiB, a swap over exactly that distance would pass.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped, UInt32

# One odd constant per round (multiples of 2^32 / golden ratio), so that no round repeats another.
_ROUNDS = tuple(0x9E3779B9 * i % 2**32 for i in (1, 2, 3, 4))


def digests(arrays: Sequence[jax.Array | np.ndarray]) -> list[str]:
    """The digest of each array as 16 hexadecimal digits.

    Only bits and positions count: NaN payloads and the sign of zero are seen. Dtype and shape are not: store them too.
    Sums are started before the ones before them are fetched, so devices work through the list without waiting for us.
    """
    sums = []
    for x in arrays:
        sums.append(_sums(_without_64_bit(x)))
        # XLA's CPU client starts 32 programs ahead and then blocks a thread that these programs need: where processes
        # wait for each other in them, that is forever (jax 0.10.2, with as many devices as cores).
        if len(sums) % 8 == 0:
            jax.block_until_ready(sums[-1])
    return [f"{int(high):08x}{int(low):08x}" for high, low in jax.device_get(sums)]


def _without_64_bit(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """NumPy's 8-byte elements as pairs of 32-bit words: without x64, jit would round them to 4 bytes."""
    if isinstance(x, np.ndarray) and x.dtype.itemsize >= 8:
        return np.ascontiguousarray(x).reshape((*x.shape, 1)).view(np.uint32)
    return x


@jax.jit
def _sums(x: Shaped[Array, "..."]) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    words = _words(x)
    left, right = _permuted(words, _positions(words.shape))
    zero = jnp.uint32(0)
    # One reduction over both halves: XLA's CPU backend fuses it into a single pass without a temporary copy of the
    # array, which it does not do for two separate sums (4x slower).
    return lax.reduce((left, right), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(words.ndim)))


def _words(x: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """The bits of `x` as 32-bit words: narrow elements are widened, wide ones add an axis of 2 (complex: one more)."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype in (jnp.bool_, jnp.int4, jnp.uint4):
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Row-major index of every element modulo 2^32; from one iota per axis, since a reshape would gather shards."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def _permuted(left: UInt32[Array, "..."], right: UInt32[Array, "..."]) -> tuple[Array, Array]:
    """Four Feistel rounds: a permutation of 64 bits, as random as its round function (Luby and Rackoff, 1988)."""
    for constant in _ROUNDS:
        left, right = right, left ^ _mixed(right + jnp.uint32(constant))
    return left, right


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Shifts and multiplications that let every bit reach every other; constants from Wellons' search for low bias."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)
