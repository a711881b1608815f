"""Digests: the oracle below restates the definition with Python integers, one word at a time."""

import math
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.checkpoint.digest import _sums, digests

MASK = 2**32 - 1
DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int16", "int32", "uint32", "bool"]
ONLY_NUMPY = ["float64", "int64", "uint64", "complex128"]  # jax without x64 has no 8-byte elements


def by_hand(x: np.ndarray) -> str:
    """The definition, over the raw little-endian bytes."""
    width = min(x.dtype.itemsize, 4)
    data = np.ascontiguousarray(x).tobytes()
    words = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
    high = low = 0
    for position, word in enumerate(words):
        left, right = word, position
        for round_ in (1, 2, 3, 4):
            y = (right + 0x9E3779B9 * round_) & MASK
            y = ((y ^ (y >> 16)) * 0x21F0AAAD) & MASK
            y = ((y ^ (y >> 15)) * 0x735A2D97) & MASK
            left, right = right, left ^ y ^ (y >> 15)
        high, low = (high + left) & MASK, (low + right) & MASK
    return f"{high:08x}{low:08x}"


def some(dtype: str, shape: tuple[int, ...] = (3, 5, 2), seed: int = 0) -> np.ndarray:
    """Random bits (NaN payloads, infinities and subnormals included) read as `dtype`."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)


def one(x) -> str:
    return digests([x])[0]


@pytest.mark.parametrize("dtype", DTYPES + ONLY_NUMPY + ["complex64"])
def test_numpy_arrays_follow_the_definition(dtype):
    x = some(dtype)
    assert one(x) == by_hand(x)


@pytest.mark.parametrize("dtype", [*DTYPES, "complex64"])
def test_jax_arrays_have_the_digest_of_the_same_bits_in_numpy(dtype):
    x = some(dtype)
    assert one(jnp.asarray(x)) == by_hand(x)


def test_int4_follows_its_values():
    x = np.array([-8, -1, 0, 7], np.int8)
    assert one(jnp.asarray(x, jnp.int4)) == by_hand(x.astype(np.int32))


def test_key_data_scalars_and_empty_arrays_have_digests():
    assert one(jax.random.key_data(jax.random.key(7))) == by_hand(np.array([0, 7], np.uint32))
    assert one(np.asarray(1.5, np.float32)) == by_hand(np.array([1.5], np.float32))
    assert one(jnp.float32(1.5)) == by_hand(np.array([1.5], np.float32))
    assert one(np.zeros((0, 3), np.float32)) == one(jnp.zeros((4, 0))) == "0" * 16
    assert one(np.asarray(3)) == by_hand(np.array([3]))


def test_strides_and_memory_order_do_not_matter():
    x = some("float32", (6, 4))
    assert one(np.asfortranarray(x)) == one(x) == by_hand(x)
    assert one(some("int64", (6, 4))[::2]) == by_hand(some("int64", (6, 4))[::2])


@pytest.mark.parametrize("dtype", DTYPES + ONLY_NUMPY)
def test_a_flipped_bit_anywhere_changes_the_digest(dtype):
    """Every bit of a small array, in one compiled program: bits as a batch of arrays."""
    x = some(dtype, (4, 3))
    before = one(x)
    raw = np.frombuffer(x.tobytes(), np.uint8)
    for bit in range(1 if dtype == "bool" else 8):
        for byte in range(len(raw)):
            flipped = raw.copy()
            flipped[byte] ^= 1 << bit
            assert one(np.frombuffer(flipped.tobytes(), x.dtype).reshape(x.shape)) != before


def test_random_damage_never_repeats_a_digest():
    """Flips of one bit, swaps of two elements, moved and zeroed blocks of a real-sized matrix: all digests differ."""
    rng, x = np.random.default_rng(1), some("float32", (384, 96), seed=2)
    seen = {one(x)}
    for trial in range(400):
        damaged = x.copy().reshape(-1)
        i, j = rng.choice(damaged.size - 64, 2, replace=False)
        match trial % 4:
            case 0:
                damaged.view(np.uint32)[i] ^= np.uint32(1 << int(rng.integers(32)))
            case 1:
                damaged[[i, j]] = damaged[[j, i]]
            case 2:
                damaged[i : i + 64] = damaged[j : j + 64]
            case 3:
                damaged[i:] = np.roll(damaged[i:], 1)
        seen.add(one(damaged.reshape(x.shape)))
    assert len(seen) == 401


def test_both_halves_look_random_to_a_change_of_one_bit():
    """Avalanche: flipping one bit changes each of the 64 bits of the digest in half of the trials (within 5 sigma)."""
    rng, changes, trials = np.random.default_rng(3), np.zeros(64), 600
    for _ in range(trials):
        x = rng.integers(0, 2**32, 16, dtype=np.uint32)
        y = x.copy()
        y[rng.integers(16)] ^= np.uint32(1 << int(rng.integers(32)))
        difference = int(one(x), 16) ^ int(one(y), 16)
        changes += [difference >> k & 1 for k in range(64)]
    assert np.all(np.abs(changes / trials - 0.5) < 5 * 0.5 / np.sqrt(trials))


def test_constant_arrays_of_different_lengths_and_values_differ():
    arrays = [np.full(n, value, np.float32) for n in (1, 2, 3, 5, 8, 13) for value in (0.0, -0.0, 1.0)]
    assert len(set(digests(arrays))) == len(arrays)


@pytest.mark.parametrize("spec", [P(), P("x"), P(None, "y"), P("x", "y"), P(("x", "y"))])
def test_any_sharding_gives_the_same_digest(spec):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    for dtype in ("float32", "bfloat16", "bool"):
        x = some(dtype, (16, 8))
        assert one(jax.device_put(x, NamedSharding(mesh, spec))) == one(x)


def test_only_one_partial_sum_per_device_travels():
    mesh = Mesh(np.array(jax.devices()), ("x",), axis_types=(AxisType.Auto,))
    x = jax.device_put(np.zeros((64, 32), np.float32), NamedSharding(mesh, P("x")))
    program = _sums.lower(x).compile().as_text() or ""
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", program)
    assert gathered
    assert all(math.prod(map(int, shape.split(","))) <= 8 for shape in gathered)
