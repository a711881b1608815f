"""Gated ranks: decisions against loops in Python, costs against counting, a run that meets its target, and the model
that ships against the one that was trained."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.distill.terms import HardLabels, SoftTargets, TokenRanking
from bertjax.engine.command_line import load_config
from bertjax.engine.compiled_step import build_program
from bertjax.engine.sharding import put_batch
from bertjax.errors import UserError
from bertjax.learn import Loss
from bertjax.learn.assemble import Learning, assemble, loss_names
from bertjax.learn.objective import Teacher
from bertjax.learn.transform import Update
from bertjax.model import BertConfig, Retention, build
from bertjax.model.tokens import Tokens, all_tokens, restored
from bertjax.params import flatten
from bertjax.prune.hard_concrete import draw, kept_probability
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding
from bertjax.recipes.training import Training
from bertjax.token_dropping import RankGates, text_flops
from bertjax.token_dropping.costs import mean_flops
from bertjax.token_dropping.rank_gates import ByRank
from tests.model.tiny import apply, run, tiny, tiny_batch
from tests.tolerances import SAME_MATHS
from tests.train.abstract import abstract_bundle, task_batch, traced_step
from train import distill

DEPTH, BINS = 4, 10
LENGTHS = (7, 4, 5, 16, 12, 1, 9, 13)
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PART = RankGates(flops=0.3, bins=BINS, first=1, lengths=LENGTHS)


def model() -> tuple[Any, Any]:
    return tiny(num_hidden_layers=DEPTH, **NO_DROPOUT)


def random_trees(part: RankGates, seed: int) -> tuple[Any, Any]:
    """The trees of the transform with random logits, and with random shares decided."""
    rng = np.random.default_rng(seed)
    extra, _ = part.init(jax.random.key(0), model()[0].config, {})
    logits = {name: jnp.asarray(rng.normal(0, 2, x.shape), jnp.float32) for name, x in extra["logits"].items()}
    shares = np.sort(rng.integers(100, 1024, DEPTH))[::-1] / 1024
    return {**extra, "logits": logits}, {"shares": jnp.asarray(np.append(shares[:-1], shares[-2]), jnp.float32)}


def at(step: int, total: int = 10, seed: int = 0) -> Update:
    return Update(jnp.int32(step), jax.random.key(seed), total, model()[0].config)


# --- decisions --------------------------------------------------------------------------------------------------------


def decisions(significance: Any, going_on: Any, buckets: Any, drops: bool) -> np.ndarray:
    """What each row is multiplied by, in loops: [CLS] by 1, the others by the gate of their relative rank."""
    keep = np.zeros(significance.shape)
    for row, scores in enumerate(significance):
        others = sorted((i for i in range(1, len(scores)) if going_on[row][i]), key=lambda i: (-scores[i], i))
        keep[row, 0] = 1
        for rank, i in enumerate(others):
            keep[row, i] = buckets[int(rank / len(others) * len(buckets) + 1e-9)] if drops else 1
    return keep


@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_multiplied_by_the_gate_of_its_relative_rank_among_those_that_go_on(seed: int):
    rng = np.random.default_rng(seed)
    text = np.arange(16) < np.array(LENGTHS)[:, None]
    tokens, going_on = all_tokens(jnp.asarray(text)), text
    gates = np.clip(rng.uniform(-0.6, 1.3, (3, BINS)), 0, 1).astype(np.float32)
    layers = np.array([0.4, 0.0, 1.0], np.float32)  # the second drops nothing
    arrays = (jnp.bool_(True), jnp.asarray(gates), jnp.asarray(layers), jnp.ones(DEPTH))
    for step in range(3):
        significance = rng.integers(0, 6, text.shape).astype(np.float32)  # with ties
        found = ByRank(0)(step, jnp.asarray(significance), tokens, arrays)
        expected = decisions(significance, going_on, gates[step], layers[step] > 0)
        assert found.tokens.scale is not None
        np.testing.assert_allclose(np.where(text, found.tokens.scale, 0), expected, **SAME_MATHS)
        tokens, going_on = found.tokens, expected > 0
        np.testing.assert_array_equal(tokens.real, text)  # all stay visible
        np.testing.assert_array_equal(tokens.going_on, going_on)


def test_once_decided_each_text_goes_on_with_its_share_and_the_others_are_hidden():
    rng = np.random.default_rng(1)
    shares = (1.0, 700 / 1024, 301 / 1024, 301 / 1024)
    text = np.arange(16) < np.array(LENGTHS)[:, None]
    tokens, going_on = all_tokens(jnp.asarray(text)), text
    arrays = (jnp.bool_(False), jnp.zeros((2, BINS)), jnp.ones(2), jnp.asarray(shares))
    for step in (1, 2):
        significance = rng.integers(0, 6, text.shape).astype(np.float32)
        found = ByRank(1)(step, jnp.asarray(significance), tokens, arrays)
        assert (np.asarray(found.tokens.scale) == 1).all()
        expected = np.zeros_like(text)
        for row, length in enumerate(LENGTHS):
            count = Retention(shares).count(step, length)
            order = sorted((i for i in range(1, 16) if going_on[row][i]), key=lambda i: (-significance[row][i], i))
            expected[row, [0, *order[: count - 1]]] = True
        np.testing.assert_array_equal(found.tokens.real, expected)
        tokens, going_on = found.tokens, expected


def test_a_layers_gate_learns_from_rows_that_are_multiplied_by_0():
    net, params = model()

    _, forward = PART.apply(at(0), params, *random_trees(PART, 0))
    assert forward.retention is not None
    rule = forward.retention

    def loss(gates: Any) -> Any:
        arrays = (jnp.bool_(True), *gates, jnp.ones(DEPTH))
        return run(net, params, tiny_batch(), token_rule=replace(rule, arrays=arrays)).logits[0, 0]

    # The first layer drops everything but [CLS], the second nothing.
    gates = jnp.full((3, BINS), 0.5).at[0].set(0.0), jnp.array([0.3, 0.0, 0.0])
    of_tokens, of_layers = jax.jit(jax.grad(loss))(gates)
    assert of_layers[0] != 0
    assert np.asarray(of_tokens)[0].any()
    assert not np.asarray(of_tokens)[1:].any()


def test_a_token_that_no_longer_goes_on_keeps_its_state_for_a_head_that_answers_every_token():
    text = jnp.array([[True, True, True, False]])
    states = tuple(jnp.full((1, 4, 2), float(i)) for i in range(3))
    gone = Tokens(text, jnp.array([[0, -1, 2, 4]]))
    found = restored(states, (all_tokens(text), all_tokens(text), gone))
    np.testing.assert_array_equal(found[0, :, 0], [2, 1, 2, 0])


# --- costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_flops_are_those_that_are_counted_over_draws(seed: int):
    part = replace(PART, first=2, lengths=(512, 300, 257, 40))
    config = model()[0].config.replace(max_position_embeddings=512)
    logits = random_trees(part, seed)[0]["logits"]
    keys = jax.random.split(jax.random.key(seed), 4000)
    tokens, layers = (
        np.asarray(jax.vmap(draw, (0, None))(jax.vmap(jax.random.fold_in, (0, None))(keys, number), logits[name])) > 0
        for number, name in enumerate(("tokens", "layers"))
    )
    left = []
    for buckets, drops in zip(tokens, layers, strict=True):
        here, kept = np.array(part.lengths), [np.array(part.lengths)]
        for gates, drop in zip(buckets, drops, strict=True):
            if drop:  # of the ranks among those that still go on, the ones whose bucket is open
                here = np.array([1 + sum(gates[rank * BINS // (n - 1)] for rank in range(n - 1)) for n in here])
            kept.append(here)
        left.append(text_flops(config, np.array(part.lengths), np.array([*kept, here]), "layer").sum())
    whole = len(part.lengths) * mean_flops(config, part.lengths, None)
    found = part.remaining(config, logits["tokens"], logits["layers"])
    np.testing.assert_allclose(found, np.mean(left) / whole, rtol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_decided_and_the_expected_flops_stay(seed: int):
    """As many layers drop as do on average: three with a probability of about 0.4 each make one."""
    config = model()[0].config
    tokens = random_trees(PART, seed)[0]["logits"]["tokens"]
    layers = jnp.array([-2.1, -2.0, -2.3])
    assert round(float(kept_probability(layers).sum())) == 1
    _, state = PART.init(jax.random.key(0), config, {})
    extra = {"logits": {"tokens": tokens, "layers": layers}}
    before, now = (PART.advance(at(step), {}, extra, state)["shares"] for step in (5, 6))
    np.testing.assert_array_equal(before, 1)
    assert now[0] == 1 > now[1] == now[2] == now[3]
    np.testing.assert_array_equal(PART.advance(at(7), {}, extra, {"shares": now})["shares"], now)
    lengths = np.array(LENGTHS)
    left = text_flops(config, lengths, 1 + (lengths - 1) * np.asarray(now)[:, None], "layer").mean()
    asked = PART.remaining(config, tokens, layers)
    np.testing.assert_allclose(left / mean_flops(config, lengths, None), asked, atol=2e-3)


# --- the training step ------------------------------------------------------------------------------------------------


def labelled(seed: int = 0, columns: int = 16) -> dict[str, Any]:
    """Texts whose label is that of one token among others: 1, 2 or 3."""
    batch = tiny_batch(LENGTHS, columns, seed)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, len(LENGTHS))
    ids = np.where(batch["input_ids"] < 4, 4 * batch["attention_mask"], batch["input_ids"])
    ids[np.arange(len(ids)), rng.integers(0, LENGTHS)] = 1 + labels
    weights = np.ones(len(LENGTHS), np.float32)
    return {**batch, "input_ids": ids.astype(np.int32), "labels": labels.astype(np.int32), "weights": weights}


def bundle() -> Bundle:
    net, params = model()
    return Bundle(net.config, params)


def learning(part: RankGates, steps: int, *losses: Loss) -> Learning:
    teachers = [Teacher(bundle())] if any(loss.reads_teacher for loss in losses) else []
    parts: Any = {"teachers": teachers, "transforms": (part,), "sample": lambda: [labelled()]}
    return assemble(bundle(), loss_names(losses), steps=steps, seed=0, **parts)


def trained(what: Learning, steps: int, micro_batches: int = 1) -> Any:
    optimiser = Optimiser(learning_rate=3e-3, warmup=0.0, decay="constant")
    settings = Training(
        steps=steps, batch_size=8, micro_batches=micro_batches, sharding=Sharding(1, 1), optimiser=optimiser
    )
    program = build_program(settings, steps, what)
    state = program.start(what.params, what.extra, what.state)
    for number in range(steps):
        state, metrics = program.step(state, put_batch(labelled(number), program.mesh), what.constants)
        assert np.isfinite(float(metrics["loss"]))
    return jax.device_get(state)


@pytest.mark.slow
def test_a_run_meets_its_target_and_ships_what_it_was_trained_as():
    part = RankGates(flops=0.35, bins=20, first=1, gate_learning_rate=0.1)
    what = learning(part, 300, SoftTargets(), HardLabels(), TokenRanking(layers=(1,), top=5))
    state = trained(what, 300)
    assert what.finish is not None
    config, params = what.finish(state.params, state.extra, state.state)  # a target that was missed is a warning
    assert config.retention is not None
    assert config.retention.after == "layer"
    assert config.retention.shares[-2] < 1
    left, whole = (mean_flops(config, sorted(LENGTHS), one) for one in (config.retention, None))
    np.testing.assert_allclose(1 - left / whole, 0.35, atol=0.02)

    extra, decided = (
        jax.tree.map(jnp.asarray, tree["transforms"]["0_RankGates"]) for tree in (state.extra, state.state)
    )
    _, forward = part.apply(at(299, 300), params, extra, decided)
    batch = tiny_batch(LENGTHS, 16, 5)
    hidden = apply(model()[0], params, batch, token_rule=forward.retention)
    gathered = apply(build(config), params, batch)
    assert gathered.hidden_states[-1].shape[1] < 16
    np.testing.assert_allclose(gathered.logits, hidden.logits, **SAME_MATHS)


@pytest.mark.slow
def test_all_gates_get_a_gradient_and_micro_batches_draw_the_same():
    what = learning(PART, 4, HardLabels())
    whole, parts = trained(what, 2), trained(what, 2, micro_batches=4)
    found, same = (flatten(state.extra["transforms"]["0_RankGates"]) for state in (whole, parts))
    for path, leaf in flatten(what.extra["transforms"]["0_RankGates"]).items():
        assert (found[path] != leaf).all(), path
        np.testing.assert_allclose(same[path], found[path], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", [0, 9], ids=["gated", "decided"])
def test_padding_changes_nothing(step: int):
    net, params = model()
    extra, state = random_trees(PART, 2)
    _, forward = PART.apply(at(step), params, extra, state)
    few = {name: array[:3, :7] for name, array in tiny_batch((7, 4, 5)).items()}
    more = {name: np.pad(array, ((0, 2), (0, 4))) for name, array in few.items()}
    found = [apply(net, params, batch, token_rule=forward.retention) for batch in (few, more)]
    np.testing.assert_allclose(found[1].logits[:3], found[0].logits, **SAME_MATHS)
    assert not np.allclose(found[0].logits, apply(net, params, few).logits, atol=1e-3)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_lengths_are_those_of_sample_text_without_filler():
    batch = {"attention_mask": np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], np.int32)}
    assert RankGates().fit(bundle(), [batch, batch]).lengths == (1, 1, 3, 3)
    assert RankGates(lengths=(9,)).fit(bundle(), [batch]).lengths == (9,)


def test_a_target_that_was_missed_is_named():
    _, state = PART.init(jax.random.key(0), model()[0].config, {})
    with pytest.warns(UserWarning, match="RankGates: 0% of the FLOPs are removed, 30% was asked"):
        PART.finish(model()[0].config, {}, {}, state)


def test_what_makes_no_sense_is_refused():
    cases: Any = (
        ({"flops": 1.0}, "from 0 to below 1"),
        ({"bins": 1}, "2 or more bins"),
        ({"first": 0}, "a first layer from 1"),
        ({"warmup": 0.9}, "expected 0 <= warmup <= end <= 1"),
        ({"lengths": (3, 0)}, "1 or more tokens each"),
    )
    for options, reason in cases:
        with pytest.raises(UserError, match=reason):
            RankGates(**options)
    config = model()[0].config

    def begin(part: RankGates, config: BertConfig = config) -> None:
        part.init(jax.random.key(0), config, {})

    with pytest.raises(UserError, match="first=4, and the model has 4 layers; expected a layer from 1 to 3"):
        begin(replace(PART, first=4))
    with pytest.raises(UserError, match="no sample text"):
        begin(replace(PART, lengths=()))
    with pytest.raises(UserError, match=r"90% removed was asked, and with all gates closed it is \d\d%"):
        begin(replace(PART, flops=0.9))
    with pytest.raises(UserError, match="drops tokens already"):
        begin(PART, config.replace(retention=Retention((0.5,) * DEPTH)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top", "top:small"])
def test_the_recipes_can_be_traced_at_their_size(name: str):
    config = load_config(name, distill.Config)
    depth = config.student.num_hidden_layers
    shape = BertConfig(architecture="BertForSequenceClassification", labels=tuple("abcdefghij"))
    whole = abstract_bundle(shape.replace(num_hidden_layers=depth))
    texts = {"attention_mask": np.ones((4, config.data.max_length), np.int32)}
    what = assemble(
        whole,
        loss_names(config.losses),
        steps=1000,
        seed=0,
        teachers=(Teacher(whole),),
        transforms=config.all_transforms,
        sample=lambda: [texts],
    )
    small = replace(config, batch_size=2, micro_batches=1)
    found = traced_step(small, what, task_batch(small))
    assert {f"loss/{loss}" for loss in loss_names(config.losses)} < found
    assert any(name.endswith("RankGates/lagrangian") for name in found)
