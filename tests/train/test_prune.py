"""`prune` as a user runs it: parts gone for good, the score won back, and what stays after it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.distill.terms import SoftTargets
from bertjax.jobs.prune import control_of
from bertjax.jobs.speedup import measure_speedup
from bertjax.measure.cost import forward_cost
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.params import flatten
from bertjax.prune.costs import LatencyTable, model_cost
from bertjax.prune.criteria import SecondOrder
from bertjax.prune.masks import nonzero_masks, sparsity_of
from bertjax.prune.transforms import KERNELS
from bertjax.quantize import Format
from bertjax.quantized.formats import INT8
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune
from bertjax.student import Student
from bertjax.text.examples import Examples
from tests.train.tiny import context, metrics, weights, write_model, write_table
from train import distill, finetune, prune, quantize


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    write_model(folder / "model", num_attention_heads=4)
    write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
    recipe = {"steps": 60, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.01)}
    finetune.main(finetune.Config(model=str(folder / "model"), data=data(folder), out=str(folder / "whole"), **recipe))
    return folder


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=16)


def pruned(work: Path, out: str, **recipe: Any) -> Any:
    """The bundle that the script leaves."""
    losses = {"losses": (SoftTargets(),), "steps": 4, "batch_size": 8}
    given = {"model": str(work / "whole" / "bundle"), "data": data(work), "out": str(work / out), **losses, **recipe}
    prune.main(prune.Config(**given))
    return bertjax.load(work / out / "bundle")


def shapes(bundle: Any) -> list[tuple[int, int]]:
    return [step.shape for step in bundle.config.depth_steps()]


@pytest.mark.slow
@pytest.mark.parametrize("score", ["importance", "official", "magnitude", "random"])
def test_heads_go_over_all_layers(work: Path, score: Any):
    bundle = pruned(work, f"heads-{score}", heads=0.5, criterion=score, finetune_after=False)
    heads = [one for one, _ in shapes(bundle)]
    assert sum(heads) == 4
    assert min(heads) >= 1
    assert bundle.config.head_size == 4


@pytest.mark.slow
def test_of_a_model_that_no_task_has_trained_parts_go_by_magnitude_alone(work: Path):
    untrained = write_model(work / "untrained", architecture="BertModel", num_attention_heads=4)
    smaller = pruned(
        work, "blind", model=str(untrained), criterion="magnitude", finetune_after=False, heads=0.5, neurons=0.5
    )
    assert smaller.config.architecture == "BertModel"  # no head that nobody trained
    assert sum(heads for heads, _ in shapes(smaller)) == 4
    with pytest.raises(
        UserError, match=r"no trained head; fine-tune it first.*--criterion=magnitude --finetune_after=False"
    ):
        pruned(work, "seeing", model=str(untrained), heads=0.5, finetune_after=False)
    with pytest.raises(UserError, match="no trained head"):
        pruned(work, "seeing", model=str(untrained), heads=0.5, criterion="magnitude")


@pytest.mark.slow
def test_neurons_go_in_rounds_and_in_multiples_and_the_score_is_won_back(work: Path):
    bundle = pruned(work, "neurons", heads=0.25, neurons=0.6, criterion="activity", iterations=2, multiple=4)
    neurons = [one for _, one in shapes(bundle)]
    assert all(one % 4 == 0 for one in neurons)
    assert sum(one for one, _ in shapes(bundle)) == 6  # a head has four columns itself
    assert sum(neurons) < 64
    before, after = bertjax.load(work / "neurons" / "cut"), bundle
    assert before.config == after.config
    kernel = "encoder/layer_0/ffn/output/kernel"
    assert (flatten(before.params)[kernel] != flatten(after.params)[kernel]).any()  # it was trained
    record = json.loads((work / "neurons" / "run.json").read_text())
    assert record["result"]["accuracy"] > 0.8
    assert record["training_step_bytes"] > 0
    kept = weights(work / "neurons")
    pruned(
        work, "neurons", heads=0.25, neurons=0.6, criterion="activity", iterations=2, multiple=4
    )  # finished: left alone
    assert weights(work / "neurons") == kept


@pytest.mark.slow
def test_a_layer_goes(work: Path):
    assert len(shapes(pruned(work, "layer", layers=0.5, finetune_after=False))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "given", "expected"), [("global", 0.7, 0.7), ("2:4", 0.0, 0.5)])
def test_weights_stay_zero_through_recovery_and_rounding(work: Path, pattern: Any, given: float, expected: float):
    bundle = pruned(work, f"weights-{pattern[0]}", weights=given, pattern=pattern)
    found = nonzero_masks(bundle.params, KERNELS)
    assert sparsity_of(found) == pytest.approx(expected, abs=0.01)
    cut = bertjax.load(work / f"weights-{pattern[0]}" / "cut")
    masks = flatten(nonzero_masks(cut.params, KERNELS))
    assert all((mask >= flatten(found)[path]).all() for path, mask in masks.items())
    if pattern == "global":
        source, out = work / "weights-g" / "bundle", str(work / "rounded")
        quantize.main(quantize.Config(model=str(source), data=data(work), out=out))
        integers = flatten(bertjax.load(work / "rounded" / "bundle").params)
        assert all((np.asarray(integers[path].values)[~mask] == 0).all() for path, mask in masks.items())


@pytest.mark.slow
@pytest.mark.parametrize("qat", ["off", "ste", "lsq"])
def test_zeros_stay_zeros_from_pruning_through_distillation_into_the_integers(work: Path, qat: Any):
    """Large steps, decay and momentum: what is under a mask does move, and is never seen."""
    if not (work / "sparse").exists():
        pruned(work, "sparse", weights=0.6, pruning_end=0.5)
    hard = {"steps": 12, "batch_size": 8, "optimiser": Optimiser(learning_rate=0.02, weight_decay=0.5)}
    model, student = str(work / "sparse" / "bundle"), Student(init_from=str(work / "sparse" / "bundle"), as_is=True)
    teacher, out = str(work / "whole" / "bundle"), str(work / "taught")
    common: Any = {"keep_zeros": KERNELS, "data": data(work), **hard}
    distill.main(distill.Config(model=teacher, student=student, losses=(SoftTargets(),), out=out, **common))
    rules = ((r"layer_0/.*kernel$", Format(4)), (r"layer_1/.*kernel$", Format(scheme="ternary")), *INT8)
    rounded = str(work / f"rounded-{qat}")
    quantize.main(quantize.Config(model=f"{out}/bundle", weights=rules, qat=qat, out=rounded, **common))
    first, taught = (flatten(bertjax.load(folder).params) for folder in (model, f"{out}/bundle"))
    integers = flatten(bertjax.load(f"{rounded}/bundle").params)
    for path in flatten(nonzero_masks(bertjax.load(model).params, KERNELS)):
        gone = first[path] == 0
        assert gone.any()
        assert (taught[path] != first[path])[~gone].mean() > 0.9
        np.testing.assert_array_equal(np.asarray(taught[path])[gone], 0)
        np.testing.assert_array_equal(np.asarray(integers[path].values)[gone], 0)


@pytest.mark.slow
def test_zeros_are_not_kept_in_a_format_that_has_none(work: Path):
    asymmetric = ((r"layer_1/ffn/output/kernel$", Format(4, "asymmetric")), *INT8)
    given: Any = {"model": str(work / "whole" / "bundle"), "data": data(work), "out": str(work / "refused")}
    with pytest.raises(
        UserError, match=r"encoder/layer_1/ffn/output/kernel at 0, and .* is asymmetric, without an integer for 0"
    ):
        quantize.main(quantize.Config(weights=asymmetric, keep_zeros=KERNELS, **given))
    with pytest.raises(UserError, match="'kernal' matches the path of no matrix"):
        quantize.main(quantize.Config(keep_zeros="kernal", **given))


KEPT = {"global": 0.7, "matrix": 0.7, "row": 0.7, "2:4": 0.5}
GRADUAL = {"pruning_end": 0.9, "steps": 9, "save_every": 3}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", KEPT)
def test_weights_go_while_the_rest_learns_exactly_as_many_as_asked(work: Path, pattern: Any):
    out = f"gradual-{pattern[0]}"
    bundle = pruned(work, out, weights=KEPT[pattern], pattern=pattern, **GRADUAL)
    before = flatten(bertjax.load(work / out / "cut").params)
    zeros = {path: np.asarray(leaf) == 0 for path, leaf in flatten(bundle.params).items() if re.search(KERNELS, path)}
    assert not any((before[path] == 0).any() for path in zeros)  # nothing was gone when learning began
    if pattern == "global":
        assert sum(map(np.sum, zeros.values())) == int(0.7 * sum(zero.size for zero in zeros.values()))
    for path, zero in zeros.items():
        if pattern == "matrix":
            assert zero.sum() == int(0.7 * zero.size), path
        elif pattern != "global":
            rows = zero.T.reshape(-1, 4 if pattern == "2:4" else len(zero))
            assert (rows.sum(axis=1) == int(KEPT[pattern] * rows.shape[1])).all(), path


@pytest.mark.slow
def test_masks_are_in_the_checkpoint_so_that_a_run_that_was_cut_ends_with_the_same_bits(work: Path):
    recipe = {"weights": 0.7, "pattern": "matrix", **GRADUAL}
    out = work / "cut-short"
    pruned(work, out.name, **recipe)
    straight = weights(out)
    for gone in ("recovery/checkpoints/9", "recovery/bundle", "bundle"):
        shutil.rmtree(out / gone)
    for folder in (out, out / "recovery"):
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "result"}))
    pruned(work, out.name, **recipe)
    starts = [line["step"] for line in metrics(out / "recovery") if line.get("event") == "restart"]
    assert starts == [6]  # with two more steps at which weights go
    assert weights(out) == straight


@pytest.mark.slow
def test_as_many_parts_go_as_make_it_so_fast(work: Path, monkeypatch):
    """Time by the arithmetic, which does not depend on who else works on this machine."""

    def arithmetic(folder: Any) -> float:
        bundle = folder if isinstance(folder, bertjax.Bundle) else bertjax.load(folder)
        return forward_cost(bundle.model, bundle.params, 16).flops or 0.0

    monkeypatch.setattr(
        "bertjax.jobs.speedup.measure_speedup", lambda whole, smaller, *_: arithmetic(whole) / arithmetic(smaller)
    )
    bundle = pruned(work, "fast", speedup=1.5, criterion="magnitude", finetune_after=False)
    record = json.loads((work / "fast" / "run.json").read_text())
    assert record["speedup"]["asked"] == 1.5
    found = arithmetic(work / "whole" / "bundle") / arithmetic(work / "fast" / "bundle")
    assert record["speedup"]["reached"] == found >= 1.5
    assert sum(one for _, one in shapes(bundle)) == 64 - round(record["removed"] * 64)
    part = record["removed"] - 1 / 32
    pruned(work, "slower", heads=part, neurons=part, criterion="magnitude", finetune_after=False)
    assert arithmetic(work / "whole" / "bundle") / arithmetic(work / "slower" / "bundle") < 1.5
    with pytest.raises(UserError, match=r"40 times as fast was requested; with all prunable heads and neurons removed"):
        pruned(work, "too-fast", speedup=40.0, criterion="magnitude", finetune_after=False)


@pytest.mark.slow
def test_with_second_order_costs_the_weights_that_remain_are_corrected(work: Path):
    whole = bertjax.load(work / "whole" / "bundle")
    bundle = pruned(work, "corrected", heads=0.5, neurons=0.5, criterion="second_order", finetune_after=False)
    assert sum(heads for heads, _ in shapes(bundle)) == 4
    assert sum(neurons for _, neurons in shapes(bundle)) == 32
    batch = {"input_ids": np.arange(1, 13)[None] % 30, "attention_mask": np.ones((1, 12), int)}

    def states(given: Any) -> np.ndarray:
        return np.asarray(given.model.apply({"params": given.params}, **batch).hidden_states[-1])

    plain = pruned(work, "uncorrected", heads=0.5, neurons=0.5, criterion="random", finetune_after=False)
    assert np.linalg.norm(states(bundle) - states(whole)) < np.linalg.norm(states(plain) - states(whole))


HEADS, NEURONS = ((0, 0.0), (1, 0.5), (4, 1.25)), ((0, 0.0), (64, 4.0))
TABLE = LatencyTable(1.0, HEADS, NEURONS, 16, 4, "jax", 1, "made up", "made up", {})


@pytest.mark.slow
def test_sizes_of_layers_are_chosen_from_a_table_of_latencies(work: Path, monkeypatch):
    def total(given: Any) -> float:
        return model_cost(TABLE, (given if isinstance(given, bertjax.Bundle) else bertjax.load(given)).config)

    monkeypatch.setattr(
        "bertjax.jobs.speedup.measure_speedup", lambda whole, smaller, *_: total(whole) / total(smaller)
    )
    TABLE.save(str(work / "latency.json"))
    fast: dict[str, Any] = {"table": str(work / "latency.json"), "finetune_after": False}
    importance = pruned(work, "importance-by-latency", speedup=1.5, criterion="magnitude", **fast)
    assert total(work / "whole" / "bundle") / total(importance) >= 1.5
    fast |= {"criterion": SecondOrder(candidates=6)}
    bundle = pruned(work, "by-latency", speedup=2.0, **fast)
    record = json.loads((work / "by-latency" / "run.json").read_text())["speedup"]
    assert record["predicted"] == record["reached"] == total(work / "whole" / "bundle") / total(work / "by-latency/cut")
    assert record["reached"] >= record["asked"] == 2.0
    assert shapes(pruned(work, "by-latency-again", speedup=2.0, **fast)) == shapes(bundle)
    with pytest.raises(
        UserError, match=r"9 times as fast was requested; with all heads and neurons removed it is 7.50"
    ):
        pruned(work, "too-fast-for-the-table", speedup=9.0, **fast)


@pytest.mark.slow
def test_both_models_are_timed_in_one_call_one_text_at_a_time(work: Path, monkeypatch):
    texts, whole = Examples(["the film a fine story", "very dull"]), work / "whole" / "bundle"
    ms = {"whole": 9.0, "smaller": 6.0}

    def clock(candidates: Any, words: Any, pairs: Any, **more: Any) -> Any:
        assert (words, pairs, more["max_length"], more["isolated"]) == (texts.texts, None, 16, True)
        assert more["repeats"] >= 3
        assert all(bertjax.load(one.path).config == model.config for one in candidates.values())
        alone = {name: Percentiles(ms[name], 0.0) for name, one in candidates.items() if one.runtime == "jax"}
        return {name: Timing("jax", "cpu", 1, {}, Latency(t, t), 0.0) for name, t in alone.items()}

    monkeypatch.setattr("bertjax.measure.latency.measure_latency", clock)
    config = prune.Config(data=dataclasses.replace(data(work), max_length=16))
    model = bertjax.load(whole)
    assert measure_speedup(model, model, texts, config) == 1.5


@pytest.mark.slow
def test_what_makes_no_sense_is_refused(work: Path):
    for given, said in (
        ({"heads": 1.0}, "--heads=1.0: expected a part of the whole"),
        ({"neurons": 0.5, "criterion": "official"}, "--criterion=official cannot score neurons"),
        (
            {"layers": 0.5, "criterion": "magnitude"},
            "cannot score layers; for them there are importance, random, evenly_spaced",
        ),
        ({"heads": 0.5, "iterations": 0}, "--iterations=0"),
        ({"weights": 0.7, "pattern": "2:4"}, "with --pattern=2:4 half of the weights go"),
        ({"weights": 0.5, "pruning_end": 1.5}, "--pruning_end=1.5: expected a part of the steps"),
        ({"heads": 0.5, "pruning_end": 0.5}, "is about --weights that become 0 while"),
        ({"weights": 0.5, "pruning_end": 0.5, "finetune_after": False}, "give both"),
        ({"speedup": 1.0}, "--speedup=1.0: expected more than 1"),
        ({"speedup": 2.0, "heads": 0.5}, "leave these two out"),
        ({"heads": 0.5, "table": "latency.json"}, "--table=latency.json is for --speedup: give both"),
        ({}, "nothing is to be pruned"),
        ({"speedup": 2.0, "criterion": "official"}, "--criterion=official cannot score neurons"),
        ({"layers": 0.5, "criterion": "second_order"}, "--criterion=second_order cannot score layers"),
        ({"heads": 0.5, "criterion": "second_order", "iterations": 2}, "--criterion=second_order chooses once"),
    ):
        with pytest.raises(UserError, match=said):
            pruned(work, "nothing", **given)


@pytest.mark.slow
def test_the_baseline_beside_a_pruned_model_is_the_same_model_without_a_teacher(work: Path):
    stage = Prune(heads=0.5, steps=7, batch_size=8)
    alone, begins, _ = control_of(stage, context("demo", Data(), "stages/2-pruned"))
    assert isinstance(alone, Finetune)
    assert (alone.student, begins) == (None, "stages/2-pruned/cut")
    assert (alone.steps, alone.batch_size) == (7, 8)
    recipe = {"heads": 0.5, "weights": 0.6, "pruning_end": 0.5, "losses": (SoftTargets(),), "steps": 4, "batch_size": 8}
    bundle = pruned(work, "taught-zeros", **recipe)
    alone, begins, _ = control_of(Prune(**recipe), context("demo", Data(), work / "taught-zeros"))
    assert begins is not None
    alone.run(context(begins, data(work), work / "untaught-zeros"))
    other = bertjax.load(work / "untaught-zeros" / "bundle")
    assert other.config == bundle.config
    masks = [nonzero_masks(one.params, KERNELS) for one in (bundle, other)]
    assert sparsity_of(masks[0]) == sparsity_of(masks[1]) == pytest.approx(0.6, abs=1e-3)
    logged = metrics(work / "untaught-zeros" / "recovery")
    assert {name for line in logged for name in line if "loss/" in name} == {"loss/0_HardLabels"}
