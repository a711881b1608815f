"""Exits of a model that drops tokens: every executor gives what looking at the whole model afterwards gives."""

from typing import Any

import jax
import numpy as np
import pytest

from bertjax.adaptive import EarlyExitExecutor, ExitOutput, SegmentExecutor, full, looped, policy_of, segmented_model
from bertjax.model import ExitRule, Exits, LayerConfig, Retention
from tests.adaptive.test_executors import ALBERT, EVERY, Whim, afterwards, in_segments, inputs, middling, with_exits
from tests.model.test_tokens import CLOSE, survivors_of
from tests.model.tiny import apply, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK

LENGTHS = (16, 9, 5, 13, 1, 11, 7, 16)
RETENTION = Retention((1.0, 0.7, 0.5, 0.5, 0.2))
NO_HEADS = {"layers": (*[LayerConfig(3, 10)] * 2, LayerConfig(0, 10), *[LayerConfig(3, 10)] * 2)}
CASES = [
    (EVERY, {}, "entropy", RETENTION),
    (Exits((0, 2, 3), reads="mean"), {}, "margin", Retention((0.8, 0.4, 0.4, 0.2, 0.2), "all", "layer")),
    (Exits((-1, 1), reads="mean"), {}, "entropy", RETENTION),
    (Exits((0, 1, 2, 3), "shared"), ALBERT, "patience", Retention((0.7, 0.7, 0.5, 0.3, 0.3))),
    (Exits((1,), "shared_pooler"), NO_HEADS, "entropy", Retention((0.7, 0.5, 0.5, 0.5, 0.3))),
]


def batch_of(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    return tiny_batch(lengths, columns=16, seed=seed)


def agree(found: ExitOutput, expected: ExitOutput) -> None:
    assert found.depths.tolist() == expected.depths.tolist()
    np.testing.assert_allclose(found.logits, expected.logits, **OTHER_FRAMEWORK)


def no_near_ties(model: Any, params: Any, batch: Any) -> bool:
    out, retention = apply(model, params, batch), model.config.retention
    with_heads = [n for n, step in enumerate(model.config.depth_steps()[:4]) if step.num_attention_heads]
    gaps = [survivors_of(out, row, n, retention, size).gap for n in with_heads for row, size in enumerate(LENGTHS)]
    return min(gaps) > CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("exits", "changes", "rule", "retention"), CASES)
def test_every_executor_gives_what_looking_afterwards_gives(exits, changes, rule, retention):
    model, params = with_exits(exits, retention=retention, **changes)
    batch = next(batch for batch in map(batch_of, range(4)) if no_near_ties(model, params, batch))
    policy = policy_of(model.config, middling(rule, model, params, batch))
    expected, segments = afterwards(model, params, policy, batch), segmented_model(model.config, policy)
    assert (expected.depths < 5).any(), "nobody leaves early: the test would show nothing"
    agree(full(segments, params, *inputs(batch)), expected)
    agree(looped(segments, params, *inputs(batch)), expected)
    agree(in_segments(segments, params, *inputs(batch)), expected)
    both = EarlyExitExecutor(segments, params)
    agree(both([inputs(batch)])[0], expected)
    [alone] = both([tuple(array[3:4] for array in inputs(batch))])
    agree(alone, ExitOutput(expected.logits[3:4], expected.depths[3:4]))


def test_exits_that_read_the_mean_read_that_of_the_tokens_that_are_left():
    model, params = with_exits(Exits((0, 2), reads="mean"), retention=RETENTION)
    out = apply(model, params, batch_of())
    for number, found in zip((0, 2), out.exit_logits, strict=True):
        rows = np.asarray(out.hidden_states[number + 1], np.float64)
        left = np.asarray(out.tokens[number + 1].places) < 16
        assert (number == 0) == (left.sum() == sum(LENGTHS))
        means = np.stack([row[real].mean(axis=0) for row, real in zip(rows, left, strict=True)])
        head = params["exits"][f"exit_{number}"]
        pooled = np.tanh(means @ head["pooler"]["kernel"] + head["pooler"]["bias"])
        expected = pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"]
        np.testing.assert_allclose(found, expected, **OTHER_FRAMEWORK)


def test_a_segment_ranks_tokens_only_where_some_are_dropped():
    """Its first layers may go on with as many as it begins with, and have no heads."""
    model, _ = with_exits(Exits((1, 2)), retention=Retention((0.7, 0.5, 0.5, 0.3, 0.3)), **NO_HEADS)
    segments: Any = segmented_model(model.config, policy_of(model.config, ExitRule("entropy", 0.5))).segments
    shares = [segment.model.config.retention.shares for segment in segments]
    assert shares == [(0.7, 0.5), (1.0,), (0.3, 0.3)]


@pytest.mark.slow
def test_filler_exits_at_once_and_junk_beside_a_text_changes_nothing():
    model, params = with_exits(retention=RETENTION)
    batch = next(batch for batch in map(batch_of, range(4)) if no_near_ties(model, params, batch))
    segments = segmented_model(model.config, policy_of(model.config, middling("entropy", model, params, batch)))
    expected = full(segments, params, *inputs(batch))
    junk = [np.concatenate([np.full((3, 16), 41, np.int32), array]) for array in inputs(batch)]
    junk[1][:3] = 0
    for run in (full, looped, in_segments):
        found = run(segments, params, *junk)
        agree(ExitOutput(found.logits[3:], found.depths[3:]), expected)
        assert found.depths[:3].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_no_program_is_compiled_after_the_warm_up():
    model, params = with_exits(retention=RETENTION)
    segmented, compiled = SegmentExecutor(segmented_model(model.config, Whim()), params, sizes=(2, 4)), []
    segmented.warm_up((16,))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: (
            compiled.append(event) if event.endswith("backend_compile_duration") else None
        )
    )
    depths = set()
    for seed in range(6):
        several = [inputs(batch_of(seed + again, LENGTHS[: 1 + (seed + again) % 4])) for again in range(1 + seed % 3)]
        depths |= {depth for left in segmented(several) for depth in left.depths.tolist()}
    assert len(depths) > 2
    assert compiled == []
    segmented([inputs(tiny_batch((5, 3), columns=5))])
    assert compiled, "the listener hears nothing: this test could not fail"


def test_the_arithmetic_of_each_depth_counts_the_tokens_that_are_left():
    from bertjax.bundle import Bundle
    from bertjax.jobs.early_exit_report import cost_by_depth

    whole, fewer = (
        cost_by_depth(Bundle(model.config, params), 16)
        for model, params in (with_exits(EVERY), with_exits(EVERY, retention=Retention((1.0, 0.5, 0.5, 0.25, 0.25))))
    )
    assert whole is not None
    assert fewer is not None
    assert whole[1] == pytest.approx(fewer[1], rel=0.01)
    steps = list(whole)
    saved = [whole[step] - fewer[step] for step in steps]
    assert saved == sorted(saved)
    assert fewer[steps[-1]] < 0.8 * whole[steps[-1]]
