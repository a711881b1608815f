"""Arrays with zeros in few bytes: the numbers that are not zero, and where they stand.

Two encodings of the places, of which a file has the smaller one, array by array:

    bitmap   one bit per element, 1 where the number is not zero; best while more than a seventh or so is left
    gaps_k   k bits for the distance from each number to the next; best when few are left

A distance that does not fit into k bits is taken in several steps, and every step but the last has a filler, a zero,
among the numbers. That costs a few per cent more than a variable-length code, and in return the places are a cumulative
sum: a few operations on whole arrays, in NumPy as in the graph of another runtime. Where neither is smaller than all
numbers, zeros included, an array stays dense. Reading gives equal numbers; a negative zero becomes 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WIDTHS = range(2, 9)
"""The numbers of bits that a gap can have."""
BITMAP, GAPS = "bitmap", {width: f"gaps_{width}" for width in WIDTHS}
ENCODINGS = (BITMAP, *GAPS.values())


class Nonzero(NamedTuple):
    """An array without its zeros."""

    encoding: str
    """`bitmap` or `gaps_k`."""
    places: np.ndarray
    """The encoded places, uint8."""
    numbers: np.ndarray
    """The numbers at these places, in row-major order, fillers included; of the array's dtype."""


def without_zeros(array: np.ndarray, size_of: Callable[[int], int]) -> Nonzero | None:
    """The array in the smaller encoding; None if it is smallest with its zeros. `size_of` is the number of bytes that
    so many of its numbers take."""
    flat = array.ravel()
    at = np.flatnonzero(flat)
    gaps = np.diff(at, prepend=-1)
    entries = {width: int(np.sum(-(-gaps // (2**width - 1)))) for width in WIDTHS}
    sizes = {width: -(-count * width // 8) + size_of(count) for width, count in entries.items()}
    best, bitmap = min(sizes, key=lambda width: sizes[width]), -(-flat.size // 8) + size_of(len(at))
    if min(bitmap, sizes[best]) >= size_of(flat.size):
        return None
    if bitmap <= sizes[best]:
        return Nonzero(BITMAP, np.packbits(flat != 0, bitorder="little"), flat[at])
    most = 2**best - 1
    steps = -(-gaps // most)
    last, numbers = np.cumsum(steps) - 1, np.zeros(entries[best], flat.dtype)
    fields = np.full(entries[best], most)
    fields[last], numbers[last] = gaps - (steps - 1) * most, flat[at]
    return Nonzero(GAPS[best], pack_unsigned(fields.astype(np.uint8), best), numbers)


def places_of(encoding: str, content: np.ndarray, size: int) -> np.ndarray:
    """The places of the numbers in an array of `size` elements.

    Raises:
      ValueError: The content is not that of such an array.
    """
    if content.dtype != np.uint8 or content.ndim != 1:
        raise ValueError("places are bytes")
    if encoding == BITMAP:
        if len(content) != -(-size // 8):
            raise ValueError("the bitmap has another number of bits")
        return np.flatnonzero(np.unpackbits(content, count=size, bitorder="little"))
    width = next(width for width, name in GAPS.items() if name == encoding)
    # No gap is 0, so zero bits at the end are filler of the last byte.
    places = np.cumsum(np.trim_zeros(unpack_unsigned(content, 8 * len(content) // width, width).astype(np.int64), "b"))
    if (len(places) and places[-1] > size) or np.any(np.diff(places) == 0):
        raise ValueError("the gaps lead out of the array")
    return places - 1


def with_zeros(stored: Nonzero, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `without_zeros`.

    Raises:
      ValueError: The places and the numbers are not those of an array of this shape.
    """
    places = places_of(stored.encoding, stored.places, int(np.prod(shape)))
    array = np.zeros(int(np.prod(shape)), stored.numbers.dtype)
    array[places] = stored.numbers
    return array.reshape(shape)


def pack_unsigned(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers (uint8) of so many bits each, one after the other, the lowest bit first, in whole bytes."""
    each = np.unpackbits(numbers[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(each.ravel(), bitorder="little")


def unpack_unsigned(content: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack_unsigned`: `count` numbers (uint8)."""
    each = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(each, axis=1, bitorder="little")[:, 0]
