"""A comparison of methods: every row trained and reported once, and the same when run alone or started again."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.engine.command_line import load_config
from bertjax.errors import UserError
from bertjax.jobs.compare import lengths_of, planned_stages
from bertjax.jobs.comparison import Bench
from bertjax.jobs.data import Text
from bertjax.jobs.stages import FAILED
from bertjax.measure.cost import forward_cost
from bertjax.model import BertConfig, abstract_params, build
from bertjax.recipes.augment import Augment
from bertjax.recipes.compare import Config, Published, Row
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context, StageResult
from bertjax.recipes.training import Training
from bertjax.student import Student
from bertjax.text.examples import Examples, chosen_by_text
from bertjax.text.tasks import Task
from tests.train.tiny import metrics, weights, write_model, write_table
from train import compare

FAST = Optimiser(learning_rate=0.01)


def learn(name: str, *losses, share: float = 1, **changes) -> Distill:
    return Distill(name=name, losses=losses, epochs=share, optimiser=FAST, **changes)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("compare")
    write_table(folder / "train.tsv", 64, filler=(10, 12))
    write_table(folder / "eval.tsv", 60, seed=1, filler=(10, 12))
    wild = replace(learn("student", SoftTargets()), optimiser=Optimiser(learning_rate=1e30))
    return Config(
        model=str(write_model(folder / "model")),
        data=Data(train=str(folder / "train.tsv"), eval=str(folder / "eval.tsv"), max_length=16, rows=48),
        teacher=(Finetune(steps=30, batch_size=16, optimiser=FAST),),
        student=Student(num_hidden_layers=1, intermediate_size=16),
        alone=Finetune(name="alone", optimiser=FAST),
        rows=(
            Row("steps", (learn("layers", HiddenStates(), share=2), learn("answers", SoftTargets()))),
            Row("pruned", (Prune(heads=0.5, losses=(SoftTargets(),), epochs=5, optimiser=FAST), Quantize())),
            Row("more_text", (Augment(substitutes="neighbours", copies=2), learn("student", SoftTargets()))),
            Row("wild", (wild,), paper=Published(91.5, "a paper")),
        ),
        seeds=(0, 1),
        epochs=None,
        steps=10,
        batch_size=16,
        out=str(folder / "whole"),
    )


@pytest.fixture(scope="module")
def whole(suite: Config) -> Path:
    """A comparison that was interrupted in the middle of a row, and started again."""
    normal = Distill.run

    def interrupted(stage: Distill, context: Context) -> StageResult:
        if stage.name == "answers" and "seed1" in context.out:
            raise KeyboardInterrupt
        return normal(stage, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distill, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare.main(suite)
    with pytest.raises(SystemExit) as left:
        compare.main(suite)
    assert left.value.code == FAILED  # one row does not work
    return Path(suite.out)


def folder(out: Path, seed: int, stage: str = "2-answers") -> Path:
    return out / "rows" / "steps" / f"seed{seed}" / stage


def rows(out: Path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((out / "report.json").read_text())["rows"]}


@pytest.mark.slow
def test_the_table_holds_what_the_bundles_answer(whole: Path, suite: Config):
    lines = [line.split("\t") for line in Path(suite.data.eval).read_text().splitlines()[1:]]
    texts, gold = [text for text, _ in lines], np.array([label for _, label in lines])
    bundles = {
        "steps": [folder(whole, seed) / "bundle" for seed in (0, 1)],
        "no_teacher": [whole / "rows" / "no_teacher" / f"seed{seed}" / "1-alone" / "bundle" for seed in (0, 1)],
    }
    right = {
        name: np.mean([np.array(bertjax.load(path).predict(texts).labels) == gold for path in paths], axis=0)
        for name, paths in bundles.items()
    }
    found = rows(whole)
    assert all(found[name]["score"] == pytest.approx(right[name].mean()) for name in right)
    difference = found["steps"]["differences"]["no_teacher"]["value"]
    assert difference == pytest.approx((right["steps"] - right["no_teacher"]).mean())
    assert {row["parameters"] for name, row in found.items() if name in right} == {
        sum(leaf.size for leaf in jax.tree.leaves(bertjax.load(bundles["steps"][0]).params))
    }
    assert found["steps"]["latency_ms"] == found["no_teacher"]["latency_ms"]  # one shape, one measurement


@pytest.mark.slow
def test_costs_are_counted(whole: Path):
    found = rows(whole)
    assert found["no_teacher"]["passes"] == found["steps"]["passes"] == 10 * 16  # 48 rows are 3 full batches of 16
    assert found["steps"]["teacher_passes"] == 2 * 48  # each stage asks for something else
    assert found["more_epochs"]["passes"] == (10 + 30 + 3) * 16  # the teacher's training, and asking it once


@pytest.mark.slow
def test_a_row_may_prune_the_teacher_and_round_what_is_left(whole: Path):
    """Instead of the student's shape; rounding without training has no share of the budget."""
    row, folder = rows(whole)["pruned"], whole / "rows" / "pruned" / "seed1"
    assert row["passes"] == 10 * 16
    assert row["teacher_passes"] == 48
    bundle = bertjax.load(folder / "2-int8" / "bundle")
    assert [step.num_attention_heads for step in bundle.config.depth_steps()] == [1, 1]
    assert bundle.config.quantization is not None
    assert {line["step"] for line in metrics(folder / "1-pruned" / "recovery") if "loss" in line} == {10}
    assert row["size_bytes"] < rows(whole)["teacher"]["size_bytes"]
    assert row["seconds"] > 0


def bench_of(config: Config) -> Bench:
    """A teacher of ten epochs on 48 examples."""
    return Bench(config, Path(), Text.of(config.data), Task(), "", 48, 10.0)


@pytest.mark.slow
def test_more_text_is_no_more_budget(whole: Path, suite: Config):
    row, steps = rows(whole)["more_text"], whole / "rows" / "more_text" / "seed1" / "2-student"
    lines = (steps.parent / "1-augmented" / "augmented.jsonl").read_text().splitlines()
    assert len(lines) > 2 * 48
    assert {line["step"] for line in metrics(steps) if "loss" in line} == {10}
    assert row["passes"] == pytest.approx(10 * 16, rel=0.1)  # its last batch is not full
    assert row["teacher_passes"] == len(lines)
    bench = bench_of(replace(suite, steps=None, epochs=3.0))
    more = next(row for row in suite.rows if row.name == "more_text")
    student = planned_stages(bench, more, 0)[1]
    assert isinstance(student, Distill)
    assert (student.steps, student.epochs) == (3 * 48 // 16, None)
    packed = replace(more, stages=(more.stages[0], learn("student", SoftTargets(), packed=True)))
    with pytest.raises(
        UserError, match="row more_text: it augments the data and packs it, so the budget must be given"
    ):
        planned_stages(bench, packed, 0)


def test_what_is_asked_of_every_row_stands_over_what_its_stages_say(suite: Config):
    bench = bench_of(replace(suite, dtype="bfloat16", batch_size=8))
    for row in suite.rows:
        for stage in planned_stages(bench, row, 1):
            if isinstance(stage, Training):
                assert (stage.dtype, stage.batch_size, stage.seed) == ("bfloat16", 8, 1)


@pytest.mark.slow
def test_a_failed_row_is_reported_and_the_rest_is_there(whole: Path):
    wild = rows(whole)["wild"]
    assert wild["score"] is None
    assert [seed for seed, _ in wild["failures"]] == [0, 1]
    assert "not finite at step" in wild["failures"][0][1]
    text = (whole / "report.md").read_text()
    assert "**wild**, seed 1, failed: the loss or its gradient was not finite" in text


@pytest.mark.slow
def test_a_row_run_alone_has_the_same_bits(whole: Path, suite: Config, tmp_path: Path):
    compare.main(replace(suite, row="steps/seed1", out=str(tmp_path)))
    assert weights(folder(tmp_path, 1)) == weights(folder(whole, 1))
    assert weights(folder(whole, 0)) != weights(folder(whole, 1))
    assert not (tmp_path / "report.md").exists()
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["steps"]


@pytest.mark.slow
def test_nothing_that_was_finished_was_done_again(whole: Path):
    for place in (folder(whole, 0), folder(whole, 1, "1-layers"), whole / "teacher" / "1-teacher"):
        assert [line["event"] for line in metrics(place) if line.get("event") in ("start", "restart")] == ["start"]


def test_budgets_are_dealt_out_to_the_last_step(suite: Config):
    bench = bench_of(replace(suite, steps=100))
    dealt = lengths_of(bench, "steps", [1, 1, 1])
    assert [stage["steps"] for stage in dealt] == [33, 34, 33]
    bench = replace(bench, config=replace(suite, steps=None, epochs=3.0))
    assert [stage["epochs"] for stage in lengths_of(bench, "steps", [2, 1])] == [2, 1]
    assert [stage["epochs"] for stage in lengths_of(bench, "more_epochs", [1])] == [14]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": "stpes/seed1"}, "--row=stpes/seed1: no such row; did you mean steps/seed1"),
        ({"row": "steps/seed7"}, "seeds: 0, 1"),
        ({"rows": (Row("a", (learn("x"),)), Row("a", (learn("x"),)))}, "rows need names of their own; given twice: a"),
        ({"rows": (Row("no_teacher", (learn("x"),)),)}, "every comparison has by itself"),
        ({"rows": ()}, "rows is empty"),
        ({"seeds": (1, 1)}, "seeds need names of their own; given twice: 1"),
        ({"steps": None}, "give the budget"),
    ],
)
def test_a_mistake_ends_in_one_clear_error(suite: Config, changes: dict, said: str):
    with pytest.raises(UserError, match=re.escape(said)):
        replace(suite, **changes)


def test_a_row_that_cannot_be_a_folder_is_refused():
    with pytest.raises(UserError, match="letters, digits"):
        Row("a/b", (learn("x"),))
    with pytest.raises(UserError, match="no stages"):
        Row("a", ())


def test_equal_texts_stay_together_and_more_rows_hold_the_fewer():
    texts = [f"text {i % 10}" for i in range(30)]
    few, more = (chosen_by_text(Examples(texts, labels=list(range(30))), count) for count in (6, 15))
    assert all(texts[label] == text for text, label in zip(more.texts, more.labels or [], strict=True))
    assert {few.texts.count(text) for text in few.texts} == {3}
    assert set(few.labels or []) < set(more.labels or [])
    assert more.labels == sorted(more.labels or [])


def test_the_suites_student_computes_at_most_a_fifth_of_its_teachers_encoder():
    config = load_config("compare", Config)
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "num_hidden_layers": 6, "intermediate_size": 1536}
    head: Any = {"architecture": "BertForSequenceClassification", "labels": ("a", "b")}
    teacher = BertConfig(vocab_size=30_522, **sizes, **head)
    student = config.student.config(teacher)

    def encoder(shape: BertConfig) -> float:
        """Arithmetic of all layers, from what the model with all of them needs more than the one with a single one."""
        counted = [
            forward_cost(build(c), abstract_params(c), 32).flops or 0.0
            for c in (shape, shape.replace(num_hidden_layers=1))
        ]
        return (counted[0] - counted[1]) * shape.num_hidden_layers / (shape.num_hidden_layers - 1)

    assert encoder(student) <= encoder(teacher) / 5
