"""The optimiser: what decays, what is frozen, and when the learning rate is what."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.engine.optimiser import build_optimiser, clip_by_global_norm, learning_rate_schedule, shipped_params
from bertjax.errors import UserError
from bertjax.learn.phases import Phases
from bertjax.params import flatten, unflatten
from bertjax.recipes.optimiser import Optimiser

TREE = {
    "params": {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "b": {"kernel": jnp.ones((2, 2))}},
    "extra": {"projection": {"kernel": jnp.ones((2, 2))}},
}
NONE = jax.tree.map(jnp.zeros_like, TREE)


def update(optimiser: Optimiser, gradient: dict, steps: int = 10) -> Any:
    tx = build_optimiser(optimiser, steps, TREE)
    return tx.update(gradient, tx.init(TREE), TREE)[0]


def test_only_kernels_that_ship_decay():
    moved = update(Optimiser(learning_rate=0.1, warmup=0, weight_decay=0.5), NONE)
    np.testing.assert_allclose(moved["params"]["a"]["kernel"], -0.1 * 0.5)
    np.testing.assert_allclose(moved["params"]["a"]["bias"], 0)
    np.testing.assert_allclose(moved["extra"]["projection"]["kernel"], 0)


@pytest.mark.parametrize(
    ("rules", "multipliers"),
    [
        ((), {"params/a/kernel": 1, "params/a/bias": 0, "params/b/kernel": 1, "extra/projection/kernel": 0}),
        (
            (("^extra/", 1.0), ("^params/a/", 0.25)),
            {"params/a/kernel": 0.25, "params/a/bias": 0.25, "params/b/kernel": 1, "extra/projection/kernel": 1},
        ),
        (
            (("/a/kernel", 0.0), (".*", 2.0)),
            {"params/a/kernel": 0, "params/a/bias": 2, "params/b/kernel": 2, "extra/projection/kernel": 2},
        ),
    ],
)
def test_decay_follows_rules_as_in_a_numpy_adamw(rules: tuple, multipliers: dict[str, float]):
    """One step of AdamW (Loshchilov & Hutter 2019, algorithm 2), array by array."""
    recipe = Optimiser(learning_rate=0.1, warmup=0, decay="constant", weight_decay=0.3, clip=1e9, decay_rules=rules)
    given = {path: np.sin(1 + np.arange(leaf.size)).reshape(leaf.shape) for path, leaf in flatten(TREE).items()}
    moved = flatten(update(recipe, unflatten({path: jnp.asarray(g, jnp.float32) for path, g in given.items()})))
    assert moved.keys() == multipliers.keys()
    for path, gradient in given.items():
        first, second = (1 - recipe.b1) * gradient, (1 - recipe.b2) * gradient**2
        adam = (first / (1 - recipe.b1)) / (np.sqrt(second / (1 - recipe.b2)) + recipe.epsilon)
        expected = -0.1 * (adam + 0.3 * multipliers[path] * np.ones_like(gradient))
        np.testing.assert_allclose(moved[path], expected, rtol=1e-5, atol=2e-6, err_msg=path)


def test_what_does_not_decay_is_not_scaled_by_lamb():
    recipe = Optimiser(rule="lamb", learning_rate=0.1, warmup=0, clip=1e9, decay_rules=(("^params/a/kernel", 0.0),))
    gradient = jax.tree.map(lambda x: 1e-3 * jnp.ones_like(x), TREE)
    lamb, adamw = (update(dataclasses.replace(recipe, rule=rule), gradient)["params"] for rule in ("lamb", "adamw"))
    np.testing.assert_array_equal(lamb["a"]["kernel"], adamw["a"]["kernel"])
    np.testing.assert_allclose(jnp.linalg.norm(lamb["b"]["kernel"]), 0.1 * 2, rtol=1e-5)  # rate x norm of the kernel
    assert abs(float(jnp.linalg.norm(adamw["b"]["kernel"])) - 0.2) > 1e-3


def test_a_decay_rule_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match="matches no parameter"):
        build_optimiser(Optimiser(decay_rules=(("encodr", 0.0),)), 10, TREE)


def test_a_rate_of_zero_freezes_decay_included():
    gradient = jax.tree.map(jnp.ones_like, TREE)
    moved = update(Optimiser(weight_decay=0.5, lr_multipliers=(("^params/a/", 0.0), ("^extra/", 10.0))), gradient)
    plain = update(Optimiser(weight_decay=0.5), gradient)
    np.testing.assert_array_equal(moved["params"]["a"]["kernel"], 0)
    np.testing.assert_array_equal(moved["params"]["b"]["kernel"], plain["params"]["b"]["kernel"])
    np.testing.assert_allclose(
        moved["extra"]["projection"]["kernel"], 10 * plain["extra"]["projection"]["kernel"], rtol=1e-6
    )


def test_a_rule_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match="matches no parameter"):
        build_optimiser(Optimiser(lr_multipliers=(("encodr", 0.0),)), 10, TREE)


def test_linear_schedule_rises_from_the_first_step_and_falls_to_zero():
    rate = learning_rate_schedule(Optimiser(learning_rate=1.0, warmup=0.2), 10)
    np.testing.assert_allclose([float(rate(i)) for i in range(10)], [0.5, 1, *(1 - i / 8 for i in range(8))], rtol=1e-6)
    assert float(rate(10)) == 0


def test_a_schedule_that_ends_above_zero_is_the_beginning_of_a_longer_one():
    """A tenth of ten times as many steps, as each iteration of the official lottery tickets has it."""
    long = Optimiser(learning_rate=1.0, warmup=0.0)
    short = dataclasses.replace(long, min_lr_ratio=0.9)
    rates = [learning_rate_schedule(recipe, steps) for recipe, steps in ((long, 100), (short, 10))]
    np.testing.assert_allclose(*[[float(rate(i)) for i in range(10)] for rate in rates], rtol=1e-6)
    cosine = learning_rate_schedule(dataclasses.replace(short, decay="cosine"), 10)
    np.testing.assert_allclose([float(cosine(i)) for i in (0, 5, 10, 11)], [1, 0.95, 0.9, 0.9], rtol=1e-6)


def test_adamw_is_optax_adamw_with_clipping():
    gradient = jax.tree.map(lambda x: 100 * jnp.ones_like(x), TREE)
    ours = update(Optimiser(learning_rate=1e-3, warmup=0, weight_decay=0, decay="constant"), gradient)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    theirs = tx.update(gradient, tx.init(TREE), TREE)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize(("share", "averaged"), [(0.3, 3), (0.01, 1), (1.0, 10)])
def test_the_average_is_that_of_the_last_weights_and_changes_none(share: float, averaged: int):
    plain, averaging = (Optimiser(learning_rate=0.1, swa_fraction=part) for part in (0.0, share))
    ended: list[Any] = []
    for optimiser in (plain, averaging):
        tx, seen = build_optimiser(optimiser, 10, TREE), []
        trained: Any = TREE
        state, step = tx.init(TREE), jax.jit(tx.update)
        for number in range(10):
            gradient = jax.tree.map(lambda x, n=number: jnp.cos(n + jnp.arange(x.size)).reshape(x.shape), TREE)
            updates, state = step(gradient, state, trained)
            trained = optax.apply_updates(trained, updates)
            seen.append(trained)
        ended.append((trained, shipped_params(optimiser, trained, state), seen))
    (last, shipped, seen), (same, averages, _) = ended
    assert shipped is last
    jax.tree.map(np.testing.assert_array_equal, last, same)
    expected = jax.tree.map(lambda *each: np.mean(each, axis=0), *seen[-averaged:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), averages, expected)


IMPOSSIBLE = [
    *({"learning_rate": 0}, {"warmup": 1.5}, {"clip": -1}, {"swa_fraction": 2}),
    *({"min_lr_ratio": -0.1}, {"b1": 1}, {"b2": 1.5}, {"epsilon": 0}, {"weight_decay": -1}),
    *({"decay_rules": (("a", -1.0),)}, {"lr_multipliers": (("a", float("nan")),)}),
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_numbers_are_refused_by_name(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Optimiser(**wrong)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_clipping_is_that_of_optax(scale: float):
    gradient = jax.tree.map(lambda x: scale * jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape), TREE)
    ours, theirs = (
        tx.update(gradient, tx.init(TREE))[0] for tx in (clip_by_global_norm(1), optax.clip_by_global_norm(1))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_lamb_is_optax_lamb_for_what_decays_and_adam_for_the_rest():
    key = jax.random.key(0)
    tree = jax.tree.map(lambda x: jax.random.normal(key, x.shape), TREE)
    optimiser = Optimiser(rule="lamb", learning_rate=0.1, warmup=0, decay="constant", epsilon=1e-6, clip=1e9)
    tx = build_optimiser(optimiser, 10, tree)
    lamb = optax.lamb(0.1, eps=1e-6, weight_decay=0.01)
    adam = optax.adam(0.1, eps=1e-6)
    states = [method.init(tree) for method in (tx, lamb, adam)]
    for step in range(3):
        gradient = jax.tree.map(lambda x, step=step: (step + 1) * jnp.sin(x), tree)
        moved = []
        for i, method in enumerate((tx, lamb, adam)):
            updates, states[i] = method.update(gradient, states[i], tree)
            moved.append(updates)
        ours, theirs, plain = moved
        np.testing.assert_allclose(ours["params"]["a"]["kernel"], theirs["params"]["a"]["kernel"], rtol=1e-5)
        np.testing.assert_allclose(ours["params"]["a"]["bias"], plain["params"]["a"]["bias"], rtol=1e-5)
        size = jnp.linalg.norm(ours["params"]["b"]["kernel"]) / jnp.linalg.norm(tree["params"]["b"]["kernel"])
        np.testing.assert_allclose(size, 0.1, rtol=1e-5)  # each array moves by the rate times its own norm


@pytest.mark.parametrize("rule", ["adamw", "lamb"])
def test_in_phases_what_is_below_moves_slowly_and_what_begins_is_corrected_from_its_own_start(rule):
    """With one gradient ever since it began Adam's update is the learning rate, if its moments are corrected rightly;
    that of kernels of ones is so under LAMB too."""
    phases = Phases(2, 3, (("/a/", 0), ("/b/", 1)), below=0.1)
    optimiser = build_optimiser(
        Optimiser(rule, 0.01, warmup=0, decay="constant", weight_decay=0, clip=1e9), 12, TREE, phases, True
    )
    state, step = optimiser.init(TREE), jax.jit(optax.with_extra_args_support(optimiser).update)
    shares = {"a": (1, 0.1, 1, 1), "b": (0, 1, 1, 1), "projection": (0, 0, 1, 1)}  # in phases 0 and 1, then afterwards
    for number in range(12):
        begun = {name: float(share[number // 3] > 0) for name, share in shares.items()}
        gradient = {
            branch: {name: jax.tree.map(lambda x, on=begun[name]: on * x, leaves) for name, leaves in tree.items()}
            for branch, tree in jax.tree.map(jnp.ones_like, TREE).items()
        }
        updates, state = step(gradient, state, TREE, still=phases.still(TREE, number))
        for name, tree in {**updates["params"], **updates["extra"]}.items():
            for leaf in tree.values():
                np.testing.assert_allclose(leaf, -0.01 * shares[name][number // 3], rtol=1e-4, err_msg=name)


def test_each_phase_warms_up_and_what_is_left_is_a_run_of_its_own():
    rate = learning_rate_schedule(Optimiser(learning_rate=1.0, warmup=0.5), 8, Phases(2, 2, (), 0.1))
    np.testing.assert_allclose([float(rate(i)) for i in range(8)], [1, 1, 1, 1, 0.5, 1, 1, 0.5])
