"""Masks against brute force, the schedule against its table, and zeros that stay zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch.nn.utils import prune as torch_prune

from bertjax import UserError
from bertjax.params import flatten
from bertjax.prune.masks import (
    apply_masks,
    cubic,
    largest,
    magnitude_masks,
    n_of_m_masks,
    nonzero_masks,
    sparsity_of,
)
from tests.model.tiny import run, tiny, tiny_batch

KERNELS = r"encoder/.*kernel$"


@pytest.fixture(scope="module")
def params():
    return tiny()[1]


def brute(values: np.ndarray, keep: int) -> np.ndarray:
    """Take the largest, one at a time, the first of equal ones."""
    mask, left = np.zeros(len(values), bool), values.copy()
    for _ in range(keep):
        index = int(np.argmax(left))
        mask[index], left[index] = True, -1.0
    return mask


@pytest.mark.parametrize("sparsity", [0.0, 0.31, 0.9])
def test_masks_by_magnitude_equal_brute_force(params, sparsity: float):
    matrices = {path: leaf for path, leaf in flatten(params).items() if path.startswith("encoder") and leaf.ndim == 2}
    every = np.concatenate([np.abs(leaf).ravel() for leaf in matrices.values()])
    expected = brute(every, len(every) - int(sparsity * len(every)))
    found = flatten(magnitude_masks(params, KERNELS, sparsity))
    np.testing.assert_array_equal(np.concatenate([found[path].ravel() for path in matrices]), expected)
    assert sparsity_of(magnitude_masks(params, KERNELS, sparsity)) == pytest.approx(sparsity, abs=1e-3)
    alone, rows = (flatten(magnitude_masks(params, KERNELS, sparsity, scope)) for scope in ("matrix", "row"))
    for path, leaf in matrices.items():
        flat = np.abs(leaf).ravel()
        np.testing.assert_array_equal(alone[path].ravel(), brute(flat, flat.size - int(sparsity * flat.size)))
        for output in range(leaf.shape[1]):
            column = np.abs(leaf[:, output])
            np.testing.assert_array_equal(
                rows[path][:, output], brute(column, len(column) - int(sparsity * len(column)))
            )


def test_global_magnitude_is_that_of_torch(params):
    import torch

    matrices = {path: leaf for path, leaf in flatten(params).items() if path.startswith("encoder") and leaf.ndim == 2}
    layers = {path: torch.nn.Linear(*leaf.shape[::-1]) for path, leaf in matrices.items()}
    for path, layer in layers.items():
        layer.weight.data = torch.tensor(matrices[path])
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()], torch_prune.L1Unstructured, amount=0.4
    )
    kept = {path: dict(layer.named_buffers())["weight_mask"].numpy() for path, layer in layers.items()}
    found = flatten(magnitude_masks(params, KERNELS, 0.4))
    different = sum(int((found[path] != mask).sum()) for path, mask in kept.items())
    assert different <= 1  # they round the count to the nearest, we round down


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 4)])
def test_n_of_m_equals_brute_force(params, n: int, m: int):
    found = flatten(n_of_m_masks(params, r"attention/.*kernel$", n, m))
    for path, mask in found.items():
        leaf = np.abs(flatten(params)[path])
        for output in range(leaf.shape[1]):
            for start in range(0, leaf.shape[0], m):
                expected = brute(leaf[start : start + m, output], n)
                np.testing.assert_array_equal(mask[start : start + m, output], expected)


def test_of_equal_weights_the_first_stay():
    np.testing.assert_array_equal(largest(np.array([1.0, 1.0, 2.0, 1.0]), 0.5), [True, False, True, False])
    even = {"a": {"kernel": np.ones((4, 3), np.float32)}}
    np.testing.assert_array_equal(n_of_m_masks(even, "kernel", 2, 4)["a"]["kernel"][:, 0], [True, True, False, False])


def test_what_is_masked_gets_no_gradient_and_stays_zero(params):
    model, _ = tiny()
    masks = magnitude_masks(params, KERNELS, 0.5)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(run(model, apply_masks(p, masks), tiny_batch()).logits ** 2))(params)

    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
    for path, mask in flatten(masks).items():
        np.testing.assert_array_equal(np.asarray(flatten(gradient(params))[path])[~mask], 0)
        assert np.asarray(flatten(apply_masks(moved, masks))[path])[~mask].any() == np.False_
    again = nonzero_masks(apply_masks(params, masks), KERNELS)
    assert all(
        (again_leaf == leaf).all()
        for again_leaf, leaf in zip(flatten(again).values(), flatten(masks).values(), strict=True)
    )


def test_the_cubic_schedule_is_that_of_the_paper():
    at = cubic(10, 50, 0.8)
    expected = {0: 0.0, 10: 0.0, 20: 0.8 * (1 - 0.75**3), 30: 0.8 * (1 - 0.5**3), 50: 0.8, 90: 0.8}
    for step, value in expected.items():
        assert float(at(step)) == pytest.approx(value, abs=1e-6)
    assert float(jax.jit(at)(30)) == pytest.approx(expected[30], abs=1e-6)


def test_bad_masks_are_refused(params):
    with pytest.raises(UserError, match="fraction of zeros"):
        magnitude_masks(params, KERNELS, 1.0)
    with pytest.raises(UserError, match="no matrix has"):
        magnitude_masks(params, "kernal", 0.5)
    with pytest.raises(UserError, match="expected 1 to 4"):
        n_of_m_masks(params, KERNELS, 5, 4)
    with pytest.raises(UserError, match="no multiple of 4"):
        n_of_m_masks(params, r"ffn/output/kernel$", 2, 4)
    with pytest.raises(UserError, match="has to end later"):
        cubic(5, 5, 0.5)
