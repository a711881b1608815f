"""Stages in order: what each is given."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import bertjax
from bertjax.errors import UserError
from bertjax.jobs import quantize
from bertjax.jobs.stages import Failure, left_out, planned, run_in_order
from bertjax.machine.signals import Stopped
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.quantize import Config, Quantize
from bertjax.recipes.stage import Context, Stage, StageResult
from bertjax.share import prune_vocabulary
from tests.train.tiny import context, write_model


@dataclass(frozen=True)
class Noted(Stage):
    """A stage that remembers what it was given."""

    name: str
    given: list[Context]

    def run(self, context: Context) -> StageResult:
        self.given.append(context)
        return StageResult(Path(context.out) / "bundle", context.data)


class Tuned(Finetune):
    def run(self, context: Context) -> StageResult:
        return StageResult(Path(context.out) / "bundle", context.data)


def test_who_knew_the_task_first_is_the_model_given_or_what_became_of_it_by_fine_tuning(tmp_path: Path):
    given: list[Context] = []
    start, noted = context("given", Data(), tmp_path), [Noted(name, given) for name in ("one", "two")]
    run_in_order(noted, start)
    run_in_order([Tuned(), *noted], start)
    assert [one.finetuned for one in given] == ["given"] * 2 + [str(tmp_path / "1-teacher" / "bundle")] * 2
    assert given[-1].model == str(tmp_path / "2-one" / "bundle")


@dataclass(frozen=True)
class Failing(Noted):
    """A stage that does not work."""

    error: Exception

    def run(self, context: Context) -> StageResult:
        super().run(context)
        raise self.error


def test_a_stage_that_fails_is_the_last_and_what_was_finished_is_kept(tmp_path: Path, capsys):
    given: list[Context] = []
    failures: list[Failure] = []
    stages = [Noted("one", given), Failing("two", given, UserError("no room\nat all")), Noted("three", given)]
    done = run_in_order(stages, context("given", Data(), tmp_path), failures=failures)
    assert [one.stage.name for one in done] == ["one"]
    assert [one.model for one in given] == ["given", str(tmp_path / "1-one" / "bundle")]
    assert left_out(failures).startswith("Failed and left out: two (no room). The same command tries what failed again")
    assert not (tmp_path / "2-two").exists()
    assert "two failed: no room" in capsys.readouterr().err
    with pytest.raises(UserError, match="no room"):
        run_in_order(stages, context("given", Data(), tmp_path))


def test_a_defect_in_a_stage_leaves_its_traceback(tmp_path: Path):
    failures: list[Failure] = []
    stage = Failing("odd", [], ZeroDivisionError("in a loss"))
    run_in_order([stage], context("given", Data(), tmp_path), failures=failures)
    assert "Traceback" in (tmp_path / "1-odd" / "error.txt").read_text()
    assert str(failures[0]) == "ZeroDivisionError: in a loss"


def test_a_signal_is_no_failure(tmp_path: Path):
    failures: list[Failure] = []
    stages = [Failing("told", [], Stopped(15)), Noted("next", given := [])]  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        run_in_order(stages, context("given", Data(), tmp_path), failures=failures)
    assert (failures, given) == ([], [])


def test_a_plan_names_the_stages_and_the_steps_of_those_that_learn():
    stages = (
        Finetune(epochs=2, batch_size=32),
        Distill(steps=7),
        Quantize(),
        Quantize(qat="ste"),
    )
    assert planned(stages, 65) == "teacher (about 6 steps), student (about 7 steps), int8, int8 (about 9 steps)"


def test_stage_teacher_of_quantisation_is_the_first_model_with_the_same_tokenizer(tmp_path: Path, monkeypatch):
    first = write_model(tmp_path / "first")
    bertjax.save(bertjax.load(first), tmp_path / "smaller")
    bertjax.save(prune_vocabulary(bertjax.load(first), ["the fine film"]), tmp_path / "fewer")
    asked: list[Config] = []
    monkeypatch.setattr(quantize, "quantise", lambda config, text: asked.append(config))
    for model in ("first", "smaller", "fewer"):
        Quantize().run(context(str(tmp_path / model), Data(), tmp_path / model, finetuned=str(first)))
    assert [config.teacher for config in asked] == [None, str(first), None]
