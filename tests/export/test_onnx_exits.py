"""A file gives each text the exit that the bundle gives it, whatever else is in the batch."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from bertjax.adaptive import ExitOutput, full, policy_of, segmented_model
from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.bundle import Bundle
from bertjax.export.onnx import onnx_model
from bertjax.model import BertConfig, ExitRule, Exits, Retention
from tests.adaptive.test_executors import ALBERT, DISTIL, EVERY, afterwards, inputs, with_exits
from tests.adaptive.test_token_dropping import LENGTHS, NO_HEADS, RETENTION, batch_of, no_near_ties
from tests.model.tiny import apply

NAMES = ("input_ids", "attention_mask", "token_type_ids")
CASES = {
    "entropy": (EVERY, {}, "entropy", None),
    "normalised entropy": (Exits((1, 2), "shared_pooler"), DISTIL, "normalised_entropy", None),
    "margin of a mean": (Exits((-1, 1, 3), reads="mean"), {}, "margin", None),
    "probability of a shared head": (Exits((0, 1, 2, 3), "shared"), ALBERT, "max_probability", None),
    "patience": (EVERY, {}, "patience", None),
    "fewer tokens": (EVERY, {}, "entropy", RETENTION),
    "a mean of fewer": (
        Exits((0, 2, 3), reads="mean"),
        {},
        "margin",
        Retention((0.8, 0.4, 0.4, 0.2, 0.2), "all", "layer"),
    ),
    "shared layers of fewer": (
        Exits((0, 1, 2, 3), "shared"),
        ALBERT,
        "patience",
        Retention((0.7, 0.7, 0.5, 0.3, 0.3), "random"),
    ),
    "layers without heads": (Exits((1,), "shared_pooler"), NO_HEADS, "entropy", Retention((0.7, 0.5, 0.5, 0.5, 0.3))),
}


def run(model: Any, batch: Any, **settings: float) -> ExitOutput:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = dict(zip(NAMES, batch, strict=True))
    needed = {one.name: np.asarray(given[one.name], np.int64) for one in session.get_inputs()}
    logits, depths = session.run(
        ["logits", "depth"], needed | {name: np.array(value, np.float32) for name, value in settings.items()}
    )
    return ExitOutput(np.asarray(logits), np.asarray(depths))


def agree(found: ExitOutput, expected: ExitOutput) -> None:
    assert found.depths.tolist() == expected.depths.tolist()
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def spreading(rule: Any, output: Any) -> ExitRule:
    """The rule of its kind by which texts leave at the most different exits, and nobody only just."""
    if rule == "patience":
        return ExitRule("patience", 1.0)
    sure = np.asarray((LOW_IS_SURE | HIGH_IS_SURE)[rule](jnp.stack(output.exit_logits)))
    ends = np.sort(sure.ravel())
    wide = np.flatnonzero(np.diff(ends) > 1e-4)
    middles = (ends[wide] + ends[wide + 1]) / 2
    leave = [sure < one if rule in LOW_IS_SURE else sure > one for one in middles]
    kinds = [len(set(np.where(one.any(axis=0), one.argmax(axis=0), len(one)))) for one in leave]
    return ExitRule(rule, float(middles[int(np.argmax(kinds))]))


def made(name: str) -> tuple[Bundle, Any]:
    """A model with an exit rule by which some leave, and a batch without close choices."""
    exits, changes, rule, retention = CASES[name]
    model, params = with_exits(exits, retention=retention, initializer_range=0.3, **changes)
    clear = lambda one: retention is None or retention.ranked_by == "random" or no_near_ties(model, params, one)  # noqa: E731
    batch = next(batch for batch in map(batch_of, range(4)) if clear(batch))
    exit_rule = spreading(rule, apply(model, params, batch))
    config = model.config.replace(exits=dataclasses.replace(exits, exit_rule=exit_rule))
    return Bundle(config, params), batch


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_file_exits_where_the_bundle_does(name: str):
    bundle, batch = made(name)
    expected = afterwards(bundle.model, bundle.params, policy_of(bundle.config), batch)
    assert len(set(expected.depths.tolist())) > 1, "all leave at the same exit: the test would show nothing"
    model = onnx_model(bundle.config, bundle.params)
    agree(run(model, inputs(batch)), expected)
    for row, length in enumerate(LENGTHS):
        alone = run(model, [array[row : row + 1, :length] for array in inputs(batch)])
        agree(alone, ExitOutput(expected.logits[row : row + 1], expected.depths[row : row + 1]))
