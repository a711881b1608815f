"""Arrays without their zeros: what is written is read again, in the smallest of the known ways."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.storage.zeros import BITMAP, GAPS, Nonzero, places_of, with_zeros, without_zeros

PATTERNS = ("random", "rows", "columns", "first", "last", "none", "all")


def pattern(kind: str, shape: tuple[int, int], share: float, seed: int) -> np.ndarray:
    """A matrix with zeros where the pattern has them."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 100, shape).astype(np.float32)
    kept = {
        "random": rng.random(shape) < share,
        "rows": rng.random((shape[0], 1)) < share,
        "columns": rng.random((1, shape[1])) < share,
        "first": np.arange(numbers.size).reshape(shape) == 0,
        "last": np.arange(numbers.size).reshape(shape) == numbers.size - 1,
        "none": False,
        "all": True,
    }[kind]
    return numbers * kept


def read_slowly(stored: Nonzero, size: int) -> list[float]:
    """The array by its definition, bit by bit."""
    bits = [byte >> place & 1 for byte in stored.places.tolist() for place in range(8)]
    numbers, array = iter(stored.numbers.tolist()), [0.0] * size
    if stored.encoding == BITMAP:
        return [next(numbers) if bit else 0.0 for bit in bits[:size]]
    width, at = int(stored.encoding.removeprefix("gaps_")), -1
    for start in range(0, len(bits) - width + 1, width):
        gap = sum(bit << place for place, bit in enumerate(bits[start : start + width]))
        if gap:
            at += gap
            array[at] = next(numbers)
    assert next(numbers, None) is None
    return array


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    st.floats(0, 1),
    st.sampled_from([2, 4, 8, 16, 32]),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_again_and_no_known_encoding_is_smaller(kind, shape, share, bits, seed):
    array = pattern(kind, shape, share, seed)

    def size_of(count: int) -> int:
        return math.ceil(count * bits / 8)

    places = np.flatnonzero(array.ravel()).tolist()
    gaps = [b - a for a, b in zip([-1, *places], places, strict=False)]
    sizes = {BITMAP: math.ceil(array.size / 8) + size_of(len(places))}
    for width, name in GAPS.items():
        entries = sum(math.ceil(gap / (2**width - 1)) for gap in gaps)
        sizes[name] = math.ceil(entries * width / 8) + size_of(entries)
    stored = without_zeros(array, size_of)
    if stored is None:
        assert min(sizes.values()) >= size_of(array.size)
        return
    assert len(stored.places) + size_of(len(stored.numbers)) == min(sizes.values()) < size_of(array.size)
    np.testing.assert_array_equal(read_slowly(stored, array.size), array.ravel())
    np.testing.assert_array_equal(with_zeros(stored, shape), array)


@pytest.mark.parametrize(("share", "encoding", "bits"), [
    (0.5, BITMAP, 5.0), (0.1, "gaps_5", 1.36), (0.03, "gaps_7", 0.46),
])  # fmt: skip
def test_which_encoding_is_taken_at_which_share(share, encoding, bits):
    """Eight-bit numbers: one in ten takes five bits for its place, and a few fillers."""
    array = (np.random.default_rng(0).random((512, 512)) < share).astype(np.int8)
    stored = without_zeros(array, lambda count: count)
    assert stored is not None
    assert stored.encoding == encoding
    assert 8 * (len(stored.places) + len(stored.numbers)) / array.size == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize(("encoding", "content", "reason"), [
    (BITMAP, np.zeros(2, np.uint8), "another number of bits"),
    ("gaps_8", np.full(1, 9, np.uint8), "lead out of the array"),
    ("gaps_8", np.array([1, 0, 1], np.uint8), "lead out of the array"),
    ("gaps_4", np.zeros(1, np.float32), "places are bytes"),
])  # fmt: skip
def test_places_that_are_not_those_of_the_array_are_refused(encoding, content, reason):
    with pytest.raises(ValueError, match=reason):
        places_of(encoding, content, 8)
