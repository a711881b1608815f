"""Movement pruning against torch's autograd, closed forms and NumPy masks."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from bertjax.distill.terms import HardLabels
from bertjax.engine.compiled_step import build_program
from bertjax.engine.sharding import put_batch
from bertjax.errors import UserError
from bertjax.learn.assemble import assemble, loss_names
from bertjax.learn.transform import Update
from bertjax.params import flatten, unflatten
from bertjax.prune import Movement
from bertjax.prune.masks import kept_count, sparsity_of, top_masks
from bertjax.prune.movement import FLOOR, above, masked_product
from bertjax.recipes.sharding import Sharding
from bertjax.recipes.training import Training
from tests.learn.test_composition import batch, models
from tests.model.tiny import TINY
from tests.tolerances import SAME_MATHS

PATHS = ("encoder/layer_0/ffn/output/kernel", "encoder/layer_1/attention/query/kernel")


def params(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {PATHS[0]: (8, 6), PATHS[1]: (6, 6), "embeddings/word/embedding": (10, 6), "classifier/bias": (2,)}
    return unflatten({path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()})


class MaskedLinear(torch.autograd.Function):
    """The binariser of the published code: ones where the score is among the highest, and the identity backwards."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def test_both_gradients_of_a_masked_product_are_torchs():
    rng = np.random.default_rng(0)
    x, weights, scores, target = (rng.normal(size=s).astype(np.float32) for s in ((5, 8), (8, 6), (8, 6), (5, 6)))
    mask = scores > np.quantile(scores, 0.7)

    def loss(weights: Any, scores: Any) -> Any:
        return jnp.sum(jnp.square(x @ masked_product(weights, scores, jnp.asarray(mask)) - target))

    ours = jax.grad(loss, (0, 1))(jnp.asarray(weights), jnp.asarray(scores))
    w, s = (torch.tensor(array, requires_grad=True) for array in (weights, scores))
    kept = MaskedLinear.apply(s, torch.tensor(mask.astype(np.float32)))
    ((torch.tensor(x) @ (w * kept) - torch.tensor(target)) ** 2).sum().backward()
    for found, expected in zip(ours, (w.grad, s.grad), strict=True):
        assert expected is not None
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert not np.asarray(ours[0])[~mask].any()
    assert np.asarray(ours[1])[~mask].all()
    assert not np.asarray(masked_product(jnp.asarray(weights), jnp.asarray(scores), jnp.asarray(mask)))[~mask].any()


def test_a_score_accumulates_minus_weight_times_gradient():
    """Descent on |W * M - T|^2 with fixed weights: S_n = -rate * sum of W * 2 (W M_t - T), M_t from the scores."""
    rng = np.random.default_rng(1)
    weights, target = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    given, scores, expected = jnp.asarray(weights), jnp.zeros((6, 6)), np.zeros((6, 6))
    came_back = np.zeros((6, 6), bool)
    before = np.ones((6, 6), bool)
    for _ in range(30):
        mask = np.asarray(top_masks({"": scores}, lambda n: n - int(0.5 * n), False)[""])
        came_back |= mask & ~before
        before = mask
        kept = jnp.asarray(mask)
        gradient = jax.grad(lambda s, m=kept: jnp.sum((masked_product(given, s, m) - target) ** 2))(scores)
        expected -= 0.05 * weights * 2 * (weights * mask - target)
        scores = scores - 0.05 * gradient
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert came_back.any()


def numpy_top(values: np.ndarray, kept: int) -> np.ndarray:
    """The largest, and of equal ones the first."""
    order = np.argsort(-values.ravel(), kind="stable")
    mask = np.zeros(values.size, bool)
    mask[order[:kept]] = True
    return mask.reshape(values.shape)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("values", ["any", "ties", "zeros", "negative"])
def test_masks_are_those_of_a_sort_with_ties_by_position(values: str, together: bool):
    rng = np.random.default_rng(2)
    make = {
        "any": lambda s: rng.normal(size=s),
        "ties": lambda s: rng.integers(-2, 3, s) / 2,
        "zeros": lambda s: np.zeros(s) * rng.choice([-1, 1], s),
        "negative": lambda s: -np.abs(rng.normal(size=s)) * 10.0 ** rng.integers(-30, 30, s),
    }[values]
    arrays = {"a": make((8, 6)).astype(np.float32), "b": make((5, 7)).astype(np.float32)}
    found = top_masks({k: jnp.asarray(v) for k, v in arrays.items()}, lambda n: n - int(0.7 * n), together)
    if together:
        row = np.concatenate([a.ravel() for a in arrays.values()])
        split = np.split(numpy_top(row, row.size - int(0.7 * row.size)), [48])
        expected = {k: part.reshape(arrays[k].shape) for k, part in zip(arrays, split, strict=True)}
    else:
        expected = {k: numpy_top(a, a.size - int(0.7 * a.size)) for k, a in arrays.items()}
    for name in arrays:
        np.testing.assert_array_equal(found[name], expected[name])


def update(step: Any, total: int = 100) -> Update:
    return Update(jnp.int32(step), jax.random.key(0), total, None)


def test_the_schedule_is_cubic_between_its_corners():
    one = Movement(sparsity=0.9, begin=0.1, end=0.6)
    found = [float(one.progress(update(step))) for step in (0, 10, 11, 35, 59, 60, 99)]
    expected = [0, 0, *(1 - (1 - (step - 10) / 50) ** 3 for step in (11, 35, 59)), 1, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    for n in (10, 1000, 999_999):
        share = jnp.float32(0.7) * one.progress(update(60))
        assert int(kept_count(n, share, 0.7)) == n - int(0.7 * n)
        assert int(kept_count(n, jnp.float32(0), 0.7)) == n


@pytest.mark.parametrize(("method", "scope"), [("hard", "matrix"), ("hard", "global"), ("magnitude", "global")])
def test_at_the_end_just_so_many_weights_are_zero(method: Any, scope: Any):
    one, given = Movement(sparsity=0.75, method=method, scope=scope), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    assert extra == {} if method == "magnitude" else not any(np.any(s) for s in flatten(extra).values())
    scores = {p: jnp.asarray(np.random.default_rng(5).normal(size=m.shape)) for p, m in flatten(state["masks"]).items()}
    extra = {} if method == "magnitude" else unflatten(scores)
    assert sparsity_of(one.advance(update(0), given, extra, state)["masks"]) == 0
    masks = flatten(one.advance(update(99), given, extra, state)["masks"])
    assert set(masks) == set(PATHS)
    left = {path: int(mask.sum()) for path, mask in masks.items()}
    assert sum(left.values()) == (84 - 63 if scope == "global" else (48 - 36) + (36 - 27))
    shipped = flatten(one.finish(TINY, given, extra, {"masks": unflatten(masks)})[1])
    for path, mask in masks.items():
        np.testing.assert_array_equal(shipped[path] == 0, ~np.asarray(mask))
    np.testing.assert_array_equal(shipped["classifier/bias"], flatten(given)["classifier/bias"])


def test_without_sparsity_it_is_plain_training_with_frozen_embeddings():
    one, given = Movement(sparsity=0.0), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    after, _ = one.apply(update(99), given, extra, one.advance(update(99), given, extra, state))
    jax.tree.map(np.testing.assert_array_equal, after, given)
    assert one.frozen(TINY) == ("^embeddings/",)
    assert Movement(freeze_embeddings=False).frozen(TINY) == ()


def test_soft_movement_keeps_scores_above_the_threshold_and_never_nothing():
    scores = jnp.asarray(np.random.default_rng(3).normal(size=(40, 50)) * 4)
    kept = np.asarray(above(scores, np.log(0.1 / 0.9)))
    np.testing.assert_array_equal(kept, 1 / (1 + np.exp(-np.asarray(scores, np.float64))) > 0.1)
    least = int(FLOOR * 2000) + 1
    np.testing.assert_array_equal(above(scores - 100, np.log(0.1 / 0.9)), numpy_top(np.asarray(scores - 100), least))


def test_the_penalty_of_soft_movement_is_the_mean_of_means_and_grows_with_the_threshold():
    one, given = Movement(method="soft", penalty=40.0), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    assert set(state) == {"masks"}
    extra = jax.tree.map(lambda s: s + 0.5, extra)
    extra["encoder"]["layer_0"]["ffn"]["output"]["kernel"] += 1.0
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = 40.0 * float(one.progress(update(30))) * (sigmoid(1.5) + sigmoid(0.5)) / 2
    np.testing.assert_allclose(one.penalties(update(30), given, extra, state)["sparsity"], expected, rtol=1e-5)
    assert Movement().penalties(update(30), given, extra, state) == {}


def test_with_a_given_penalty_the_sigmoid_of_a_score_is_held_against_the_published_threshold():
    one, given = Movement(method="soft", penalty=40.0), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    rng = np.random.default_rng(8)
    scores = {path: rng.normal(-3, 2, leaf.shape).astype(np.float32) for path, leaf in flatten(extra).items()}
    masks = flatten(one.advance(update(30), given, jax.tree.map(jnp.asarray, unflatten(scores)), state)["masks"])
    threshold = 0.1 * (1 - (1 - (30 - 10) / (70 - 10)) ** 3)
    for path, values in scores.items():
        np.testing.assert_array_equal(masks[path], 1 / (1 + np.exp(-values.astype(np.float64))) > threshold)


CURVED = {PATHS[0]: (32, 24), PATHS[1]: (24, 24)}


def trained(one: Movement, steps: int, scale: float = 1.0) -> tuple[Any, Any, float]:
    """Scores, state and loss of a run on sum of h/2 (w - t)^2, with curvatures h over four decades and noise in the
    gradient, by Adam with a clipped norm and rates that decay to 0."""
    rng = np.random.default_rng(0)
    sizes = CURVED.items()
    begin = {path: jnp.asarray(rng.normal(0, 0.05, size), jnp.float32) for path, size in sizes}
    targets = {path: begin[path] + rng.normal(0, 0.02, size).astype(np.float32) for path, size in sizes}
    curved = {path: jnp.asarray(scale * 10 ** rng.uniform(-2, 2, size), jnp.float32) for path, size in sizes}
    extra, state = one.init(jax.random.key(0), TINY, unflatten(begin))
    adam = lambda rate: optax.adam(optax.linear_schedule(rate, 0.0, steps))  # noqa: E731
    split = optax.partition({"params": adam(1e-3), "extra": adam(1e-2)}, {"params": "params", "extra": "extra"})
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), split)

    def loss(both: Any, now: Update, state: Any) -> tuple[Any, Any]:
        flat = flatten(one.apply(now, both["params"], both["extra"], state)[0])
        task = sum(jnp.sum(curved[path] / 2 * (flat[path] - targets[path]) ** 2) for path in CURVED)
        draw = lambda path, key: jax.random.normal(key, CURVED[path]) * jnp.sqrt(scale * curved[path])  # noqa: E731
        keys = jax.random.split(now.key, len(CURVED))
        noise = sum(jnp.sum(0.05 * draw(path, key) * flat[path]) for path, key in zip(CURVED, keys, strict=True))
        return task + noise + sum(one.penalties(now, both["params"], both["extra"], state).values()), task

    def step(carry: Any, number: Any) -> Any:
        both, opt, state = carry
        now = Update(number, jax.random.fold_in(jax.random.key(1), number), steps, None)
        state = one.advance(now, both["params"], both["extra"], state)
        gradient, task = jax.grad(loss, has_aux=True)(both, now, state)
        changes, opt = optimiser.update(gradient, opt, both)
        return (optax.apply_updates(both, changes), opt, state), task

    both = {"params": unflatten(begin), "extra": extra}
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps)))
    (both, _, state), tasks = run((both, optimiser.init(both), state))
    return both["extra"], state, float(tasks[-1])


def zeros(one: Movement, extra: Any, state: Any) -> float:
    """The fraction of zeros in what ships."""
    ones = unflatten({path: np.ones(size, np.float32) for path, size in CURVED.items()})
    shipped = flatten(one.finish(TINY, ones, extra, state)[1])
    return float(np.mean(np.concatenate([np.ravel(shipped[path]) == 0 for path in CURVED])))


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("steps", [300, 1200])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9])
def test_soft_movement_ends_with_the_sparsity_that_was_asked(sparsity: float, steps: int, every: int):
    one = Movement(method="soft", sparsity=sparsity, every=every)
    extra, state, _ = trained(one, steps)
    assert zeros(one, extra, state) == pytest.approx(sparsity, abs=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_soft_movement_keeps_what_the_loss_needs_whatever_its_scale(scale: float):
    """In a short run, in which hard movement does not."""
    soft, hard = (Movement(sparsity=0.9, method=method, every=10) for method in ("soft", "hard"))
    ours, theirs = (trained(one, 300, scale)[2] for one in (soft, hard))
    assert ours < theirs / 2


def test_the_real_step_ends_with_the_sparsity_that_was_asked():
    """A tiny BERT on random labels."""
    one, steps = Movement(method="soft", sparsity=0.8, every=10), 300
    learnt = assemble(models()[0], loss_names((HardLabels(),)), steps=steps, seed=0, transforms=(one,))
    program = build_program(Training(steps=steps, batch_size=16, sharding=Sharding(1, 1)), steps, learnt)
    state, batches = program.start(learnt.params, learnt.extra, learnt.state), [batch(number) for number in range(4)]
    for number in range(steps):
        state, _ = program.step(state, put_batch(batches[number % 4], program.mesh), learnt.constants)
    assert learnt.finish is not None
    shipped = flatten(learnt.finish(*jax.device_get((state.params, state.extra, state.state)))[1])
    layers = [np.ravel(leaf) == 0 for path, leaf in shipped.items() if re.search(one.pattern, path)]
    assert np.mean(np.concatenate(layers)) == pytest.approx(0.8, abs=0.01)


def test_the_penalty_leads_the_threshold_to_the_published_one():
    """Scores that descend on the penalty alone, against a pull of their own."""
    one, given = Movement(method="soft", sparsity=0.8, begin=0.0, end=0.5), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    rng = np.random.default_rng(4)
    pull = jax.tree.map(lambda s: jnp.asarray(rng.exponential(size=s.shape) * 0.02), extra)

    @jax.jit
    def step(number: Any, extra: Any, state: Any) -> Any:
        now = Update(number, jax.random.key(0), 4000, None)
        state = one.advance(now, given, extra, state)
        slope = jax.grad(lambda e: one.penalties(now, given, e, state)["sparsity"])(extra)
        return jax.tree.map(lambda s, g, p: s - 1.0 * g + p * (0.5 - jax.nn.sigmoid(s)), extra, slope, pull), state

    for number in range(4000):
        extra, state = step(number, extra, state)
    assert int(sum(mask.sum() for mask in flatten(state["masks"]).values())) == 17  # of 84
    assert float(jax.nn.sigmoid(state["threshold"])) == pytest.approx(0.1, abs=0.03)


def test_the_weight_of_the_penalty_grows_with_what_the_threshold_lags_and_stays_finite():
    """Half of 60 updates of pruning have passed; the way is a quarter of 60 * 0.01, so 0.075 of it are due."""
    one, extra = Movement(method="soft"), {"a": jnp.zeros((8, 8)), "b": jnp.zeros((12, 3))}
    weight = lambda threshold: float(one.weight(update(40), extra, jnp.float32(threshold)))  # noqa: E731
    assert weight(-0.075) == pytest.approx(10)  # of 100 scores
    assert weight(-0.060) == pytest.approx(10 * np.exp(20 * 0.015 / 0.15), rel=1e-4)
    assert weight(-0.090) == pytest.approx(10 * np.exp(-20 * 0.015 / 0.15), rel=1e-4)
    assert weight(5) == pytest.approx(10 * np.exp(20), rel=1e-4)


def test_a_weight_whose_score_rises_comes_back_and_another_goes():
    one, given = Movement(method="soft", sparsity=0.75), params()
    extra, state = one.init(jax.random.key(0), TINY, given)
    rng = np.random.default_rng(9)
    fallen = {path: rng.normal(-40, 3, leaf.shape).astype(np.float32) for path, leaf in flatten(extra).items()}
    lowest = np.unravel_index(fallen[PATHS[0]].argmin(), (8, 6))

    def masks() -> dict[str, np.ndarray]:
        scores = jax.tree.map(jnp.asarray, unflatten(fallen))
        return {
            path: np.asarray(m) for path, m in flatten(one.advance(update(99), given, scores, state)["masks"]).items()
        }

    before = masks()
    fallen[PATHS[0]][lowest] = -20.0
    after = masks()
    assert (before[PATHS[0]][lowest], after[PATHS[0]][lowest]) == (False, True)
    assert sum(int(mask.sum()) for mask in before.values()) == sum(int(mask.sum()) for mask in after.values()) == 21


def test_masks_are_computed_as_often_as_was_asked():
    one, given = Movement(sparsity=0.5, method="magnitude", every=10, begin=0.0, end=0.95), params()
    _, state = one.init(jax.random.key(0), TINY, given)
    counts = []
    for step in range(100):
        state = one.advance(update(step), given, {}, state)
        counts.append(sparsity_of(state["masks"]))
    changes = [step for step in range(1, 100) if counts[step] != counts[step - 1]]
    assert all(step % 10 == 0 or step in (95, 99) for step in changes)
    assert counts[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "fraction of zeros"),
        ({"begin": 0.5, "end": 0.5}, "begin < end"),
        ({"every": 0}, "1 or more"),
        ({"method": "soft", "threshold": 0.5}, "between 0 and 0.5"),
        ({"score_learning_rate": 0.0}, "positive"),
        ({"method": "soft", "scope": "global"}, "leave scope out"),
    ],
)
def test_impossible_settings_are_refused(settings: Any, message: str):
    with pytest.raises(UserError, match=message):
        Movement(**settings)


def test_the_value_is_exact_where_the_mask_is_one():
    rng = np.random.default_rng(6)
    weights, scores = (jnp.asarray(rng.normal(size=(4, 4)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(masked_product(weights, scores, jnp.ones((4, 4), bool)), weights, **SAME_MATHS)


@pytest.mark.parametrize(("total", "end"), [(4, 1.0), (20, 1.0), (1, 0.7), (3, 0.2)])
def test_the_last_update_of_a_short_run_has_the_sparsity_that_was_asked(total: int, end: float):
    one, given = Movement(sparsity=0.75, method="magnitude", begin=0.0, end=end), params()
    _, state = one.init(jax.random.key(0), TINY, given)
    masks = flatten(one.advance(update(total - 1, total), given, {}, state)["masks"])
    assert sum(int(mask.sum()) for mask in masks.values()) == (48 - 36) + (36 - 27)


def test_masks_that_are_not_due_are_not_computed():
    given = params()

    def loops(every: int) -> int:
        """While loops of the program that are outside of a branch."""
        one = Movement(method="magnitude", every=every)
        _, state = one.init(jax.random.key(0), TINY, given)
        jaxpr = jax.make_jaxpr(lambda step: one.advance(update(step), given, {}, state))(3).jaxpr
        return sum(str(equation.primitive) in ("while", "pjit", "jit") for equation in jaxpr.eqns)

    assert loops(10) < loops(1)
