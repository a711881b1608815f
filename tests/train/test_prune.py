"""`prune` as a user runs it: parts gone for good, the score won back, and what stays after it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.distill.student import Student
from bertjax.distill.terms import SoftTargets
from bertjax.params import flatten
from bertjax.prune.masks import nonzero_masks, sparsity_of
from tests.train.tiny import weights, write_model, write_table
from train import finetune, prune, quantize
from train.common import Data
from train.compress import without_teacher
from train.optimiser import Optimiser
from train.prune import KERNELS
from train.stages import Done


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


@pytest.mark.parametrize("score", ["importance", "official", "magnitude", "random"])
def test_heads_go_over_all_layers(work: Path, score: Any):
    bundle = pruned(work, f"heads-{score}", heads=0.5, score=score, recover=False)
    heads = [one for one, _ in shapes(bundle)]
    assert sum(heads) == 4
    assert min(heads) >= 1
    assert bundle.config.head_size == 4


def test_neurons_go_in_rounds_and_in_multiples_and_the_score_is_won_back(work: Path):
    bundle = pruned(work, "neurons", heads=0.25, neurons=0.6, score="activity", rounds=2, multiple=4)
    neurons = [one for _, one in shapes(bundle)]
    assert all(one % 4 == 0 for one in neurons)
    assert sum(neurons) < 64
    before, after = bertjax.load(work / "neurons" / "cut"), bundle
    assert before.config == after.config
    kernel = "encoder/layer_0/ffn/output/kernel"
    assert (flatten(before.params)[kernel] != flatten(after.params)[kernel]).any()  # it was trained
    record = json.loads((work / "neurons" / "run.json").read_text())
    assert record["result"]["accuracy"] > 0.8
    assert record["training_step_bytes"] > 0
    kept = weights(work / "neurons")
    pruned(work, "neurons", heads=0.25, neurons=0.6, score="activity", rounds=2, multiple=4)  # finished: left alone
    assert weights(work / "neurons") == kept


def test_a_layer_goes(work: Path):
    assert len(shapes(pruned(work, "layer", layers=0.5, recover=False))) == 1


@pytest.mark.parametrize(("pattern", "expected"), [("global", 0.7), ("2:4", 0.5)])
def test_weights_stay_zero_through_recovery_and_rounding(work: Path, pattern: Any, expected: float):
    bundle = pruned(work, f"weights-{pattern[0]}", weights=0.7, pattern=pattern)
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


def test_what_makes_no_sense_is_refused(work: Path):
    for given, said in (
        ({"heads": 1.0}, "--heads=1.0: expected a part of the whole"),
        ({"neurons": 0.5, "score": "official"}, "--score=official is about heads"),
        ({"layers": 0.5, "score": "magnitude"}, "whole layers go by importance"),
        ({"heads": 0.5, "rounds": 0}, "--rounds=0"),
        ({}, "nothing is to be taken out"),
        ({"heads": 0.5, "student": Student(num_hidden_layers=3)}, "the student of a pruning is the model"),
    ):
        with pytest.raises(UserError, match=said):
            pruned(work, "nothing", **given)


def test_the_honest_row_beside_a_pruned_model_is_the_same_model_without_a_teacher():
    stage = prune.Prune(heads=0.5, steps=7, batch_size=8)
    alone = without_teacher([Done(stage, Data(), Path("stages/2-pruned/bundle"))])
    assert alone.student == Student(start="stages/2-pruned/cut", whole=True)
    assert (alone.steps, alone.batch_size) == (7, 8)
