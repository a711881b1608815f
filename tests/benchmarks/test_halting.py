import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.model import build, init_params
from tests.benchmarks.halting import (
    Times,
    cell_predictions,
    early_stopping,
    never_halting,
    rank_correlation,
    time_early_stopping,
)
from tests.benchmarks.lists import Config
from tests.benchmarks.lists_data import as_batch

TINY = Config(hidden_size=16, intermediate_size=16, num_attention_heads=2, recurrence_steps=5, depths=(2,), bias=3.0)
SHAPE = TINY.model(TINY.recurrence_steps, TINY.halting())
MODEL, PARAMS = build(SHAPE), init_params(SHAPE, 0)
BATCH = as_batch(TINY.lists, 0, np.arange(6))


def test_the_share_is_the_saving_in_time_over_the_saving_in_steps():
    times = Times(early=5.0, full=8.0, steps=4.0, most=8, fixed={})
    assert times.share_realised == pytest.approx(0.375 / 0.5)
    assert np.isnan(Times(early=8.0, full=8.0, steps=8.0, most=8, fixed={}).share_realised)


def test_predictions_count_labelled_positions_and_the_steps_of_the_slowest():
    found = cell_predictions(MODEL, PARAMS, [BATCH, BATCH])
    logits = np.asarray(MODEL.apply({"params": PARAMS}, BATCH["input_ids"], BATCH["attention_mask"]).logits)  # pyright: ignore[reportAttributeAccessIssue]
    right = (logits.argmax(-1) == BATCH["labels"]) & (BATCH["labels"] >= 0)
    np.testing.assert_array_equal(found.right, np.concatenate([right, right]))
    assert found.positions == right.sum() / BATCH["attention_mask"].sum()
    assert (found.steps == 2).all()
    np.testing.assert_array_equal(found.rows[:6], (right | (BATCH["labels"] < 0)).all(1))


def test_kept_from_halting_the_same_program_runs_to_the_last_step():
    program, row = early_stopping(MODEL), [jnp.asarray(BATCH[name][:1]) for name in ("input_ids", "attention_mask")]
    assert program(PARAMS, *row)[1] == 2
    assert program(never_halting(PARAMS), *row)[1] == TINY.recurrence_steps
    assert jax.tree.structure(never_halting(PARAMS)) == jax.tree.structure(PARAMS)


def test_every_model_is_timed_and_the_steps_of_the_timed_examples_are_counted():
    shape = TINY.model(2, None)
    fixed = {2: (build(shape), init_params(shape, 0))}
    times = time_early_stopping(MODEL, PARAMS, fixed, BATCH["input_ids"], BATCH["attention_mask"], repeats=3)
    assert (times.steps, times.most, list(times.fixed)) == (2, 5, [2])
    assert min(times.early, times.full, times.fixed[2]) > 0


def test_rank_correlation_says_how_sure_it_is_and_is_nothing_where_nothing_varies():
    correlation, p_value = rank_correlation(np.array([1, 2, 2, 3, 4, 5]), np.array([1, 2, 3, 4, 5, 6]))
    assert correlation == pytest.approx(0.9856, abs=1e-4)  # ranks 1, 2.5, 2.5, 4, 5, 6 against 1 to 6
    assert p_value < 0.001
    assert rank_correlation(np.full(6, 3), np.arange(6)) == (0.0, 1.0)
