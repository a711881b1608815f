"""Claims about the options that programs are compiled with."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from bertjax.machine.xla import MANY_ROWS, Forward, knows_option
from bertjax.model import BertConfig, build, init_params
from bertjax.predict import forward
from bertjax.quantize import Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from tests.tolerances import SAME_MATHS


def product(model: float, params: jax.Array, ids: jax.Array, power: int) -> jax.Array:
    return model * (ids @ params) ** power


@pytest.mark.parametrize("rows", [MANY_ROWS // 64 - 1, MANY_ROWS // 64])
def test_a_forward_pass_computes_the_same_whoever_computes_products(rows: int):
    ids, params = jax.random.normal(jax.random.key(0), (rows, 64)), jax.random.normal(jax.random.key(1), (64, 32))
    forward = Forward(product, static=("power",))
    assert_close = np.testing.assert_allclose
    assert_close(forward(0.5, params, ids, 2), product(0.5, params, ids, 2), **SAME_MATHS)
    assert knows_option()
    assert_close(Forward(partial(product, power=2)).bound(0.5, params)(ids), product(0.5, params, ids, 2), **SAME_MATHS)
    few = rows * 64 < MANY_ROWS
    assert ("__ynn_fusion" in forward.lower(0.5, params, ids, 2).compile().as_text()) == few


def test_a_bound_pass_is_compiled_once_for_all_who_bind_the_same_model():
    traced = []

    def scaled(model: float, params: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
        traced.append(model)
        return model * ids @ params["w"]

    forward, ids = Forward(scaled), np.ones((2, 3), np.float32)
    for weight in (1.0, 2.0):
        run = forward.bound(2.0, {"w": np.full((3, 1), weight, np.float32)})
        for _ in range(2):
            np.testing.assert_array_equal(run(ids), np.full((2, 1), 6 * weight))
    assert traced == [2.0]
    forward.bound(3.0, {"w": np.ones((3, 1), np.float32)})(ids)
    assert traced == [2.0, 3.0]


@pytest.mark.slow
def test_bytes_are_multiplied_by_who_can_however_many_there_are():
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    }
    config = BertConfig(architecture="BertForSequenceClassification", vocab_size=50, **sizes)
    config, params = quantise_weights(config, init_params(config, 0))
    ids = np.ones((MANY_ROWS // 32, 32), np.int32)
    ranges = find_ranges(build(config), params, [(ids[:2], ids[:2], ids[:2] * 0)], "min_max")
    assert config.quantization is not None
    rounded = Quantization(config.quantization.weights, tuple(ranges.items()))
    for arithmetic, by_bytes in (("integer", True), ("float", False)):
        model = build(config.replace(quantization=rounded, arithmetic=arithmetic))
        program = forward.lower(model, params, ids, ids, ids * 0).compile().as_text()
        assert ("__ynn_fusion" in program) == by_bytes
