"""Channels that move from inputs to weights change no function; corrected biases err by nothing on average."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import Array

from bertjax.errors import UserError
from bertjax.model import LayerConfig, build
from bertjax.model.products import plain_product
from bertjax.params import flatten
from bertjax.quantize import Activation, Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from bertjax.quantize.corrections import (
    channel_scales,
    correct_biases,
    largest_inputs,
    mean_inputs,
    pairs,
    path_of,
    smooth,
)
from bertjax.recipes.quantize import Quantize
from tests.model.tiny import apply, tiny, tiny_batch

CLASSIFIER: dict[str, Any] = {"architecture": "BertForSequenceClassification"}
SHARED = (LayerConfig(3, 10), LayerConfig(3, 10, attention=0, ffn=0, ffn_norm=1))
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "post-norm": ({}, 2),
    "relu": ({"hidden_act": "relu"}, 4),
    "pre-norm": ({"norm": "pre"}, 6),
    "pre-norm with relu": ({"norm": "pre", "hidden_act": "relu"}, 8),
    "without heads or neurons": ({"norm": "pre", "layers": (LayerConfig(0, 10), LayerConfig(2, 0))}, 3),
    "shared": ({"hidden_act": "relu", "layers": SHARED}, 2),
    "pre-norm, a kernel behind two norms": ({"norm": "pre", "layers": SHARED}, 2),
    "albert": ({"model_type": "albert", "architecture": "AlbertForSequenceClassification", "num_hidden_groups": 1}, 1),
}
"""What each model changes, and the number of its places."""
RULES = Quantize().weights
BATCHES = [tuple(tiny_batch(seed=seed).values()) for seed in range(3)]


def sizes(config: Any, params: Any) -> dict[str, np.ndarray]:
    described, rounded = quantise_weights(config, params, RULES)
    return largest_inputs(build(described), rounded, BATCHES)


@pytest.mark.parametrize("name", MODELS)
def test_a_smoothed_model_is_the_same_function_with_other_channels(name: str):
    changes, places = MODELS[name]
    model, params = tiny(**{**CLASSIFIER, **changes})
    before = sizes(model.config, params)
    smoothed = smooth(model.config, params, before)
    batch = tiny_batch(seed=9)
    expected, found = (apply(model, one, batch).logits for one in (params, smoothed))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    moved = list(pairs(model.config))
    assert len(moved) == places
    differ = [path for path, leaf in flatten(smoothed).items() if not np.array_equal(leaf, flatten(params)[path])]
    assert len(differ) >= 3 * places  # kernel or scale, bias, and the kernel of at least one reader
    after = sizes(model.config, smoothed)
    spread = lambda found: np.ptp(np.log(found[moved[0].sites[0]]))  # noqa: E731
    assert spread(after) < spread(before)


def test_scales_are_those_of_the_paper_and_1_for_a_channel_without_inputs():
    inputs, weights = np.array([4.0, 9.0, 0.0, 2.0]), np.array([1.0, 4.0, 1.0, 0.0])
    np.testing.assert_allclose(channel_scales(inputs, weights), [2.0, 1.5, 1.0, 1.0])
    np.testing.assert_allclose(channel_scales(inputs, weights, 1.0)[:2], inputs[:2])
    np.testing.assert_allclose(channel_scales(inputs, weights, 0.0)[:2], 1 / weights[:2])


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["whole range", "half of it"])
def test_a_bias_loses_the_mean_error_of_its_product_on_real_tokens_without_that_of_clipping(share: float):
    """The means and the errors with NumPy, from the inputs of each product as an observer sees them."""
    model, params = tiny(**CLASSIFIER)
    config, quantised = quantise_weights(model.config, params, RULES)
    whole = find_ranges(build(config), quantised, BATCHES, "min_max")
    ranges = {site: Activation(8, (one.low or 0) * share, (one.high or 0) * share) for site, one in whole.items()}
    seen: dict[str, list[np.ndarray]] = {}

    def product(site: str, subscripts: str, left: Array, right: Any) -> Array:
        if site in ranges:
            seen.setdefault(site, []).append(np.asarray(left))
        return plain_product(site, subscripts, left, right)

    for ids, mask, types in BATCHES:
        type(model)(config, product).apply({"params": quantised}, ids, mask, types)
    means = mean_inputs(config, quantised, ranges, BATCHES)
    rounded_config = config.replace(quantization=Quantization((), tuple(ranges.items())))
    found = flatten(correct_biases(rounded_config, quantised, params, means))
    assert len(seen) == 13
    for site, activation in ranges.items():
        real = [
            mask > 0 if x.ndim == 3 else mask[:, 0] > 0 for x, (_, mask, _) in zip(seen[site], BATCHES, strict=True)
        ]
        x = np.concatenate([one[rows] for one, rows in zip(seen[site], real, strict=True)]).astype(np.float64)
        assert activation.low is not None
        assert activation.high is not None
        scale = (activation.high - activation.low) / 255
        zero = -128 - round(activation.low / scale)
        given = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
        outside = (x < (-128.5 - zero) * scale) | (x > (127.5 - zero) * scale)
        assert (outside.sum() > 10) == (share < 1)
        x = np.clip(x, (-128 - zero) * scale, (127 - zero) * scale)
        path = path_of(config, site)
        kernel, exact = flatten(quantised)[f"{path}/kernel"], flatten(params)[f"{path}/kernel"]
        error = given @ np.asarray(kernel.dequantised()) - x @ exact
        corrected = flatten(params)[f"{path}/bias"] - found[f"{path}/bias"]
        assert np.abs(error.mean(axis=0)).max() > 1e-5
        np.testing.assert_allclose(corrected, error.mean(axis=0), rtol=1e-3, atol=2e-6)


def test_a_shared_bias_gets_the_mean_of_its_corrections():
    model, params = tiny(**CLASSIFIER, layers=SHARED)
    config, quantised = quantise_weights(model.config, params, RULES)
    means = {f"step_{n}/ffn/output": (np.ones(10), np.full(10, 1.0 + n)) for n in range(2)}
    found = flatten(correct_biases(config, quantised, params, means))["encoder/layer_0/ffn/output/bias"]
    alone = [
        flatten(correct_biases(config, quantised, params, {site: both}))["encoder/layer_0/ffn/output/bias"]
        for site, both in means.items()
    ]
    np.testing.assert_allclose(found, np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    assert not np.allclose(*alone)


def test_corrections_are_for_fixed_ranges_without_training():
    refused: tuple[dict[str, Any], ...] = ({"activations": "token"}, {"activations": "none"}, {"qat": "ste"})
    for given in refused:
        with pytest.raises(UserError, match=r"--corrections=smooth bias are for fixed ranges without training"):
            Quantize(corrections=("smooth", "bias"), **given)
