"""Rounding while training: what is trained with is what is shipped, and the gradients are those of the papers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.model import build
from bertjax.model.quantized import fixed_scale, quantise_input
from bertjax.params import flatten
from bertjax.quantize import Activation, Format, dequantised
from bertjax.quantize.training import (
    above_zero,
    first_scales,
    learned_ranges,
    quantise_trained,
    round_input,
    round_weights,
    rounding_product,
    roundings_of,
)
from bertjax.quantized.rounding import round_through
from tests.quantize.test_model import CONFIG, MIXED, PARAMS, batch, logits
from tests.tolerances import SAME_MATHS

ROUNDINGS = roundings_of(CONFIG, PARAMS, MIXED)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True])
def test_the_model_that_ships_is_the_one_that_was_trained(learned):
    scales = first_scales(PARAMS, ROUNDINGS, "least_squares") if learned else None
    trained = round_weights(PARAMS, ROUNDINGS, scales)
    config, shipped = quantise_trained(CONFIG, PARAMS, ROUNDINGS, scales)
    for path, leaf in flatten(dequantised(shipped)).items():
        np.testing.assert_allclose(leaf, flatten(trained)[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert config.quantization is not None
    assert dict(config.quantization.weights) == {path: rounding.format for path, rounding in ROUNDINGS.items()}


@pytest.mark.parametrize("activation", [Activation(), Activation(8, -1.0, 2.0), Activation(4, -0.5, 0.25)])
def test_inputs_are_rounded_in_training_as_in_use(activation):
    integers, scale, zero = quantise_input(X, activation)
    expected = (np.asarray(integers, np.float32) - zero) * np.asarray(scale)
    np.testing.assert_allclose(round_input(X, activation), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: round_input(x, activation).sum())(X)
    position = np.asarray(X / scale + zero)
    highest = 2 ** (activation.bits - 1) - 1
    lowest = -highest if activation.low is None else -highest - 1
    edge = np.abs(np.abs(position) - highest) < 1e-3  # where float32 decides which side a number is on
    inside = (position >= lowest) & (position <= highest)
    np.testing.assert_allclose(gradient[~edge], inside[~edge], **SAME_MATHS)


def test_ranges_that_follow_the_weights_get_no_gradient():
    """Every weight lies within its range, so each has the gradient that it would have unrounded: literature form."""
    format = Format(4, "asymmetric", block_cols=2)
    roundings = roundings_of(CONFIG, {"w": {"kernel": X}}, ((r"kernel", format),))
    weights = jnp.arange(30.0).reshape(6, 5)
    gradient = jax.grad(lambda x: jnp.sum(weights * round_weights({"w": {"kernel": x}}, roundings)["w"]["kernel"]))(X)
    outside = gradient == 0
    np.testing.assert_allclose(np.where(outside, weights, gradient), weights, **SAME_MATHS)
    assert outside.sum() <= 1 + 2 * 3  # the ends of a block, where float32 puts them beyond its range; and weight 0


def test_learned_scales_have_the_gradient_of_their_paper():
    format = Format(3, block_cols=None)
    roundings = roundings_of(CONFIG, {"kernel": X}, ((r"kernel", format),))
    scale = jnp.full((1, 1), 0.3)

    def total(scale):
        return jnp.sum(round_weights({"kernel": X}, roundings, {"kernel": {"scale": scale}})["kernel"])

    position = np.asarray(X) / 0.3
    inside = np.abs(position) <= 3
    # Esser et al. 2020, equation 3, times 1 / sqrt(numbers * highest) of section 2.2.
    expected = np.where(inside, np.round(position) - position, 3 * np.sign(position)).sum() / math.sqrt(30 * 3)
    np.testing.assert_allclose(jax.grad(total)(scale), [[expected]], rtol=1e-4)


def test_ternary_weights_learn_as_if_they_were_not_rounded():
    roundings = roundings_of(CONFIG, {"kernel": X}, ((r"kernel", Format(scheme="ternary", block_cols=None)),))
    function = lambda x: jnp.sum(3 * round_weights({"kernel": x}, roundings)["kernel"])  # noqa: E731
    np.testing.assert_array_equal(jax.grad(function)(X), np.full(X.shape, 3.0))
    assert len(np.unique(np.round(round_weights({"kernel": X}, roundings)["kernel"], 5))) == 3


@pytest.mark.slow
def test_inputs_are_left_alone_until_it_is_time():
    config, params = quantise_trained(CONFIG, PARAMS, ROUNDINGS)
    sites = {"step_0/attention/query": Activation(2, -1.0, 1.0), "step_1/ffn/output": Activation(4)}

    def outputs(on):
        model: Any = type(build(CONFIG))(CONFIG, rounding_product(sites, on))
        return jax.jit(lambda p: model.apply({"params": p}, *batch()).logits)(dequantised(params))

    plain = logits(config, params, batch())
    np.testing.assert_allclose(outputs(jnp.bool_(False)), plain, **SAME_MATHS)
    assert np.abs(outputs(jnp.bool_(True)) - plain).max() > 1e-3


def test_learned_ranges_of_inputs_keep_their_zero():
    before = {"a": Activation(8, -1.0, 3.0), "b": Activation(8)}
    scale, zero = fixed_scale(before["a"])
    after = learned_ranges(before, {"a": np.float32(scale * 0.7)})
    assert after["b"] == before["b"]
    assert fixed_scale(after["a"]) == (pytest.approx(scale * 0.7, rel=1e-5), zero)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_scales_that_were_learned_below_zero_ship_above_it_and_round_alike(scheme):
    format = Format(4, scheme)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scale, offset = np.array([[-0.2, 0.2, -0.05]], np.float32), np.zeros((1, 3), np.float32)
    if scheme == "asymmetric":
        offset += np.float32(0.31)
    ends = format.lowest, format.highest

    def rounded(scale: np.ndarray, offset: np.ndarray) -> Any:
        return round_through(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(offset), *ends)

    trained = rounded(scale, offset)
    scale, offset = above_zero(scale, offset, format)
    assert (scale > 0).all()
    np.testing.assert_allclose(rounded(scale, offset), trained, **SAME_MATHS)


def test_a_range_whose_learned_scale_fell_below_zero_has_the_same_steps():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8)), jnp.float32)
    activation, scale = Activation(8, -1.0, 3.0), jnp.float32(-0.011)
    trained = round_input(x, activation, scale)
    shipped = learned_ranges({"site": activation}, {"site": scale})["site"]
    np.testing.assert_allclose(round_input(x, shipped), trained, rtol=1e-5, atol=1e-5)
