"""Integers close together in bytes: eight 3-bit ones in three, five ternary ones in one.

Integers of `bits` bits are laid end to end, the lowest bit first, and the row is filled up with zeros to whole bytes.
Ternary ones are digits of base 3, five to a byte (3^5 = 243), 1.6 bits each. In NumPy, because it happens when a model
is written or read.
"""

import numpy as np

from bertjax.quantized.formats import Format

DIGITS = 3 ** np.arange(5)


def packed_size(count: int, format: Format) -> int:
    """Bytes of so many integers."""
    return -(-count // 5) if format.scheme == "ternary" else -(-count * format.bits // 8)


def pack_bits(integers: np.ndarray, format: Format) -> np.ndarray:
    """Bytes (uint8) of an array of integers (int8), in row-major order."""
    flat = (integers.ravel().astype(np.int16) - format.lowest).astype(np.uint8)
    if format.scheme == "ternary":
        filled = np.pad(flat, (0, -len(flat) % 5)).reshape(-1, 5)
        return (filled.astype(np.uint16) @ DIGITS.astype(np.uint16)).astype(np.uint8)
    bits = np.unpackbits(flat[:, None], axis=1, count=format.bits, bitorder="little")
    return np.packbits(bits.ravel(), bitorder="little")


def unpack_bits(content: np.ndarray, shape: tuple[int, ...], format: Format) -> np.ndarray:
    """The inverse: integers (int8) of this shape."""
    count = int(np.prod(shape))
    if format.scheme == "ternary":
        flat = (content[:, None] // DIGITS.astype(np.uint8) % 3).ravel()[:count]
    else:
        bits = np.unpackbits(content, count=count * format.bits, bitorder="little").reshape(count, format.bits)
        flat = np.packbits(bits, axis=1, bitorder="little")[:, 0]
    return (flat.astype(np.int16) + format.lowest).astype(np.int8).reshape(shape)
