"""Bit packing for files: eight 3-bit integers in three bytes, five ternary ones in one.

Integers of `bits` bits are concatenated, lowest bit first, and zero-padded to whole bytes. Ternary values are digits of
base 3, five to a byte (3^5 = 243), 1.6 bits each. In NumPy, because it runs only when a model is written or read.
"""

import numpy as np

from bertjax.quantized.formats import Format
from bertjax.storage.zeros import pack_unsigned, unpack_unsigned

DIGITS = 3 ** np.arange(5)


def packed_size(count: int, format: Format) -> int:
    """The packed size of `count` integers, in bytes."""
    return -(-count // 5) if format.scheme == "ternary" else -(-count * format.bits // 8)


def pack_bits(integers: np.ndarray, format: Format) -> np.ndarray:
    """The packed bytes (uint8) of an array of integers (int8), in row-major order."""
    flat = (integers.ravel().astype(np.int16) - format.lowest).astype(np.uint8)
    if format.scheme == "ternary":
        filled = np.pad(flat, (0, -len(flat) % 5)).reshape(-1, 5)
        return (filled.astype(np.uint16) @ DIGITS.astype(np.uint16)).astype(np.uint8)
    return pack_unsigned(flat, format.bits)


def unpack_bits(content: np.ndarray, shape: tuple[int, ...], format: Format) -> np.ndarray:
    """The inverse of `pack_bits`: integers (int8) of this shape."""
    count = int(np.prod(shape))
    if format.scheme == "ternary":
        flat = (content[:, None] // DIGITS.astype(np.uint8) % 3).ravel()[:count]
    else:
        flat = unpack_unsigned(content, count, format.bits)
    return (flat.astype(np.int16) + format.lowest).astype(np.int8).reshape(shape)
