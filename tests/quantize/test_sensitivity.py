from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bertjax import UserError
from bertjax.learn.losses import classification
from bertjax.params import Tree, flatten, select, unflatten
from bertjax.quantize.sensitivity import (
    Eigenvalue,
    Products,
    Sensitivity,
    block_mask,
    loss_increases,
    random_direction,
    sensitivities,
    squared_change,
    top_eigenvalue,
)
from tests.model.tiny import run, tiny, tiny_batch

MODEL, PARAMS = tiny(hidden_size=6, num_attention_heads=2, intermediate_size=5)
BLOCKS = {"layer_0": "encoder/layer_0/", "layer_1": "encoder/layer_1/", "head": "^classifier/"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def loss(params: Tree, batch: Any) -> Any:
    return classification(run(MODEL, params, {name: batch[name] for name in INPUTS}).logits, batch)


def labelled(seed: int, rows: int = 6, columns: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch = tiny_batch(tuple(rng.integers(2, 8, rows).tolist()), columns, seed)
    return {**batch, "labels": rng.integers(0, 3, rows).astype(np.int32), "weights": np.ones(rows, np.float32)}


def rows(batch: dict[str, np.ndarray], kept: slice) -> dict[str, np.ndarray]:
    return {name: array[kept] for name, array in batch.items()}


def padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With two more columns and one more row, of garbage."""
    wide = {name: np.pad(array, ((0, 1), (0, 2))) for name, array in batch.items() if array.ndim == 2}
    wide["input_ids"][-1], wide["attention_mask"][-1] = 5, 1
    wide["input_ids"][:-1][wide["attention_mask"][:-1] == 0] = 7
    return {**wide, "labels": np.append(batch["labels"], 1), "weights": np.append(batch["weights"], np.float32(0))}


def dense(pattern: str, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The eigenvalues of the block's Hessian, written down number by number."""
    flat, back = ravel_pytree(jax.tree.map(jnp.asarray, select(pattern, PARAMS)))

    def of_block(numbers: jax.Array) -> jax.Array:
        total, weight = loss(unflatten({**flatten(PARAMS), **flatten(back(numbers))}), jax.tree.map(jnp.asarray, batch))
        return total / weight

    hessian = np.asarray(jax.jit(jax.hessian(of_block))(flat), np.float64)
    return np.linalg.eigvalsh((hessian + hessian.T) / 2)


@pytest.fixture(scope="module")
def products() -> Products:
    return Products(loss, PARAMS)


def found(products: Products, pattern: str, batches: Any, tolerance=1e-5, iterations=500) -> Eigenvalue:
    start = random_direction(PARAMS, 0)
    return top_eigenvalue(products, block_mask(pattern, PARAMS), batches, start, tolerance, iterations)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_the_eigenvalue_is_that_of_the_dense_hessian(products: Products, block: str):
    batch = labelled(0)
    spectrum = dense(BLOCKS[block], batch)
    top = spectrum[np.argmax(np.abs(spectrum))]
    one = found(products, BLOCKS[block], [batch])
    assert one.converged
    np.testing.assert_allclose(one.value, top, rtol=1e-3)
    assert np.min(np.abs(spectrum - one.value)) <= one.residual + 1e-5


def test_the_sign_of_the_largest_is_kept():
    """A bowl in one direction and a steeper ridge in another."""
    params = {"a": {"x": np.ones(2, np.float32)}, "b": {"x": np.ones(3, np.float32)}}

    def saddle(params: Tree, batch: Any) -> Any:
        x, y = params["a"]["x"], params["b"]["x"]
        return batch["n"] * (jnp.array([1.0, -2.5]) @ x**2 + 0.5 * jnp.sum(y**2)), batch["n"]

    (subset,) = [[{"n": np.float32(4)}]]
    both = sensitivities(saddle, params, {"a": "^a/", "b": "^b/"}, [subset] * 10, tolerance=1e-6)
    np.testing.assert_allclose([one.value for one in both["a"].eigenvalues], -5, rtol=1e-4)
    assert both["a"].negative == 10
    assert both["b"].negative == 0
    np.testing.assert_allclose(both["a"].omega, 5, rtol=1e-4)
    np.testing.assert_allclose(both["b"].omega, 1, rtol=1e-4)


@pytest.mark.slow
def test_neither_padding_nor_the_cut_into_batches_changes_it(products: Products):
    batch, mask, direction = labelled(1), block_mask(BLOCKS["layer_0"], PARAMS), random_direction(PARAMS, 0)
    whole = products(mask, direction, [batch])
    cut = products(mask, direction, [rows(batch, slice(0, 4)), padded(rows(batch, slice(4, 6)))])
    assert np.abs(whole["encoder"]["layer_0"]["ffn"]["intermediate"]["kernel"]).max() > 0.1
    assert not np.any(whole["encoder"]["layer_1"]["ffn"]["intermediate"]["kernel"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), cut, whole)


def test_running_out_of_iterations_is_said(products: Products):
    one = found(products, BLOCKS["layer_0"], [labelled(0)], tolerance=1e-9, iterations=2)
    assert (one.iterations, one.converged) == (2, False)
    assert found(products, BLOCKS["layer_0"], [labelled(0)], tolerance=0.5).iterations < 10


def test_all_layers_and_subsets_share_one_program():
    traced = 0

    def counted(params: Tree, batch: Any) -> Any:
        nonlocal traced
        traced += 1
        return loss(params, batch)

    subsets = [[labelled(seed)] for seed in range(10)]
    all_of_them = sensitivities(counted, PARAMS, BLOCKS, subsets, iterations=3)
    assert traced == 1
    assert list(all_of_them) == list(BLOCKS)
    assert all(len(one.eigenvalues) == 10 for one in all_of_them.values())
    values = [one.value for one in all_of_them["layer_1"].eigenvalues]
    assert len(set(values)) == 10


def test_omega_is_the_mean_and_the_spread():
    values = (3.0, -4.0, 3.0, 2.0)
    one = Sensitivity(tuple(Eigenvalue(value, 5, value > 0, 0.0) for value in values))
    assert one.mean == 1.0
    np.testing.assert_allclose(one.std, np.sqrt((4 + 25 + 4 + 1) / 4))
    np.testing.assert_allclose(one.omega, 1 + np.sqrt(8.5))
    assert (one.negative, one.unconverged) == (1, 1)
    transpose = Sensitivity(tuple(Eigenvalue(-value, 5, True, 0.0) for value in values))
    np.testing.assert_allclose(transpose.omega, one.omega)
    assert transpose.negative == 3


def test_a_flat_loss_has_no_curvature():
    flat = sensitivities(
        lambda p, b: (p["x"].sum(), 1.0 + 0 * p["x"].sum()), {"x": np.ones(3, np.float32)}, {"x": "x"}, [[{}]] * 10
    )
    assert flat["x"].omega == 0
    assert flat["x"].unconverged == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsets": [[labelled(0)]] * 9}, "got 9 subsets of the data; expected 10"),
        ({"blocks": {"layer_9": "layer_9/"}}, "'layer_9/' matches no parameter"),
        ({"subsets": [[]] * 10}, "has no labelled example"),
        ({"params": jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)}, "is not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str):
    given = {"params": PARAMS, "blocks": BLOCKS, "subsets": [[labelled(0)]] * 10}
    with pytest.raises(UserError, match=message):
        sensitivities(loss, **given | change)


def test_the_rise_of_the_loss_is_that_of_each_transform_alone():
    batches = [labelled(3), padded(labelled(4))]

    def rounded(pattern: str, steps: float) -> Any:
        def transform(params: Tree) -> Tree:
            part = {path: np.round(leaf * steps) / steps for path, leaf in flatten(select(pattern, params)).items()}
            return unflatten({**flatten(params), **part})

        return transform

    transforms = {("layer_0", 2): rounded("layer_0/", 2.0), ("head", 4): rounded("^classifier/", 4.0)}
    rises = loss_increases(loss, PARAMS, batches, {"none": lambda params: params, **transforms})
    assert rises["none"] == 0

    compiled = jax.jit(loss)

    def mean(params: Tree) -> float:
        sums = [compiled(params, batch) for batch in batches]
        return float(sum(total for total, _ in sums) / sum(weight for _, weight in sums))

    for name, transform in transforms.items():
        expected = mean(transform(PARAMS)) - mean(PARAMS)
        assert abs(expected) > 1e-4
        np.testing.assert_allclose(rises[name], expected, atol=1e-6)


def test_the_squared_change_is_that_of_the_block_that_was_rounded():
    changed = {**PARAMS, "classifier": jax.tree.map(lambda leaf: leaf + np.float32(0.5), PARAMS["classifier"])}
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS["classifier"]))
    np.testing.assert_allclose(squared_change(PARAMS, changed), 0.25 * count, rtol=1e-6)
