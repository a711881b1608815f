"""One contract for every policy and executor: each example leaves where, and with what, it would if all layers were run
and looked at afterwards, whatever else is in the batch."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.adaptive import (
    EarlyExitExecutor,
    ExitOutput,
    SegmentExecutor,
    add_exits,
    full,
    looped,
    policy_of,
    segmented_model,
)
from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.adaptive.policies import first_exit
from bertjax.errors import UserError
from bertjax.model import ExitRule, Exits, Halting, LayerConfig, Recurrence, build
from bertjax.quantize import Activation, Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

LENGTHS = (7, 4, 5, 1, 7, 3, 6, 2)
ALBERT = {"architecture": "AlbertForSequenceClassification", "model_type": "albert", "num_hidden_groups": 1}
DISTIL = {"architecture": "DistilBertForSequenceClassification", "model_type": "distilbert", "type_vocab_size": 0}
UNEQUAL = {"layers": (*[LayerConfig(3, 10)] * 2, LayerConfig(2, 7), *[LayerConfig(3, 10, 0, 1)] * 2)}
EVERY = Exits((0, 1, 2, 3))
CASES = [
    (EVERY, {}, "entropy"),
    (EVERY, {}, "normalised_entropy"),
    (EVERY, {}, "max_probability"),
    (EVERY, {}, "margin"),
    (EVERY, {}, "patience"),
    (Exits((1, 3), "shared_pooler"), {}, "entropy"),
    (Exits((0, 1), reads="mean"), {}, "margin"),
    (Exits((-1,), reads="mean"), {}, "entropy"),
    (Exits((-1, 0, 3), reads="mean"), DISTIL, "patience"),
    (Exits((0, 1, 2, 3), "shared"), ALBERT, "patience"),
    (Exits((0, 3)), DISTIL, "margin"),
    (Exits((0, 2)), UNEQUAL, "entropy"),
]


def with_exits(exits: Exits = EVERY, **changes):
    """A model of five layers whose exits have begun as copies of its head, so that their answers are alike."""
    model, params = tiny(num_hidden_layers=5, **changes)
    config, params = add_exits(model.config, params, exits, seed=0)
    return build(config), params


def middling(rule: Any, model, params, batch) -> ExitRule:
    """A rule by which some leave and some stay, and nobody only just."""
    if rule == "patience":
        return ExitRule("patience", 1.0)
    exits = np.stack(apply(model, params, batch).exit_logits)
    sure = np.sort(np.asarray((LOW_IS_SURE | HIGH_IS_SURE)[rule](jnp.asarray(exits))).ravel())
    middle = sure[len(sure) // 4 : -len(sure) // 4]
    gap = np.argmax(np.diff(middle))
    return ExitRule(rule, float(middle[gap : gap + 2].mean()))


@dataclass(frozen=True)
class Whim:
    """A policy of somebody's own: leaves for no good reason, and so at any exit."""

    def start(self, rows):
        return ()

    def decide(self, memory, logits):
        return memory, (logits[:, 0] * 97) % 1 < 0.4


def inputs(batch):
    return batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]


def in_segments(segments, params, *arrays) -> ExitOutput:
    """Batches of up to four: several of them where there are more."""
    [left] = SegmentExecutor(segments, params, sizes=(1, 2, 4))([arrays])
    return left


def afterwards(model, params, policy, batch) -> ExitOutput:
    """The whole model run by itself, and the answers picked in NumPy."""
    out = apply(model, params, batch)
    exits = np.stack(out.exit_logits)
    taken = first_exit(policy, exits, np.asarray(out.logits))
    depths = np.array([*(n + 1 for n in model.config.exits.after), model.config.depth])
    every = np.concatenate([exits, np.asarray(out.logits)[None]])
    return ExitOutput(every[taken, np.arange(len(taken))], depths[taken])


def agree(found: ExitOutput, expected: ExitOutput) -> None:
    assert found.depths.tolist() == expected.depths.tolist()
    np.testing.assert_allclose(found.logits, expected.logits, **SAME_MATHS)


@pytest.mark.slow
@pytest.mark.parametrize(("exits", "changes", "rule"), CASES)
def test_every_executor_gives_what_looking_afterwards_gives(exits, changes, rule):
    model, params = with_exits(exits, **changes)
    batch = tiny_batch(LENGTHS)
    policy = policy_of(model.config, middling(rule, model, params, batch))
    expected, segments = afterwards(model, params, policy, batch), segmented_model(model.config, policy)
    assert (expected.depths < 5).any(), "nobody leaves early: the test would show nothing"
    agree(full(segments, params, *inputs(batch)), expected)
    agree(looped(segments, params, *inputs(batch)), expected)
    agree(in_segments(segments, params, *inputs(batch)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["fixed", "token"])
@pytest.mark.parametrize(("exits", "changes"), [(EVERY, {}), (Exits((-1, 1), reads="mean"), {}), (EVERY, ALBERT)])
def test_inputs_are_rounded_in_the_ranges_of_the_layer_that_they_go_into(exits, changes, ranges):
    model, params = with_exits(exits, **changes)
    batch = tiny_batch(LENGTHS)
    config, params = quantise_weights(model.config, params)
    assert config.quantization is not None
    found = find_ranges(build(config), params, [inputs(batch)], "min_max")
    sites = {site: Activation() if ranges == "token" else activation for site, activation in found.items()}
    model = build(config.replace(quantization=Quantization(config.quantization.weights, tuple(sites.items()))))
    policy = policy_of(model.config, middling("entropy", model, params, batch))
    expected, segments = afterwards(model, params, policy, batch), segmented_model(model.config, policy)
    assert (expected.depths < 5).any()
    agree(full(segments, params, *inputs(batch)), expected)
    agree(in_segments(segments, params, *inputs(batch)), expected)


@pytest.mark.slow
def test_who_else_is_in_the_batch_changes_nothing():
    model, params = with_exits()
    batch = tiny_batch(LENGTHS)
    segments = segmented_model(model.config, policy_of(model.config, middling("entropy", model, params, batch)))
    together = full(segments, params, *inputs(batch))
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    shuffled = in_segments(segments, params, *(array[order] for array in inputs(batch)))
    agree(shuffled, ExitOutput(together.logits[order], together.depths[order]))
    for i in (0, 3, 7):
        [alone] = EarlyExitExecutor(segments, params)([tuple(array[i : i + 1] for array in inputs(batch))])
        agree(alone, ExitOutput(together.logits[i : i + 1], together.depths[i : i + 1]))
    junk = np.full((3, 7), 41, np.int32)
    with_junk = [np.concatenate([junk, array]) for array in inputs(batch)]
    with_junk[1][:3] = 0  # not a real token among them
    for run in (full, looped, in_segments):
        found = run(segments, params, *with_junk)
        agree(ExitOutput(found.logits[3:], found.depths[3:]), together)
        assert found.depths[:3].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_survivors_of_several_batches_go_on_together(monkeypatch):
    """Of batches of three, of two lengths, those that reach a segment are as many full batches as they make, and one
    remainder."""
    model, params = with_exits()
    batches = [tiny_batch(LENGTHS[n % 5 : n % 5 + 3], columns=7 + 2 * (n % 2), seed=n) for n in range(13)]
    segments, sizes = segmented_model(model.config, Whim()), Counter()
    segmented = SegmentExecutor(segments, params, sizes=(1, 2, 4))

    def counted(run, mask, number, *others):
        sizes[int(number), mask.shape] += 1
        return run(mask, number, *others)

    monkeypatch.setattr(segmented, "segments", [partial(counted, run) for run in segmented.segments])
    found = segmented([inputs(batch) for batch in batches])
    expected = Counter()
    for length in (7, 9):
        those = [n for n in range(13) if batches[n]["input_ids"].shape[1] == length]
        lefts = [full(segments, params, *inputs(batches[n])) for n in those]
        for n, left in zip(those, lefts, strict=True):
            agree(found[n], left)
        depths = np.concatenate([left.depths for left in lefts])
        assert len(set(depths)) > 2
        for number in range(5):
            batches_of_four, rest = divmod(int((depths > number).sum()), 4)
            expected[number, (4, length)] += batches_of_four
            expected[number, ({1: 1, 2: 2, 3: 4}.get(rest, 4), length)] += rest > 0
    assert +sizes == +expected


def test_no_example_exits_a_model_whose_exits_are_closed():
    model, params = tiny(num_hidden_layers=3, exits=Exits((0, 1)))
    plain = model.clone(config=model.config.replace(exits=None))
    segments, batch = (
        segmented_model(model.config, policy_of(model.config, ExitRule("entropy", 0.0))),
        tiny_batch(LENGTHS),
    )
    expected = ExitOutput(np.asarray(apply(plain, params, batch).logits), np.full(len(LENGTHS), 3))
    for run in (full, looped, in_segments):
        agree(run(segments, params, *inputs(batch)), expected)


def test_open_exits_make_a_model_of_one_layer():
    model, params = tiny(num_hidden_layers=3, exits=Exits((0, 1)))
    segments = segmented_model(model.config, policy_of(model.config, ExitRule("entropy", 1e9)))
    [found] = EarlyExitExecutor(segments, params)([inputs(tiny_batch(LENGTHS))])
    assert set(found.depths.tolist()) == {1}
    np.testing.assert_allclose(found.logits, apply(model, params, tiny_batch(LENGTHS)).exit_logits[0], **SAME_MATHS)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["position", "example"])
@pytest.mark.parametrize("output", ["basic", "accumulated"])
def test_halting_is_a_way_of_leaving(scope, output):
    rule = Halting(output, scope=scope, bias=-0.5, remainder_at_end=True)
    model, params = tiny(num_hidden_layers=1, recurrence=Recurrence(6, halting=rule))
    params["encoder"]["halting"]["kernel"] *= 4.0  # so that examples differ
    batch = tiny_batch(LENGTHS)
    out = apply(model, params, batch)
    expected = ExitOutput(np.asarray(out.logits), np.asarray(out.trace.halting.steps).max(axis=1).astype(int))
    assert len(set(expected.depths.tolist())) > 1
    segments = segmented_model(model.config)
    agree(full(segments, params, *inputs(batch)), expected)
    agree(looped(segments, params, *inputs(batch)), expected)
    agree(in_segments(segments, params, *inputs(batch)), expected)


@pytest.mark.slow
def test_segments_alike_are_one_program_and_no_new_ones_are_compiled_after_the_warm_up():
    model, params = with_exits()
    segments = segmented_model(model.config, Whim())
    assert len(set(segments.segments)) == 2, "layers between exits, and the last with the model's head"
    segmented, compiled = SegmentExecutor(segments, params, sizes=(2, 4, 8)), []
    segmented.warm_up((7,))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: (
            compiled.append(event) if event.endswith("backend_compile_duration") else None
        )
    )
    depths = set()
    for seed in range(12):
        lengths = LENGTHS[: 1 + seed % 8]
        several = [inputs(tiny_batch(lengths, columns=7, seed=seed + again)) for again in range(1 + seed % 3)]
        depths |= {depth for left in segmented(several) for depth in left.depths.tolist()}
    assert len(depths) > 2
    assert compiled == []
    segmented([inputs(tiny_batch((5, 3), columns=5))])
    assert compiled, "the listener hears nothing: this test could not fail"


def test_what_cannot_be_walked_is_said():
    with pytest.raises(UserError, match="has neither early exits nor a recurrence with halting"):
        segmented_model(tiny()[0].config)


def test_a_batch_of_filler_leaves_at_once():
    model, params = tiny(num_hidden_layers=3, exits=Exits((0, 1)))
    segments = segmented_model(model.config, policy_of(model.config, ExitRule("entropy", 0.5)))
    nothing = np.zeros((4, 7), np.int32)
    assert in_segments(segments, params, nothing, nothing, nothing).depths.tolist() == [0] * 4
