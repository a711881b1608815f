"""Soft extraction, LengthDrop and learned thresholds inside the training step, against finite differences, closed forms
and a NumPy reference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.distill.terms import HardLabels, HiddenStates, PatientStates
from bertjax.engine.optimiser import build_optimiser, with_learning_rates
from bertjax.errors import UserError
from bertjax.learn.assemble import Learning, assemble, loss_names
from bertjax.learn.step import init_state, make_step
from bertjax.learn.transform import Transform, Update
from bertjax.model import Retention
from bertjax.model.tokens import Hide, TokenRule
from bertjax.prune import LayerDrop
from bertjax.recipes.optimiser import Optimiser
from bertjax.token_dropping import LearnedThresholds, LengthDrop, SoftExtraction
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK, SAME_MATHS

KEY = jax.random.key(0)
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def student(**changes: Any) -> Bundle:
    model, params = tiny(num_hidden_layers=3, **NO_DROPOUT, **changes)
    return Bundle(model.config, params)


def labelled() -> dict[str, Any]:
    return tiny_batch((14, 9, 5, 11), 14) | {"labels": np.array([0, 2, 1, 1]), "weights": np.ones(4, np.float32)}


def learning(*transforms: Transform, model: Bundle | None = None) -> Learning:
    return assemble(model or student(), loss_names((HardLabels(),)), steps=60, seed=0, transforms=transforms)


def trained(learning: Learning, steps: int) -> Any:
    recipe = with_learning_rates(Optimiser(learning_rate=1e-3, warmup=0.0), learning.learning_rates)
    optimiser = build_optimiser(recipe, 60, {"params": learning.params, "extra": learning.extra})
    step = jax.jit(make_step(learning.objective, optimiser, KEY))
    state = init_state(learning.params, learning.extra, learning.state, optimiser)
    for _ in range(steps):
        state, _ = step(state, labelled(), learning.constants)
    return state


def of(config: Any, step: int = 0) -> Update:
    return Update(jnp.int32(step), jax.random.key(step), 60, config)


def with_factors(factors: Any) -> Any:
    """The logits and the penalty of a model with these factors."""
    start, part = student(), SoftExtraction(penalty=0.01, bins=factors.shape[1])
    extra = {"factors": jnp.asarray(factors)}
    _, forward = part.apply(of(start.config), start.params, extra, {})
    batch = labelled()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    logits = apply(start.model, start.params, inputs, token_rule=forward.retention).logits
    return logits, part.penalties(of(start.config), start.params, extra, {})["tokens"]


def test_factors_of_one_change_nothing_and_their_penalty_is_the_weighted_number_of_ranks():
    logits, penalty = with_factors(np.ones((3, 8), np.float32))
    inputs = {name: labelled()[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    start = student()
    np.testing.assert_allclose(logits, apply(start.model, start.params, inputs).logits, **SAME_MATHS)
    assert float(penalty) == pytest.approx(0.01 * (1 + 2 + 3) * 8)


def test_the_gradient_of_the_factors_is_that_of_finite_differences():
    factors = np.linspace(0.9, 0.4, 24, dtype=np.float32).reshape(3, 8)

    def value(factors: Any) -> Any:
        logits, penalty = with_factors(factors)
        return jnp.sum(jnp.sin(logits)) + penalty

    found: Any = jax.grad(value)(jnp.asarray(factors))
    for place in [(0, 0), (0, 3), (1, 1), (1, 7)]:
        moved = [factors.copy(), factors.copy()]
        moved[0][place] += 1e-2
        moved[1][place] -= 1e-2
        expected = (float(value(moved[0])) - float(value(moved[1]))) / 2e-2
        assert found[place] == pytest.approx(expected, rel=2e-2, abs=2e-4)
    np.testing.assert_allclose(found[2], 0.03)  # of the last layer only [CLS] is read, so the penalty alone


def test_each_row_is_multiplied_by_the_factor_of_its_rank_relative_to_its_own_text():
    from bertjax.model.tokens import all_tokens
    from bertjax.token_dropping.soft_extraction import scaled_by_rank

    rng, lengths, bins = np.random.default_rng(0), [10, 4, 7], 4
    significance = rng.random((3, 10)).astype(np.float32)
    real = np.arange(10) < np.array(lengths)[:, None]
    factors = rng.random((2, bins)).astype(np.float32)
    got: Any = scaled_by_rank(
        1, jnp.asarray(significance), all_tokens(jnp.asarray(real)), jnp.asarray(factors)
    ).tokens.scale
    for row, length in enumerate(lengths):
        order = [0, *sorted(range(1, length), key=lambda i: -significance[row, i])]
        expected = np.ones(10)
        for rank, place in enumerate(order[1:], start=1):
            expected[place] = factors[1, rank * bins // length]
        np.testing.assert_allclose(got[row], expected, rtol=1e-6)


def test_soft_extraction_trains_and_leaves_a_model_that_drops_tokens():
    """With a penalty far above what the task can hold, the factors fall; the penalty of later layers is larger."""
    one = learning(SoftExtraction(penalty=1.0, bins=8, factor_learning_rate=0.02))
    state = trained(
        one,
        30,
    )
    factors = np.asarray(state.extra["transforms"]["0_SoftExtraction"]["factors"])
    assert factors.min() >= 0
    assert 0.2 < factors.mean() < 0.9
    assert one.finish is not None
    config, params = one.finish(state.params, state.extra, state.state)
    assert config.retention is not None
    means = np.minimum.accumulate(factors.mean(axis=1))
    np.testing.assert_allclose(config.retention.shares, means, rtol=1e-3)
    batch = labelled()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    output = apply(Bundle(config, params).model, params, inputs)
    assert output.hidden_states[1].shape[1] == config.retention.count(0, 14) < 14


def test_length_drop_takes_turns_between_all_tokens_the_fewest_and_random_numbers():
    part, config = LengthDrop(rate=0.3, between=2), student().config
    shares = np.stack([part.shares(of(config, step)) for step in range(8)])
    np.testing.assert_allclose(shares[[0, 4]], 1.0)
    np.testing.assert_allclose(shares[[1, 5]], np.tile([0.7, 0.49, 0.343], (2, 1)), rtol=1e-6)
    drawn = shares[[2, 3, 6, 7]]
    assert len(np.unique(drawn[:, 0])) == 4
    kept = np.concatenate([drawn[:, :1], drawn[:, 1:] / drawn[:, :-1]], axis=1)
    assert ((kept >= 0.7) & (kept <= 1)).all()


def test_length_drop_hides_what_a_retention_of_these_shares_hides():
    start, part = student(), LengthDrop(rate=0.3)
    update = of(start.config, 1)
    _, forward = part.apply(update, start.params, {}, {})
    shares = tuple(float(f"{share:.4f}") for share in part.shares(update))
    batch = labelled()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    ours = apply(start.model, start.params, inputs, token_rule=forward.retention)
    rule = TokenRule(Hide(Retention(shares, "all")), "all")
    theirs = apply(start.model, start.params, inputs, token_rule=rule)
    np.testing.assert_array_equal(ours.tokens[-1].places, theirs.tokens[-1].places)
    np.testing.assert_allclose(ours.logits, theirs.logits, **SAME_MATHS)


def test_length_drop_trains_and_leaves_a_model_that_keeps_all_tokens():
    one = learning(LengthDrop())
    state = trained(one, 4)
    assert one.finish is not None
    config, _ = one.finish(state.params, state.extra, state.state)
    assert config == student().config


@pytest.mark.parametrize(
    ("transforms", "losses", "message"),
    [
        ((LengthDrop(), SoftExtraction()), (HardLabels(),), "1_SoftExtraction is the second to decide which tokens"),
        ((LengthDrop(),), (HiddenStates(),), "HiddenStates compares the states of all tokens, and the student drops"),
    ],
)
def test_what_cannot_be_combined_is_refused(transforms: Any, losses: Any, message: str):
    from bertjax.learn.objective import Teacher

    with pytest.raises(UserError, match=message):
        trained(
            assemble(
                student(), loss_names(losses), steps=9, seed=0, transforms=transforms, teachers=[Teacher(student())]
            ),
            1,
        )


def test_a_model_with_a_retention_refuses_losses_on_all_tokens_and_learns_from_cls_states():
    from bertjax.learn.objective import Teacher

    fewer = student(retention=Retention((0.8, 0.5, 0.5)))
    with pytest.raises(UserError, match="HiddenStates compares the states of all tokens"):
        assemble(fewer, loss_names((HiddenStates(),)), steps=9, seed=0, teachers=[Teacher(student())])
    with pytest.raises(UserError, match="and the teacher drops some"):
        assemble(student(), loss_names((HiddenStates(),)), steps=9, seed=0, teachers=[Teacher(fewer)])
    one = assemble(fewer, loss_names((PatientStates(),)), steps=60, seed=0, teachers=[Teacher(student())])
    trained(one, 1)
    with pytest.raises(UserError, match="drops tokens already"):
        learning(SoftExtraction(), model=fewer)


@pytest.mark.parametrize("part", [LengthDrop(0.3), SoftExtraction(), LearnedThresholds()])
def test_layers_are_dropped_beside_hidden_tokens(part):
    trained(learning(LayerDrop(0.5), part), 4)


def inputs_only(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def with_thresholds(part: LearnedThresholds, thresholds: Any, step: int, batch: dict[str, Any]) -> tuple[Any, Any]:
    """The output of a model with these thresholds in an update, and the term of its masks."""
    start = student()
    extra = {"thresholds": jnp.asarray(thresholds, jnp.float32)}
    update, state = of(start.config, step), extra
    _, forward = part.apply(update, start.params, extra, state)
    output = apply(start.model, start.params, inputs_only(batch), token_rule=forward.retention)
    total, weight = part.terms(update, output, batch, extra, state)["tokens"]
    return output, total / weight


def test_a_row_is_multiplied_by_the_mask_of_its_mean_attention_and_cls_is_not():
    from bertjax.model.tokens import all_tokens
    from bertjax.token_dropping.learned_thresholds import soft_or_hidden

    rng, lengths = np.random.default_rng(0), [10, 4, 7]
    significance = rng.random((3, 10)).astype(np.float32)
    tokens = all_tokens(jnp.asarray(np.arange(10) < np.array(lengths)[:, None]))
    thresholds = jnp.asarray([0.0, 0.1])
    soft: Any = soft_or_hidden(1, jnp.asarray(significance), tokens, (jnp.bool_(True), thresholds, thresholds, 0.02))
    hard: Any = soft_or_hidden(1, jnp.asarray(significance), tokens, (jnp.bool_(False), thresholds, thresholds, 0.02))
    np.testing.assert_array_equal(soft.tokens.places, tokens.places)
    np.testing.assert_array_equal(hard.tokens.scale, 1.0)
    for row, length in enumerate(lengths):
        mean = significance[row].astype(np.float64) / length
        expected = 1 / (1 + np.exp(-(mean - 0.1) / 0.02))
        np.testing.assert_allclose(soft.tokens.scale[row, 1:length], expected[1:length], rtol=1e-4)
        assert soft.tokens.scale[row, 0] == 1
        np.testing.assert_array_equal(soft.tokens.scale[row, length:], 1.0)
        left = [0, *(place for place in range(1, length) if mean[place] >= 0.1)]
        assert np.flatnonzero(np.asarray(hard.tokens.places[row]) < 10).tolist() == left


def test_the_term_of_the_masks_is_their_mean_over_tokens_whatever_pads_the_batch():
    part, thresholds = LearnedThresholds(penalty=0.5, temperature=0.02), np.array([0.05, 0.08, 0.5])
    batch = labelled()
    output, found = with_thresholds(part, thresholds, 0, batch)
    real = batch["attention_mask"] > 0
    masks = [np.asarray(output.tokens[step].scale, np.float64) for step in (1, 2)]
    assert output.tokens[3].scale is None  # of the last layer only [CLS] is read
    assert float(found) == pytest.approx(0.5 * sum(mask[real].sum() for mask in masks) / real.sum(), rel=1e-5)
    wide = {n: np.pad(a, ((0, 2), (0, 2)) if a.ndim == 2 else (0, 2)) for n, a in batch.items()}
    wide["attention_mask"][-1] = 1  # a filler row with text
    _, padded = with_thresholds(part, thresholds, 0, wide)
    assert float(padded) == pytest.approx(float(found), rel=1e-5)


def test_the_gradient_of_the_thresholds_is_that_of_finite_differences():
    part = LearnedThresholds(penalty=0.5, temperature=0.02)

    def value(thresholds: Any) -> Any:
        output, term = with_thresholds(part, thresholds, 0, labelled())
        return jnp.sum(jnp.sin(output.logits)) + term

    thresholds = np.array([0.05, 0.08, 0.1])
    found: Any = jax.grad(value)(jnp.asarray(thresholds, jnp.float32))
    for place in range(2):
        move = 2e-3 * np.eye(3)[place]
        expected = (float(value(thresholds + move)) - float(value(thresholds - move))) / 4e-3
        assert found[place] == pytest.approx(expected, rel=2e-2, abs=1e-3)
    assert found[2] == 0


def test_learned_thresholds_rise_stay_when_they_are_fixed_and_are_those_of_the_model():
    part = LearnedThresholds(penalty=5.0, first_threshold=0.06, temperature=0.01, threshold_learning_rate=2e-3)
    one = learning(part)
    halfway, late = trained(one, 30), trained(one, 36)
    fixed = np.asarray(late.state["transforms"]["0_LearnedThresholds"]["thresholds"])
    first = 0.06 * np.arange(3) / 3
    assert (fixed[:2] > first[:2] + 0.01).all()
    np.testing.assert_array_equal(fixed, halfway.extra["transforms"]["0_LearnedThresholds"]["thresholds"])
    assert one.finish is not None
    config, params = one.finish(late.params, late.extra, late.state)
    assert config.retention is not None
    np.testing.assert_allclose(config.retention.thresholds, [*fixed[:2], 0.0], rtol=1e-3)
    _, forward = part.apply(of(config, 36), params, *(t["transforms"]["0_LearnedThresholds"] for t in late[3:5]))
    plain = config.replace(retention=None)
    trained_as = apply(Bundle(plain, params).model, params, inputs_only(labelled()), token_rule=forward.retention)
    ships = apply(Bundle(config, params).model, params, inputs_only(labelled()))
    np.testing.assert_allclose(ships.logits, trained_as.logits, **OTHER_FRAMEWORK)
    left = [int((known.places < 14).sum()) for known in ships.tokens]
    assert left[0] == 39 > left[1] > left[2] > 4
