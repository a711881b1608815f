"""Masks against brute force, the schedule against its table, and zeros that stay zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from torch.nn.utils import prune as torch_prune

from bertjax import UserError
from bertjax.params import flatten, unflatten
from bertjax.prune.masks import (
    apply_masks,
    cubic,
    gradual_magnitude,
    magnitude_masks,
    n_of_m_masks,
    nonzero_masks,
    sparsity_of,
    top_k_mask,
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
    rows = jnp.asarray([[1, 1, 2, 1], [0, 0, 0, 0], [3, 0, 0, 9]])
    np.testing.assert_array_equal(
        top_k_mask(rows, 2), [[True, False, True, False], [True, True, False, False], [1, 0, 0, 1]]
    )
    even = {"a": {"kernel": np.ones((4, 3), np.float32)}}
    np.testing.assert_array_equal(n_of_m_masks(even, "kernel", 2, 4)["a"]["kernel"][:, 0], [True, True, False, False])


def test_many_equal_weights_lose_exactly_the_asked_number():
    rng = np.random.default_rng(0)
    coarse = {"a": {"kernel": rng.integers(-3, 4, (60, 50)).astype(np.float32)}, "b": {"kernel": np.zeros((40, 8))}}
    every = np.abs(np.concatenate([coarse[name]["kernel"].ravel() for name in "ab"]))
    for sparsity in (0.0, 0.37, 0.7, 0.999):
        found = magnitude_masks(coarse, "kernel", sparsity)
        flat = np.concatenate([found[name]["kernel"].ravel() for name in "ab"])
        np.testing.assert_array_equal(flat, brute(every, every.size - int(sparsity * every.size)))


def compared(matrices: dict[str, np.ndarray], scope: Any) -> list[np.ndarray]:
    """Which places of all matrices behind each other are compared with each other."""
    ends = np.cumsum([leaf.size for leaf in matrices.values()])
    places = [np.arange(end - m.size, end).reshape(m.shape) for end, m in zip(ends, matrices.values(), strict=True)]
    if scope == "global":
        return [np.arange(ends[-1])]
    if scope == "matrix":
        return [one.ravel() for one in places]
    members = [len(one) if scope == "row" else scope for one in places]
    return [part for one, m in zip(places, members, strict=True) for part in one.T.reshape(-1, m)]


@pytest.mark.parametrize(("scope", "final"), [("global", 0.7), ("matrix", 0.7), ("row", 0.6), (2, 0.5)])
def test_weights_go_by_the_schedule_and_never_return(params, scope: Any, final: float):
    """Against a loop that hides the smallest of what is left, while all weights move at random."""
    steps, rng = 7, np.random.default_rng(0)
    update = jax.jit(gradual_magnitude(scope, final, steps))
    masks = magnitude_masks(params, KERNELS, 0.0)
    moved = {path: leaf for path, leaf in flatten(params).items() if path in flatten(masks)}
    groups, expected = compared(moved, scope), np.ones(sum(leaf.size for leaf in moved.values()), bool)
    for step in range(10):
        moved = {p: (x + 0.02 * rng.standard_normal(x.shape)).astype(np.float32) for p, x in moved.items()}
        masks = update(masks, unflatten(moved), step)
        share = final * (1 - (1 - step / steps) ** 3) if step < steps else final
        sizes = np.concatenate([np.abs(leaf).ravel() for leaf in moved.values()])
        sizes[~expected] = -0.5
        if step <= steps:
            for group in groups:
                expected[group] = brute(sizes[group], len(group) - int(share * len(group)))
        np.testing.assert_array_equal(np.concatenate([m.ravel() for m in flatten(masks).values()]), expected)
        assert not (expected & (sizes < 0)).any()
    assert (~expected).sum() == sum(int(final * len(group)) for group in groups)
    again = update(masks, unflatten(moved), steps)  # as for a second micro-batch
    jax.tree.map(np.testing.assert_array_equal, again, masks)


@pytest.mark.parametrize("steps", [0, 1, 99, 101, 250])
def test_a_run_of_any_length_ends_at_the_asked_sparsity(steps: int):
    matrix = {"kernel": np.random.default_rng(0).standard_normal((10, 100)).astype(np.float32)}
    masks, update, changes = (
        magnitude_masks(matrix, "kernel", 0.0),
        jax.jit(gradual_magnitude("global", 0.7, steps)),
        0,
    )
    for step in range(steps + 3):
        before, masks = masks, update(masks, matrix, step)
        changes += bool((before["kernel"] != masks["kernel"]).any())
    assert (~np.asarray(masks["kernel"])).sum() == 700
    assert changes <= 100


@pytest.mark.parametrize("scope", ["global", "row"])
def test_masks_are_the_same_however_parameters_are_divided(scope: Any):
    rng = np.random.default_rng(0)
    params = {"a": {"kernel": rng.integers(-9, 9, (32, 24)).astype(np.float32)}, "b": {"kernel": np.ones((16, 8))}}
    whole, update = magnitude_masks(params, "kernel", 0.0), jax.jit(gradual_magnitude(scope, 0.7, 2))
    place = NamedSharding(jax.make_mesh((8,), ("parameters",)), PartitionSpec("parameters"))
    divided = update(jax.device_put(whole, place), jax.device_put(params, place), 2)
    jax.tree.map(np.testing.assert_array_equal, divided, update(whole, params, 2))


def test_what_is_masked_gets_no_gradient_and_stays_zero(params):
    model, _ = tiny()
    masks = magnitude_masks(params, KERNELS, 0.5)

    def loss(params):
        return jnp.sum(run(model, apply_masks(params, masks), tiny_batch()).logits ** 2)

    gradient, loss = jax.jit(jax.grad(loss)), jax.jit(loss)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params))
    for path, mask in flatten(masks).items():
        np.testing.assert_array_equal(np.asarray(flatten(gradient(params))[path])[~mask], 0)
        assert np.asarray(flatten(apply_masks(moved, masks))[path])[~mask].any() == np.False_
    path = "encoder/layer_0/ffn/output/kernel"
    kept = tuple(np.argwhere(flatten(masks)[path])[0])
    for place in (kept, tuple(np.argwhere(~flatten(masks)[path])[0])):  # by a central difference, too
        ends = []
        for change in (1e-2, -1e-2):
            flat = flatten(params)
            flat[path] = np.array(flat[path])
            flat[path][place] += change
            ends.append(float(loss(unflatten(flat))))
        slope = (ends[0] - ends[1]) / 2e-2
        assert float(flatten(gradient(params))[path][place]) == pytest.approx(slope, rel=2e-2, abs=1e-4)
        assert (slope == 0) == (place != kept)
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
    with pytest.raises(UserError, match="matches the path of no matrix"):
        magnitude_masks(params, "kernal", 0.5)
    with pytest.raises(UserError, match="expected 1 to 4"):
        n_of_m_masks(params, KERNELS, 5, 4)
    with pytest.raises(UserError, match="not a multiple of 4"):
        n_of_m_masks(params, r"ffn/output/kernel$", 2, 4)
    with pytest.raises(UserError, match="must end later"):
        cubic(5, 5, 0.5)
