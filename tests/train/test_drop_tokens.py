"""The command `bertjax drop_tokens`: what it leaves, what it says, what it refuses; and the same model wherever it is
run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax import UserError
from bertjax.engine.record import read_record
from bertjax.export.check import CLOSE
from bertjax.export.folder import export
from bertjax.metrics.uncertainty import proportion_difference_interval
from bertjax.model import Retention
from bertjax.recipes.compress import Config as Compression
from bertjax.recipes.data import Data
from bertjax.recipes.drop_tokens import Config, DropTokens
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.token_dropping.search import LADDER
from tests.train.tiny import write_model, write_table
from train import compress, distill, drop_tokens, finetune

RECIPE: dict[str, Any] = {"steps": 30, "batch_size": 8, "save_every": 50, "optimiser": Optimiser(learning_rate=0.01)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of three layers that has learnt its task."""
    from bertjax.recipes.finetune import Config as Tuning

    folder = tmp_path_factory.mktemp("tokens")
    write_model(folder / "model", architecture="BertModel", num_hidden_layers=3)
    for name, seed in (("train", 0), ("eval", 1), ("held-out", 2)):
        write_table(folder / f"{name}.tsv", 64, seed=seed, filler=(10, 12))
    write_table(folder / "unlabelled.tsv", 64, seed=2, labelled=False, filler=(10, 12))
    write_table(folder / "certifies.tsv", 160, seed=3, filler=(10, 12))
    recipe = {**RECIPE, "steps": 100, "optimiser": Optimiser(learning_rate=0.003)}
    finetune.main(Tuning(model=str(folder / "model"), data=data(folder), out=str(folder / "tuned"), **recipe))
    return folder


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "eval.tsv"), max_length=16)


def made(work: Path, out: str, **settings: Any) -> Path:
    given = {"model": str(work / "tuned" / "bundle"), "data": data(work), **RECIPE, **settings}
    drop_tokens.main(Config(out=str(work / out), **given))
    return work / out


def probabilities(bundle: bertjax.Bundle, texts: list[str]) -> np.ndarray:
    found = bundle.predict(texts).probabilities
    assert found is not None
    return found


@pytest.mark.slow
def test_shares_are_searched_within_the_budget_and_the_model_trains_with_them(work: Path):
    out = made(work, "searched", flops=0.3, held_out=str(work / "unlabelled.tsv"), evaluations=12, examples=32, steps=8)
    record = read_record(out) or {}
    assert 0.65 < record["flops_left"] <= 0.7
    assert record["result"].keys() == {"accuracy", "FLOPs left", *(f"mean tokens after layer {i}" for i in range(3))}
    assert record["result"]["FLOPs left"] == pytest.approx(record["flops_left"], abs=0.05)  # on another text
    found = bertjax.load(out / "bundle").config.retention
    assert found is not None
    assert list(found.shares) == record["shares"] == [*record["searched"][0]["shares"], record["shares"][1]]
    assert record["searched"][0]["loss"] == min(one["loss"] for one in record["searched"])
    before, after = (bertjax.load(out / name).params["classifier"]["kernel"] for name in ("cut", "bundle"))
    assert not np.array_equal(before, after)


def measured(work: Path, shares: list[float]) -> tuple[float, float]:
    """The accuracy on the certifying text with these shares, text by text, and the upper end of its loss."""
    import dataclasses

    lines = [line.split("\t") for line in (work / "certifies.tsv").read_text().splitlines()[1:]]
    whole = bertjax.load(work / "tuned" / "bundle")
    fewer = dataclasses.replace(whole, config=whole.config.replace(retention=Retention(tuple(shares))))
    gold = np.array([label for _, label in lines])
    right = [np.array(one.predict([t for t, _ in lines], batch_size=1).labels) == gold for one in (whole, fewer)]
    counts = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return float(right[1].mean()), float(proportion_difference_interval(*counts, len(lines))[1])


@pytest.mark.slow
def test_the_fewest_flops_before_the_first_rung_that_breaks_the_bound_are_kept(work: Path):
    bound, held_out = 0.03, str(work / "certifies.tsv")
    out = made(work, "bound", bound=bound, held_out=held_out, evaluations=34, examples=32, finetune_after=False)
    record, kept = read_record(out) or {}, bertjax.load(out / "bundle").config.retention
    rungs, upper = record["ladder"], []
    for rung in rungs:
        accuracy, high = measured(work, rung["shares"])
        assert (rung["score"], rung["loss_ci95"][1]) == (pytest.approx(accuracy), pytest.approx(high))
        upper.append(high)
    assert [high > bound for high in upper] == [False] * (len(rungs) - 1) + [True]
    assert len(rungs) > 1
    assert kept is not None
    assert list(kept.shares) == record["shares"] == rungs[-2]["shares"]
    left = [rung["tokens_left"]["flops_left"] for rung in rungs]
    assert left == sorted(left, reverse=True)
    assert all(0.98 - removed < one < 1.02 - removed for removed, one in zip(LADDER, left, strict=False))
    report = (out / "report.md").read_text()
    assert report.count("| yes |") == 1
    assert "of the FLOPs loses at most 3 points, interval included; the bundle drops tokens so." in report


@pytest.mark.slow
def test_where_nothing_is_certified_the_ladder_is_shown_and_no_model_is_made(work: Path):
    with pytest.raises(UserError, match="64 held-out texts are too few to certify a loss"):
        made(work, "none", bound=0.001, held_out=str(work / "held-out.tsv"), evaluations=17, examples=16)
    record = read_record(work / "none") or {}
    assert len(record["ladder"]) == 12, "as far as texts of so few tokens can be made shorter"
    assert not {"bundle", "cut"} & {path.name for path in (work / "none").iterdir()}
    assert "No fraction of the FLOPs loses at most 0.1 points for certain" in (work / "none/report.md").read_text()


@pytest.mark.slow
def test_given_shares_are_kept_and_all_of_a_text_is_the_model_itself(work: Path):
    whole = made(work, "whole", shares=(1.0, 1.0, 1.0), finetune_after=False)
    texts = ["the film with its good music", "a bad story", "scenes " * 9]
    ours, theirs = (probabilities(bertjax.load(folder / "bundle"), texts) for folder in (whole, work / "tuned"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    half = bertjax.load(made(work, "half", shares=(0.5, 0.5, 0.5), finetune_after=False) / "bundle")
    alone = np.concatenate([probabilities(half, [text]) for text in texts])
    np.testing.assert_allclose(probabilities(half, texts), alone, atol=1e-5)
    with pytest.raises(UserError, match="drops tokens already"):
        made(work, "again", model=str(work / "half" / "bundle"), shares=(0.5, 0.4, 0.3))
    with pytest.raises(UserError, match="drops tokens, and how many depends"):
        export(str(work / "half" / "bundle"), "litert", str(work / "litert"))
    assert export(str(work / "half" / "bundle"), "onnx", str(work / "onnx")) < CLOSE


@pytest.mark.slow
def test_a_stage_of_compress_follows_the_fine_tuning(work: Path):
    stages = (Finetune(**RECIPE), DropTokens(flops=0.3, evaluations=4, examples=16, **{**RECIPE, "steps": 4}))
    compress.main(Compression(model=str(work / "model"), data=data(work), stages=stages, out=str(work / "all")))
    bundle = bertjax.load(work / "all" / "bundle")
    assert bundle.config.retention is not None
    written = (work / "all" / "report.md").read_text()
    assert re.search(r"\*\*fewer-tokens\*\* drops tokens: mean tokens after each layer \d+\.\d, .* FLOPs left", written)


@pytest.mark.slow
def test_soft_extraction_is_a_transform_of_distill_whose_model_is_trained_again(work: Path):
    from bertjax.distill.terms import SoftTargets
    from bertjax.recipes.distill import Config as Distillation
    from bertjax.student import Student
    from bertjax.token_dropping import SoftExtraction

    part = SoftExtraction(penalty=0.05, bins=8, factor_learning_rate=0.05)
    common: dict[str, Any] = {"model": str(work / "tuned" / "bundle"), "data": data(work), "losses": (SoftTargets(),)}
    itself = Student(init_from=str(work / "tuned" / "bundle"), as_is=True)
    distill.main(Distillation(student=itself, transforms=(part,), out=str(work / "soft"), **common, **RECIPE))
    first = bertjax.load(work / "soft" / "bundle").config.retention
    assert first is not None
    assert first.shares[0] < 1
    fewer = Student(init_from=str(work / "soft" / "bundle"), as_is=True)
    distill.main(Distillation(student=fewer, out=str(work / "hard"), **common, **{**RECIPE, "steps": 4}))
    assert bertjax.load(work / "hard" / "bundle").config.retention == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (1.0, 0.5), "flops": 0.5}, "give one of --shares, --flops and --bound"),
        ({"bound": 0.01, "flops": 0.5, "held_out": "a"}, "--flops=0.5 and --bound=0.01: give one of"),
        ({"bound": 0.0, "held_out": "text.tsv"}, "--bound=0.0: expected a loss of score above 0"),
        ({"bound": 0.01}, "needs labelled text that certifies it: give --held_out"),
        ({"bound": 0.01, "held_out": "a", "evaluations": 16}, "with --bound expected 17 or more"),
        ({"flops": 1.0}, "--flops=1.0: expected the fraction to remove"),
        ({"shares": (0.5, 0.7)}, "a token that was dropped does not come back"),
        ({"held_out": "text.tsv"}, "is the text that --flops searches on"),
        ({"evaluations": 0, "flops": 0.5}, "--evaluations=0: expected 1 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Config(**settings)


def test_what_is_missing_is_said(work: Path):
    with pytest.raises(UserError, match="how many tokens are to go on"):
        made(work, "nothing")
    with pytest.raises(UserError, match="are the same text"):
        made(work, "same", flops=0.3, held_out=str(work / "eval.tsv"))
    with pytest.raises(UserError, match="searched on one text and certified on another"):
        made(work, "trained", bound=0.01, held_out=str(work / "train.tsv"))
    with pytest.raises(UserError, match="expected one share for each of 3 depth steps"):
        made(work, "two", shares=(0.5, 0.4), finetune_after=False)
