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
from bertjax.errors import UserError
from bertjax.export import export
from bertjax.export.check import CLOSE, check_export, expected_exits, expected_output, open_export
from bertjax.export.folder import write_export
from bertjax.export.onnx import onnx_model
from bertjax.measure.integer_products import inexact_products, operands
from bertjax.measure.onnx import read_graph
from bertjax.model import ExitRule, Exits, Retention
from bertjax.model.sites import integer_sites
from bertjax.quantize import Activation, Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from bertjax.quantized.formats import INT8
from bertjax.report.usage import exported_usage
from bertjax.storage.typed_json import read_json
from bertjax.text.tasks import Task
from tests.adaptive.test_executors import ALBERT, DISTIL, EVERY, afterwards, inputs, with_exits
from tests.adaptive.test_token_dropping import LENGTHS, NO_HEADS, RETENTION, batch_of, no_near_ties
from tests.export.test_onnx import run as plain_run
from tests.model.tiny import apply
from tests.train.tiny import write_model

NAMES = ("input_ids", "attention_mask", "token_type_ids")
NUMBER = {"labels": ("score",), "problem_type": "regression"}
FEWER_AT_RANDOM = Retention((0.7, 0.7, 0.5, 0.3, 0.3), "random")
CASES = {
    "entropy": (EVERY, {}, "entropy", None),
    "normalised entropy": (Exits((1, 2), "shared_pooler"), DISTIL, "normalised_entropy", None),
    "margin of a mean": (Exits((-1, 1, 3), reads="mean"), {}, "margin", None),
    "probability of a shared head": (Exits((0, 1, 2, 3), "shared"), ALBERT, "max_probability", None),
    "patience": (EVERY, {}, "patience", None),
    "patience with numbers": (EVERY, NUMBER, "patience", None),
    "fewer tokens": (EVERY, {}, "entropy", RETENTION),
    "a mean of fewer": (
        Exits((0, 2, 3), reads="mean"),
        {},
        "margin",
        Retention((0.8, 0.4, 0.4, 0.2, 0.2), "all", "layer"),
    ),
    "shared layers of fewer": (Exits((0, 1, 2, 3), "shared"), ALBERT, "entropy", FEWER_AT_RANDOM),
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
        steps = np.sort(np.abs(np.diff(np.stack(output.exit_logits), axis=0)), axis=None)
        return ExitRule("patience", 1.0, tolerance=float(steps[len(steps) // 4 :][:2].mean()))
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


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "token"])
@pytest.mark.parametrize("name", ["entropy", "a mean of fewer", "probability of a shared head"])
def test_integers_exit_where_they_do_in_jax_and_every_branch_multiplies_integers(name: str, fixed: bool, tmp_path):
    plain, batch = made(name)
    config, params = quantise_weights(plain.config, plain.params, INT8)
    assert config.quantization is not None
    bundle = dataclasses.replace(plain, config=config, params=params)
    found = find_ranges(bundle.model, params, [inputs(batch)], "min_max") if fixed else {}
    sites = found or {site: Activation() for site in integer_sites(bundle.model, params)}
    rounding = Quantization(config.quantization.weights, tuple(sites.items()))
    bundle = dataclasses.replace(bundle, config=config.replace(quantization=rounding))
    write_export(bundle, "onnx", tmp_path, False, "int8")
    logits, depths = open_export("onnx", tmp_path)(*inputs(batch))
    assert depths is not None
    expected, wrong = expected_exits(bundle, inputs(batch), depths)
    assert len(set(depths.tolist())) > 1
    assert not wrong.any()
    assert np.median(np.abs(logits - expected).max(axis=-1)) < 1e-4
    graph = read_graph(tmp_path)
    kernels = graph.executed["MatMulIntegerToFloat"] if fixed else graph.executed["MatMulInteger"]
    # A shared matrix is one site a step: the head of every exit and the layers are the same matrices.
    assert kernels >= len(sites)
    assert graph.widened == 0
    matrices = {"entropy": 31, "a mean of fewer": 31, "probability of a shared head": 8}
    assert len(list(operands(tmp_path))) == matrices[name]
    assert inexact_products(tmp_path) == ()


def test_the_threshold_is_an_input_that_may_be_left_out():
    bundle, batch = made("entropy")
    model = onnx_model(bundle.config, bundle.params)
    exits = bundle.config.exits
    assert exits is not None
    for threshold in (-1.0, 1.0, 9.0):
        policy = policy_of(bundle.config, ExitRule("entropy", threshold))
        expected = afterwards(bundle.model, bundle.params, policy, batch)
        agree(run(model, inputs(batch), threshold=threshold), expected)
    assert run(model, inputs(batch), threshold=9.0).depths.tolist() == [1] * len(LENGTHS)
    assert run(model, inputs(batch), threshold=-1.0).depths.tolist() == [5] * len(LENGTHS)


def test_rows_without_a_token_exit_at_once_and_change_nothing():
    bundle, batch = made("fewer tokens")
    junk = [np.concatenate([np.full((3, 16), 41, np.int32), array]) for array in inputs(batch)]
    junk[1][:3], junk[2][:3] = 0, 0
    segments = segmented_model(bundle.config)
    model = onnx_model(bundle.config, bundle.params)
    agree(run(model, junk), full(segments, bundle.params, *junk))
    alone = run(model, [array[:3] for array in junk])
    assert alone.depths.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(alone.logits, 0)


def test_exits_without_a_rule_are_left_out():
    model, params = with_exits()
    batch = batch_of()
    given = expected_output(Bundle(model.config, params), inputs(batch))
    found = onnx_model(model.config, params)
    assert [one.name for one in found.graph.output] == ["logits"]
    np.testing.assert_allclose(plain_run(found, inputs(batch)), given, rtol=1e-5, atol=1e-5)


def test_the_check_of_an_export_knows_exits(tmp_path):
    bundle, _ = made("entropy")
    write_export(bundle, "onnx", tmp_path, False, "int8")
    assert check_export(bundle, "onnx", tmp_path) < CLOSE
    exits = bundle.config.exits
    assert exits is not None
    other = dataclasses.replace(exits, exit_rule=ExitRule("entropy", 9.0))
    with pytest.raises(UserError, match="the outputs of the export differ from JAX by inf times their size"):
        check_export(dataclasses.replace(bundle, config=bundle.config.replace(exits=other)), "onnx", tmp_path)


def test_a_folder_says_by_which_rule_its_texts_exit(tmp_path):
    rule = Exits((0,), exit_rule=ExitRule("entropy", 0.9))
    sizes = {"architecture": "BertForSequenceClassification", "labels": ("a", "b"), "initializer_range": 0.3}
    folder = write_model(tmp_path / "model", **sizes, exits=rule)
    assert export(folder, "onnx", tmp_path / "out") < CLOSE
    with pytest.raises(UserError, match="which --to litert cannot express; use --to onnx or stablehlo"):
        export(folder, "litert", tmp_path / "other")
    task = Task(kind="classification", labels=("a", "b"))
    stored = read_json(tmp_path / "out" / "config.json")["bertjax"]["exits"]["exit_rule"]
    assert 'inputs["threshold"] = np.array(0.9, np.float32)' in exported_usage(task, "onnx/model.onnx", 16, stored)
