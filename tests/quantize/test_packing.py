"""Integers close together in bytes, and back, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.quantized.formats import Format
from bertjax.quantized.packing import pack_bits, packed_size, unpack_bits

FORMATS = [Format(bits, scheme) for bits in (8, 4, 3, 2) for scheme in ("symmetric", "asymmetric")]
FORMATS += [Format(scheme="ternary")]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 9), st.integers(1, 41), st.integers(0, 2**32 - 1))
def test_what_is_packed_comes_back(format, rows, columns, seed):
    integers = np.random.default_rng(seed).integers(format.lowest, format.highest + 1, (rows, columns)).astype(np.int8)
    content = pack_bits(integers, format)
    assert content.dtype == np.uint8
    assert len(content) == packed_size(rows * columns, format)
    np.testing.assert_array_equal(unpack_bits(content, (rows, columns), format), integers)


@pytest.mark.parametrize(("format", "count", "size"), [
    (Format(8), 100, 100), (Format(4), 100, 50), (Format(3), 100, 38), (Format(2), 100, 25),
    (Format(scheme="ternary"), 100, 20),
])  # fmt: skip
def test_sizes_are_those_of_the_bits(format, count, size):
    assert packed_size(count, format) == size


def test_three_bits_lie_end_to_end_the_lowest_first():
    integers = np.array([-4, -3, -2, 3], np.int8)  # 0, 1, 2, 7 above the lowest
    number = int.from_bytes(pack_bits(integers, Format(3, "asymmetric")).tobytes(), "little")
    assert number == 0 + (1 << 3) + (2 << 6) + (7 << 9)
