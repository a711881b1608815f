"""Claims about the options that programs are compiled with."""

import jax
import numpy as np
import pytest

from bertjax.xla import MANY_ROWS, Forward, knows_option
from tests import tolerances


def product(model: float, params: jax.Array, ids: jax.Array, power: int) -> jax.Array:
    return model * (ids @ params) ** power


@pytest.mark.parametrize("rows", [MANY_ROWS // 64 - 1, MANY_ROWS // 64])
def test_a_forward_pass_computes_the_same_whoever_computes_products(rows: int):
    ids, params = jax.random.normal(jax.random.key(0), (rows, 64)), jax.random.normal(jax.random.key(1), (64, 32))
    forward = Forward(product, static=("power",))
    assert_close = np.testing.assert_allclose
    assert_close(forward(0.5, params, ids, 2), product(0.5, params, ids, 2), **tolerances.SAME_MATHS)
    assert knows_option()
    few = rows * 64 < MANY_ROWS
    assert ("__ynn_fusion" in forward.lower(0.5, params, ids, 2).compile().as_text()) == few
