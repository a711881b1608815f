"""Numbers to integers and back: half a step at most, gradients by hand, and what others compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.model.quantized import quantise_input
from bertjax.quantize.ranges import least_squares, min_max, percentile, ternary
from bertjax.quantize.training import round_input, round_weights, roundings_of
from bertjax.quantize.weights import integers_of
from bertjax.quantized.formats import Activation, Format
from bertjax.quantized.grid import Grid, expand, grid_of, groups, reduce
from bertjax.quantized.rounding import dequantise, quantise, round_through, scale_gradient, scales

FORMATS = [Format(bits, scheme, *shared) for bits in (8, 4, 3, 2) for scheme in ("symmetric", "asymmetric")
           for shared in ((None, 1), (None, None), (1, None), (3, 1), (None, 3), (2, None))]  # fmt: skip
NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32)
MATRICES = arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=NUMBERS)
NORMAL = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(MATRICES, st.sampled_from(FORMATS))
def test_every_number_comes_back_within_half_a_step(x, format):
    grid = grid_of(x.shape, format)
    done = integers_of("x", x, format, grid, "min_max")
    step = np.asarray(expand(jnp.asarray(done.scale), grid), np.float64)
    # What float32 loses by itself: the sum of a number and an offset as large as the range.
    slack = np.asarray(expand(reduce(jnp.abs(x), grid, "max"), grid), np.float64) * 1e-6
    assert np.all(np.abs(np.asarray(done.dequantised(), np.float64) - x) <= step / 2 + slack + 1e-38)
    assert done.values.min() >= format.lowest
    assert done.values.max() <= format.highest


@pytest.mark.parametrize("format", [*FORMATS[:12:3], Format(scheme="ternary")])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-40, 1e30])
def test_a_matrix_of_one_number_stays_one(value, format):
    x = np.full((4, 6), value, np.float32)
    back = np.asarray(integers_of("x", x, format, grid_of(x.shape, format), "min_max").dequantised())
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(bad):
    x = NORMAL.copy()
    x[3, 4] = bad
    with pytest.raises(UserError, match="encoder/kernel has NaN or infinite values"):
        integers_of("encoder/kernel", x, Format(), grid_of(x.shape, Format()), "min_max")


@pytest.mark.parametrize("format", FORMATS)
def test_integers_are_those_of_a_loop_over_blocks(format):
    grid = grid_of(NORMAL.shape, format)
    done = integers_of("x", NORMAL, format, grid, "min_max")
    top = 0
    for height in grid.rows:
        left = 0
        for width in grid.columns:
            block = NORMAL[top : top + height, left : left + width].astype(np.float64)
            if format.scheme == "asymmetric":  # Q-BERT (Shen et al. 2020): delta = (high - low) / (2^k - 1)
                delta = (block.max() - block.min()) / (2**format.bits - 1)
                expected = np.round((block - block.min()) / max(delta, 1e-38)) - 2 ** (format.bits - 1)
                if block.max() == block.min():
                    expected = np.full(block.shape, format.lowest)
            else:  # Q8BERT (Zafrir et al. 2019): threshold / 127
                most = 2 ** (format.bits - 1) - 1
                expected = np.clip(np.round(block * most / np.abs(block).max()), -most, most)
            given = done.values[top : top + height, left : left + width]
            assert np.mean(given == expected) > 0.95  # a number in the middle may go either way in float32
            assert np.abs(given - expected).max() <= 1
            left += width
        top += height


def test_groups_stay_within_heads_and_are_as_equal_as_can_be():
    assert groups(12, 5) == (4, 4, 4)
    assert groups(64, 6, unit=32) == (6, 6, 5, 5, 5, 5) * 2
    assert groups(768, 6) == (6,) * 128  # the 128 groups of Q-BERT
    assert groups(9, None) == (9,)
    assert sum(groups(97, 10)) == 97


@pytest.mark.parametrize("how", ["min", "max", "sum"])
def test_blocks_are_reduced_as_by_a_loop(how):
    grid = Grid((5, 4, 3), (1, 7, 2))
    found, rows, columns = np.asarray(reduce(jnp.asarray(NORMAL), grid, how)), (0, 5, 9, 12), (0, 1, 8, 10)
    for i in range(3):
        for j in range(3):
            block = NORMAL[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            np.testing.assert_allclose(found[i, j], getattr(block, how)(), rtol=1e-5)
    wide = np.asarray(expand(jnp.asarray(found), grid))
    assert wide.shape == NORMAL.shape
    assert wide[8, 7] == found[1, 1]


def test_percentile_is_numpys_and_least_squares_beats_the_extremes():
    format, grid = Format(3, "symmetric", None, 1), Grid((12,), (1,) * 10)
    low, high = percentile(jnp.asarray(NORMAL), grid, 0.9)
    np.testing.assert_allclose(low[0], np.quantile(NORMAL, 0.05, axis=0), rtol=1e-6)
    np.testing.assert_allclose(high[0], np.quantile(NORMAL, 0.95, axis=0), rtol=1e-6)

    def error(ends):
        scale, offset = scales(ends[0], ends[1], format)
        back = dequantise(quantise(jnp.asarray(NORMAL), scale, offset, -3, 3), scale, offset)
        return np.sum((np.asarray(back) - NORMAL) ** 2, axis=0)

    widest = min_max(jnp.asarray(NORMAL), grid)
    best = least_squares(jnp.asarray(NORMAL), grid, format)
    tried = [error([end * f for end in widest]) for f in np.linspace(1, 1 / 64, 64, dtype=np.float32)]
    np.testing.assert_allclose(error(best), np.min(tried, axis=0), rtol=1e-5)
    assert (error(best) < error(widest) * 0.95).any()


def test_ternary_weights_are_those_of_the_paper():
    format, grid = Format(scheme="ternary", block_rows=None, block_cols=None), Grid((12,), (10,))
    done = integers_of("x", NORMAL, format, grid, "min_max")
    threshold = 0.7 * np.abs(NORMAL).mean()
    expected = np.where(np.abs(NORMAL) > threshold, np.sign(NORMAL), 0)
    np.testing.assert_array_equal(done.values, expected)
    np.testing.assert_allclose(done.scale[0, 0], np.abs(NORMAL)[np.abs(NORMAL) > threshold].mean(), rtol=1e-6)
    np.testing.assert_allclose(ternary(jnp.asarray(NORMAL), grid)[0], [[threshold]], rtol=1e-6)


ERRORS = {  # relative error of a normal matrix [512, 512], per output: it grows fourfold for every two bits less
    (8, "symmetric", "min_max"): 0.0075,
    (4, "symmetric", "min_max"): 0.1360,
    (4, "symmetric", "least_squares"): 0.1121,
    (4, "asymmetric", "min_max"): 0.1188,
    (4, "asymmetric", "least_squares"): 0.1047,
    (3, "asymmetric", "least_squares"): 0.1931,
    (2, "asymmetric", "min_max"): 0.5965,
    (2, "asymmetric", "least_squares"): 0.3457,
    (2, "ternary", "min_max"): 0.4380,
}


@pytest.mark.parametrize(("bits", "scheme", "find"), ERRORS)
def test_error_of_each_width_is_as_it_was(bits, scheme, find):
    x = np.random.default_rng(1).normal(size=(512, 512)).astype(np.float32)
    format = Format(bits, scheme)
    back = np.asarray(integers_of("x", x, format, grid_of(x.shape, format), find).dequantised())
    error = np.sqrt(np.sum((back - x) ** 2) / np.sum(x**2))
    np.testing.assert_allclose(error, ERRORS[bits, scheme, find], rtol=0.01)


def test_gradients_stop_outside_the_range_and_learn_the_scale():
    x = jnp.asarray([-9.0, -2.3, -0.2, 0.6, 1.49, 7.0], jnp.float32)
    scale, lowest, highest = jnp.float32(0.7), -3, 3

    def total(x, scale):
        return jnp.sum(jnp.arange(1.0, 7) * round_through(x, scale, jnp.zeros(()), lowest, highest))

    to_x, to_scale = jax.grad(total, argnums=(0, 1))(x, scale)
    position = np.asarray(x) / 0.7
    inside = np.abs(position) <= 3
    np.testing.assert_array_equal(to_x, np.where(inside, np.arange(1, 7), 0))
    # Esser et al. 2020, equation 3.
    expected = np.where(inside, np.round(position) - position, np.clip(position, -3, 3))
    np.testing.assert_allclose(to_scale, np.sum(np.arange(1, 7) * expected), rtol=1e-5)


@pytest.mark.parametrize(
    "format", [Format(bits, scheme) for bits in (2, 4, 7, 8) for scheme in ("symmetric", "asymmetric")]
)
def test_what_defines_a_range_gets_its_gradient(format: Format):
    """max / (max / 127) is 127.00001 in one column of four: dividing twice must not put a number outside of its own
    range."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 999)), jnp.float32)
    paths = roundings_of(BertConfig(), {"kernel": x}, ((r"kernel", format),))
    gradient = jax.grad(lambda x: round_weights({"kernel": x}, paths)["kernel"].sum())(x)
    np.testing.assert_allclose(gradient, jnp.ones_like(x), rtol=1e-6)


def test_the_largest_number_of_a_token_gets_its_gradient():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(999, 64)), jnp.float32)
    gradient = jax.grad(lambda x: round_input(x, Activation()).sum())(x)
    np.testing.assert_allclose(gradient, jnp.ones_like(x), rtol=1e-6)


def test_a_scaled_gradient_leaves_the_value():
    value, gradient = jax.value_and_grad(lambda x: scale_gradient(x, 0.25) ** 2)(jnp.float32(3.0))
    assert value == 9.0
    assert gradient == 1.5


def test_bfloat16_keeps_all_the_integers_apart():
    x = jnp.linspace(-1, 1, 255, dtype=jnp.float32)[:, None]
    found = quantise(
        x.astype(jnp.bfloat16).astype(jnp.float32), jnp.full((1, 1), 1 / 127), jnp.zeros((1, 1)), -127, 127
    )
    assert round_through(x.astype(jnp.bfloat16), jnp.float32(1 / 127), jnp.float32(0), -127, 127).dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(found))) > 200


def test_inputs_are_rounded_as_by_qwix():
    qwix = pytest.importorskip("qwix")
    x = jnp.asarray(np.random.default_rng(2).normal(0.4, 1.0, (40, 33)), jnp.float32)
    ours, scale, zero = quantise_input(x, Activation(8, float(x.min()), float(x.max())))
    theirs = qwix.quantize(x, "int8", calibration_method="minmax")
    np.testing.assert_allclose(scale, theirs.scale.squeeze(), rtol=1e-6)
    assert zero == theirs.zero_point.squeeze()
    np.testing.assert_array_equal(ours, theirs.qvalue)


def test_weights_are_rounded_as_by_qwix_with_its_scale():
    """Its step is a 127.5th of the largest number, where ours is a 127th: half a step more at either end."""
    qwix = pytest.importorskip("qwix")
    theirs = qwix.quantize(jnp.asarray(NORMAL), "int8", channelwise_axes=(1,))
    ours = quantise(jnp.asarray(NORMAL), theirs.scale, jnp.zeros((1, 1)), -128, 127)
    np.testing.assert_array_equal(ours, theirs.qvalue)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Format(bits=5), "bits is 5; expected 2, 3, 4, 7 or 8"),
        (lambda: Format(block_cols=0), "block_cols is 0; expected at least 1, or None"),
        (lambda: Activation(low=-1.0), "give both ends of a range, or neither"),
        (lambda: Activation(low=0.5, high=1.0), "expected finite numbers with low <= 0 <= high"),
    ],
)
def test_impossible_formats_say_so(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
