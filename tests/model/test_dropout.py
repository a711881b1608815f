"""Dropout's decisions: at the rate, independent as far as statistics can tell, the same wherever they are made.

The bounds are five standard deviations of fair decisions, so a fixed key that passes says something.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertjax.model.products import dropout, random_words
from tests.tolerances import BFLOAT16

SHAPE = (8, 4, 64, 64)


def kept(key, rate=0.1, shape=SHAPE):
    return np.asarray(random_words(key, shape)) >= rate * 2**32


def correlation(a, b):
    """In standard deviations of independent decisions."""
    a, b = ((x - x.mean()) / x.std() for x in (a.astype(np.float64), b.astype(np.float64)))
    return (a * b).mean() * np.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_dropout_zeroes_at_its_rate_and_keeps_the_mean(rate):
    x = jnp.ones((1000, 1003))
    y = np.asarray(jax.jit(lambda key: dropout(x, rate, key))(jax.random.key(0)))
    spread = 5 * np.sqrt(rate * (1 - rate) / y.size)
    assert abs((y == 0).mean() - rate) < spread
    np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(y.mean() - 1) < spread / (1 - rate)


def test_words_are_uniform_in_their_high_and_low_bits():
    words = np.asarray(random_words(jax.random.key(0), (1024, 1024)))
    for shift in (24, 12, 0):
        counts = np.bincount((words >> shift & 255).ravel(), minlength=256)
        chi_squared = ((counts - words.size / 256) ** 2 / (words.size / 256)).sum()
        assert abs(chi_squared - 255) < 5 * np.sqrt(2 * 255)


def test_rows_columns_and_keys_keep_as_often_as_chance_has_it():
    """Counts along any axis spread as binomial ones do: neither clumped nor evened out."""
    keys = jax.random.split(jax.random.key(1), 200)
    decisions = np.asarray(jax.vmap(lambda key: random_words(key, (96, 100)))(keys)) >= 0.1 * 2**32
    for axis in range(3):
        counts = decisions.sum(axis)
        dispersion = ((counts - 0.9 * decisions.shape[axis]) ** 2).mean() / (0.09 * decisions.shape[axis])
        assert abs(dispersion - 1) < 5 * np.sqrt(2 / counts.size)


def test_neighbours_along_every_axis_are_independent():
    decisions = kept(jax.random.key(2))
    for axis in range(4):
        for lag in (1, 2, 4):
            if lag < decisions.shape[axis]:
                pairs = np.moveaxis(decisions, axis, 0)
                assert abs(correlation(pairs[lag:], pairs[:-lag])) < 5


def test_keys_of_successive_steps_and_keys_one_bit_apart_decide_independently():
    """Also between positions that are as far apart as the keys, where a weaker hash would repeat itself."""
    step_keys = [jax.random.fold_in(jax.random.key(3), step) for step in range(6)]
    close_keys = [jax.random.wrap_key_data(jnp.array(word, jnp.uint32)) for word in ([0, 0], [0, 1], [1, 0], [2, 0])]
    for keys in (step_keys, close_keys):
        decisions = [kept(key) for key in keys]
        for i, first in enumerate(decisions):
            for second in decisions[:i]:
                assert abs(correlation(first, second)) < 5
    flat = [kept(key, 0.5, (2**16,)) for key in close_keys]
    for bit in range(16):
        swapped = np.arange(2**16) ^ (1 << bit)
        for other in flat[1:]:
            assert abs(correlation(flat[0], other[swapped])) < 5


def test_the_parity_of_a_few_decisions_is_as_even_as_of_coins():
    """Third-order dependence, which correlations of pairs do not show."""
    coins = kept(jax.random.key(4), 0.5, (512, 1024)) * 2.0 - 1
    for second, third in ((1, 2), (1, 3), (16, 17), (64, 128)):
        product = coins * np.roll(coins, second, -1) * np.roll(coins, third, -1)
        assert abs(product.mean()) * np.sqrt(product.size) < 5


def test_decisions_do_not_depend_on_how_the_array_is_sharded():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    here, there = jnp.ones((16, 8, 12)), NamedSharding(mesh, PartitionSpec("data", None, "model"))
    drop = jax.jit(lambda x, key: dropout(x, 0.3, key))
    spread = drop(jax.device_put(here, there), jax.random.key(5))
    assert len({shard.device for shard in spread.addressable_shards}) == 8
    np.testing.assert_array_equal(spread, drop(here, jax.random.key(5)))


def test_any_kind_of_key_and_bfloat16_work():
    x = jnp.ones((64, 64), jnp.bfloat16)
    for key in (jax.random.key(6, impl="rbg"), jax.random.PRNGKey(6)):
        y = dropout(x, 0.25, key)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y[y > 0].astype(jnp.float32), 4 / 3, **BFLOAT16)
        assert abs(float((y == 0).mean()) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size)
