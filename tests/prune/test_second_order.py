"""The removal of heads and neurons against dense least squares, the pruned model against the corrected whole one."""

from typing import Any

import numpy as np
import pytest

from bertjax import UserError
from bertjax.model import LayerConfig, build
from bertjax.model.products import plain_product
from bertjax.params import flatten
from bertjax.prune import second_order
from bertjax.prune.second_order import (
    calibration_loss,
    eliminate,
    input_products,
    removal_curve,
    removal_curves,
    remove,
    with_corrected,
)
from tests.model.tiny import apply, run, tiny, tiny_batch

HEADS, NEURONS, WIDTH = 3, 10, 4
INPUTS, OUTPUTS = 12, 5
MODEL, PARAMS = tiny(num_hidden_layers=3)
SHARED = tiny(
    num_hidden_layers=3,
    layers=(
        LayerConfig(HEADS, NEURONS, attention=0, ffn=0),
        LayerConfig(HEADS, NEURONS, attention=0, ffn=1, attention_norm=1),
        LayerConfig(HEADS, NEURONS, attention=2, ffn=1, ffn_norm=2),
    ),
)


def batch(lengths: tuple[int, ...], columns: int, seed: int) -> dict[str, Any]:
    """With a filler row at the end, and arbitrary ids in the padding."""
    rows = tiny_batch((*lengths, columns), columns, seed)
    rows["input_ids"][rows["attention_mask"] == 0] = 41
    return {**rows, "weights": np.array([1.0] * len(lengths) + [0.0], np.float32)}


BATCHES = [batch((7, 4, 4), 7, 0), batch((4, 7), 8, 1)]


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    """The toys are eliminated in more than one batch too."""
    monkeypatch.setattr(second_order, "BATCH", 5)


def toy(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated inputs [tokens, 12] and a kernel [12, 5]."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(INPUTS, INPUTS)) * rng.uniform(0.1, 2.0, INPUTS)
    return rng.normal(size=(40, INPUTS)) @ mixing, rng.normal(size=(INPUTS, OUTPUTS))


def damped_inputs(x: np.ndarray, damping: float) -> np.ndarray:
    """Damping as one more token for each input."""
    return np.vstack([x, np.sqrt(damping * np.square(x).sum() / INPUTS) * np.eye(INPUTS)])


def least_squares(x: np.ndarray, kernel: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The kernel nearest in output whose other rows are 0."""
    found = np.zeros_like(kernel)
    found[rows] = np.linalg.lstsq(x[:, rows], x @ kernel)[0]
    return found


def rows_without(structures: list[int], count: int) -> np.ndarray:
    size = INPUTS // count
    return np.flatnonzero(~np.isin(np.arange(INPUTS) // size, structures))


@pytest.mark.parametrize("count", [12, 4, 3])
@pytest.mark.parametrize("damping", [1e-4, 0.3])
def test_cost_order_and_correction_are_those_of_dense_least_squares(count: int, damping: float):
    x, kernel = toy()
    curve = removal_curve(kernel, x.T @ x, count, damping)
    seen, removed = damped_inputs(x, damping), list[int]()
    output = np.linalg.norm(seen @ kernel)
    for left in range(count - 1, -1, -1):
        fits = {
            one: least_squares(seen, kernel, rows_without([*removed, one], count))
            for one in set(range(count)) - set(removed)
        }
        errors = {one: np.linalg.norm(seen @ (fit - kernel)) / output for one, fit in fits.items()}
        removed.append(min(errors, key=lambda one: errors[one]))
        assert curve.order[len(removed) - 1] == removed[-1]
        np.testing.assert_allclose(curve.errors[left], errors[removed[-1]], rtol=1e-9)
        np.testing.assert_allclose(curve.corrected(left), fits[removed[-1]], rtol=0, atol=1e-9)
        assert curve.kept(left) == sorted(set(range(count)) - set(removed))
    assert curve.errors[0] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("count", "steps"), [(12, 5), (4, 2)])
def test_what_is_eliminated_leaves_the_inverse_and_the_kernel_of_the_rest(count: int, steps: int):
    x, kernel = toy(1)
    hessian = x.T @ x
    table, chosen, _ = eliminate(np.hstack([np.linalg.inv(hessian), kernel]), INPUTS // count, steps)
    rows = rows_without(chosen, count)
    np.testing.assert_allclose(table[:, : len(rows)], np.linalg.inv(hessian[np.ix_(rows, rows)]), rtol=0, atol=1e-10)
    np.testing.assert_allclose(table[:, len(rows) :], least_squares(x, kernel, rows)[rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [12, 3])
def test_the_curve_is_the_output_error_of_the_kernel_that_ships_and_correction_lowers_it(count: int):
    x, kernel = toy(2)
    curve, slight = (removal_curve(kernel, x.T @ x, count, damping) for damping in (1e-4, 1e-10))
    assert curve.errors[-1] == 0.0
    assert (np.diff(curve.errors) < 0).all()
    np.testing.assert_array_equal(curve.corrected(count), kernel)

    def error(given: np.ndarray) -> float:
        return float(np.linalg.norm(x @ (given - kernel)) / np.linalg.norm(x @ kernel))

    for left in range(count):
        assert error(slight.corrected(left)) == pytest.approx(slight.errors[left], rel=1e-6)
        assert error(curve.corrected(left)) == pytest.approx(curve.errors[left], rel=0.02)
        uncorrected = kernel.copy()
        uncorrected[rows_without(curve.order[: count - left].tolist(), count)] = 0
        uncorrected = kernel - uncorrected
        assert left == 0 or error(curve.corrected(left)) < error(uncorrected)


def test_two_neurons_that_compute_the_same_do_not_both_go():
    """Each alone is the cheapest to remove, and both together are not."""
    x, kernel = toy(3)
    x[:, 7] = x[:, 2] + 1e-3 * x[:, 7]
    order = removal_curve(kernel, x.T @ x, 12, 1e-6).order.tolist()
    assert order[0] in (2, 7)
    assert order[1] not in (2, 7)


def test_inputs_and_kernels_of_zeros_have_curves():
    x, kernel = toy()
    for given, inputs in ((np.zeros_like(kernel), x), (kernel, np.zeros_like(x))):
        curve = removal_curve(given, inputs.T @ inputs, 12)
        assert np.isfinite(curve.errors).all()
        assert sorted(curve.order) == list(range(12))


@pytest.mark.slow
@pytest.mark.parametrize("given", [(MODEL, PARAMS), SHARED], ids=["own", "shared"])
def test_products_are_sums_over_real_tokens_of_all_steps_of_a_group(given: Any):
    model, params = given
    found = input_products(model, params, BATCHES)
    expected: dict[Any, Any] = {}
    for one in BATCHES:
        for row in range(len(one["weights"]) - 1):
            length = int(one["attention_mask"][row].sum())

            def product(site: str, subscripts: str, left: Any, right: Any) -> Any:
                step, _, rest = site.partition("/")
                for part, owner in (("heads", "attention"), ("neurons", "ffn")):
                    if rest == f"{owner}/output":
                        group = getattr(model.config.depth_steps()[int(step.split("_")[1])], owner)
                        for token in np.asarray(left, np.float64)[0]:
                            expected[part, group] = expected.get((part, group), 0.0) + np.outer(token, token)
                return plain_product(site, subscripts, left, right)

            inputs = {n: one[n][row : row + 1, :length] for n in ("input_ids", "attention_mask", "token_type_ids")}
            run(type(model)(model.config, product), params, inputs)
    assert {(part, group) for part, sums in found.items() for group in sums} == expected.keys()
    for (part, group), one in expected.items():
        np.testing.assert_allclose(found[part][group], one, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="no batches"):
        input_products(model, params, [])


def check_removed(given: Any, sizes: Any) -> Any:
    """The removed model against the whole one with corrected kernels. Nothing but these kernels differs."""
    model, params = given
    curves = removal_curves(model.config, params, input_products(model, params, BATCHES))
    config, smaller = remove(model.config, params, sizes, curves)
    masked = with_corrected(params, sizes, curves)
    ours, theirs = (apply(build(config), smaller, tiny_batch()), apply(model, masked, tiny_batch()))
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=1e-5)
    for step in config.depth_steps():
        assert step.num_attention_heads == sizes["heads"].get(step.attention, HEADS)
        assert step.intermediate_size == sizes["neurons"].get(step.ffn, NEURONS)
    changed, before = flatten(masked), flatten(params)
    assert {path for path in before if (np.asarray(changed[path]) != np.asarray(before[path])).any()} == {
        f"encoder/layer_{group}/{owner}/output/kernel"
        for part, owner, whole in (("heads", "attention", HEADS), ("neurons", "ffn", NEURONS))
        for group, count in sizes[part].items()
        if count < whole
    }
    assert all(leaf.dtype == np.float32 for leaf in flatten(smaller).values())
    return config, smaller


@pytest.mark.slow
def test_the_removed_model_computes_what_the_corrected_whole_one_does():
    check_removed((MODEL, PARAMS), {"heads": {0: 2, 1: 3, 2: 1}, "neurons": {0: 4, 2: 7}})
    check_removed(SHARED, {"heads": {0: 1, 2: 2}, "neurons": {1: 5}})


@pytest.mark.slow
def test_whole_sublayers_are_removed_and_have_no_products_afterwards():
    sizes: Any = {"heads": {0: 0, 1: 3, 2: 0}, "neurons": {0: 4, 2: 0}}
    config, smaller = check_removed((MODEL, PARAMS), sizes)
    products = input_products(build(config), smaller, BATCHES)
    assert {part: sorted(one) for part, one in products.items()} == {"heads": [1], "neurons": [0, 1]}


@pytest.mark.slow
def test_the_calibration_loss_is_the_mean_over_all_examples():
    def loss(output: Any, given: Any) -> Any:
        values = output.logits[:, 0] * given["weights"]
        return values.sum(), given["weights"].sum()

    logits = [np.asarray(apply(MODEL, PARAMS, {n: a for n, a in b.items() if n != "weights"}).logits) for b in BATCHES]
    expected = np.concatenate([one[:-1, 0] for one in logits]).mean()
    assert calibration_loss(MODEL, BATCHES, loss)(PARAMS) == pytest.approx(expected, abs=1e-5)
