"""A digest of an array's bits, computed on the devices that hold the array.

Each 32-bit word, paired with its row-major position, goes through a fixed permutation of 64 bits. The digest is the sum
of each of the two 32-bit halves over all words, modulo 2^32. A sum does not depend on the order, so every device sums
its own shard, and the result is the same on 1 device or 8, replicated or sharded, without gathering the array.

A change inside one word (any flipped bit) always changes the digest, because the permutation gives another pair. Any
other damage (swapped elements, moved bytes, zeroed pages) goes undetected with the probability that two random 64-bit
numbers are equal, 5e-20. The digest protects against accidents, not against a deliberate collision. Positions count
modulo 2^32 words, so in an array above 16 GiB a swap over exactly that distance would not be detected.
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

    Bits and positions count, NaN payloads and the sign of zero included. Dtype and shape do not, so store them too.
    Several sums are started before the first result is fetched, so the devices work through the list without waiting
    for the host.
    """
    sums = []
    for x in arrays:
        sums.append(_sums(_without_64_bit(x)))
        # XLA's CPU client starts up to 32 programs ahead and then blocks a thread that these programs need. If they
        # contain collectives, the processes then wait for each other forever (jax 0.10.2, with as many devices as
        # cores).
        if len(sums) % 8 == 0:
            jax.block_until_ready(sums[-1])
    return [f"{int(high):08x}{int(low):08x}" for high, low in jax.device_get(sums)]


def _without_64_bit(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """NumPy arrays of 8-byte elements as pairs of 32-bit words, because without x64 jit would convert them to 4
    bytes."""
    if isinstance(x, np.ndarray) and x.dtype.itemsize >= 8:
        return np.ascontiguousarray(x).reshape((*x.shape, 1)).view(np.uint32)
    return x


@jax.jit
def _sums(x: Shaped[Array, "..."]) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    words = _words(x)
    left, right = _permuted(words, _positions(words.shape))
    zero = jnp.uint32(0)
    # One reduction over both halves: XLA's CPU backend fuses it into a single pass without a temporary copy of the
    # array. It does not do so for two separate sums, which take 4 times as long.
    return lax.reduce((left, right), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(words.ndim)))


def _words(x: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """The bits of `x` as 32-bit words. Narrow elements are widened; wide ones add an axis of size 2, complex ones
    another."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype in (jnp.bool_, jnp.int4, jnp.uint4):
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The row-major index of every element modulo 2^32. It is built from one iota per axis, because a reshape would
    gather shards."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def _permuted(left: UInt32[Array, "..."], right: UInt32[Array, "..."]) -> tuple[Array, Array]:
    """Four Feistel rounds: a permutation of 64 bits that is as random as its round function (Luby and Rackoff,
    1988)."""
    for constant in _ROUNDS:
        left, right = right, left ^ _mixed(right + jnp.uint32(constant))
    return left, right


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Shifts and multiplications by which every bit affects every other; the constants are from Wellons' search for low
    bias."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)
