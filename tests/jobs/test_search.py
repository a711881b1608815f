"""A whole search on a tiny model: what is tried, kept and said, and that a run which was stopped ends like one that was
not. Times are those of a formula, so that two runs can be compared; the benchmark measures them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bertjax.engine.record import release_lock
from bertjax.errors import UserError
from bertjax.jobs import search as module
from bertjax.jobs import search_costs
from bertjax.jobs.search import Search
from bertjax.jobs.search_costs import allowed_costs, out_of_reach
from bertjax.jobs.search_text import held_out_rows, record
from bertjax.measure.latency import Candidate, Latency, Percentiles, Timing
from bertjax.measure.onnx import origin_of
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.quantize import Quantize
from bertjax.report.models import read_report
from bertjax.search.costs import Measured
from bertjax.search.front import Plan
from bertjax.search.space import Form, Shape
from bertjax.storage import manifest
from bertjax.storage.paths import names as names_in
from bertjax.student import Student
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from bertjax.verify.folder import shipped_bytes
from tests.train.tiny import write_model, write_table
from train import compress, finetune

RATE = Optimiser(learning_rate=0.01)


def weight(shape: Shape) -> float:
    """Milliseconds of a formula."""
    return 0.2 + shape.layers * (0.1 + shape.hidden * (shape.heads + shape.neurons / 8) / 100)


def timed(shapes: Any, *_: Any) -> Measured:
    times = tuple((shape, weight(shape)) for shape in shapes)
    return Measured(weight(shapes[-1]), times, tuple((shape, ms / 2) for shape, ms in times))


def by_size(candidates: Mapping[str, Candidate], *_: Any, **__: Any) -> dict[str, Timing]:
    """Times of files by their bytes."""
    found = {}
    for name, one in candidates.items():
        ms = Percentiles(shipped_bytes(Path(one.path)) / 1e4, 1.0)
        found[name] = Timing("onnxruntime", "cpu", 1, {}, Latency(ms, ms), 1.0)
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    """A teacher whose outputs are in another order than the labels of its text, and that text."""
    folder = tmp_path_factory.mktemp("search")
    rows = {"train": write_table(folder / "train.tsv", 240, filler=(10, 12))}
    rows["eval"] = write_table(folder / "eval.tsv", 60, seed=1, filler=(10, 12))
    data = Data(train=str(rows["train"]), eval=str(rows["eval"]), max_length=16)
    model, recipe = write_model(folder / "model"), {"steps": 60, "batch_size": 16, "optimiser": RATE}
    other_order = dataclasses.replace(data, labels=("good", "bad"))
    finetune.main(finetune.Config(model=str(model), data=other_order, out=str(folder / "teacher"), **recipe))
    return folder / "teacher" / "bundle", data


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_costs, "time_shapes", timed)
    monkeypatch.setattr(search_costs, "TIMED", 12)
    monkeypatch.setattr(search_costs, "FORMS", (Form(False, False), Form(True, True)))
    monkeypatch.setattr(module, "planned_by_steps", lambda *_: Plan((6, 2), (1, 2)))
    monkeypatch.setattr("bertjax.measure.latency.measure_latency", by_size)
    monkeypatch.setattr("bertjax.report.build.measure_latency", by_size)
    monkeypatch.setattr("bertjax.report.build.measure_edge", lambda *_, **__: {})


def config(teacher: tuple[Path, Data], out: Path, **given: Any) -> Config:
    distil = Distill(batch_size=16, optimiser=RATE)
    stages = (Finetune(), distil, Quantize(calibration_examples=32))
    bounds = {"max_drop": 30.0, "min_speedup": 1.2, "steps": 8} | given
    return Config(model=str(teacher[0]), data=teacher[1], stages=stages, out=str(out), **bounds)


def state(out: Path) -> dict[str, Any]:
    return json.loads((out / "search.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_was_stopped_ends_like_one_that_was_not(teacher, quick, tmp_path, monkeypatch):
    compress.main(config(teacher, tmp_path / "whole"))
    tried = Search.tried

    def stopped(self: Search, trial: Any, rung: int, steps: int) -> bool:
        if rung == 1:
            raise KeyboardInterrupt
        return tried(self, trial, rung, steps)

    monkeypatch.setattr(Search, "tried", stopped)
    with pytest.raises(KeyboardInterrupt):
        compress.main(config(teacher, tmp_path / "cut"))
    assert [len(records) for records in state(tmp_path / "cut")["scores"].values()] == [1] * 6
    assert (tmp_path / "cut" / "front.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(Search, "tried", tried)
    monkeypatch.setattr(Search, "pace", lambda *_: pytest.fail("the plan is made once"))
    release_lock(tmp_path / "cut")  # as the end of a killed process does
    compress.main(config(teacher, tmp_path / "cut"))
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert whole == cut
    assert sorted(len(records) for records in cut["scores"].values()) == [1] * 4 + [2] * 2
    weights = [(tmp_path / name / "bundle" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]

    kept = read_report(tmp_path / "cut" / "report.json").rows[2]
    allowed = [one for one in cut["files"] if one["drop"] + one["error"] <= 30 and one["speed_up"] >= 1.2]
    assert kept.name == max(allowed, key=lambda one: one["speed_up"])["name"]
    assert origin_of(tmp_path / "cut" / "exported") == (tmp_path / "cut" / "bundle").resolve()
    assert not any((tmp_path / "cut").rglob("checkpoints"))
    for place in (tmp_path / "cut").rglob(manifest.FILE):  # whatever was added to a folder after it was saved
        manifest.check(place.parent, manifest.ALL_FILES)
    for folder in (tmp_path / "cut" / name for name in ("exported", "bundle")):
        assert sorted([*manifest.read(folder).files, manifest.FILE]) == sorted(names_in(folder))
        assert f"\n# {kept.name}\n" in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_fails_is_left_out_and_stages_of_a_user_are_measured_too(teacher, quick, tmp_path, monkeypatch, capsys):
    trained, broken = Search.trained, []

    def fails(self: Search, start: str, steps: int, out: Path) -> Path:
        if not broken or out.parent.name in broken:
            broken.append(out.parent.name)
            raise UserError("broken today")
        return trained(self, start, steps, out)

    monkeypatch.setattr(Search, "trained", fails)
    monkeypatch.setattr(module, "planned_by_steps", lambda *_: Plan((2,), (1,)))
    own = (Distill(name="one", steps=2, batch_size=16, student=Student(num_hidden_layers=1)),)
    with pytest.raises(SystemExit) as left:
        compress.main(config(teacher, tmp_path / "out", candidates=(own,)))
    assert left.value.code == 4
    assert f"Failed and left out: {broken[0]} (broken today)" in capsys.readouterr().err
    found = state(tmp_path / "out")
    assert broken[0] not in found["scores"]
    assert all(one["score"] > 0.6 for one in found["files"] if not one["name"].startswith("candidate"))
    assert "candidate-1-one-onnx" in {one["name"] for one in found["files"]}


@pytest.mark.slow
def test_bounds_that_nothing_can_meet_are_refused_before_training(teacher, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(Search, "trained", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"within --max_mb=1e-05: the smallest has 0\.\d\d MB"):
        compress.main(config(teacher, tmp_path / "small", max_mb=1e-5, min_speedup=None))
    with pytest.raises(UserError, match=r"the fastest is \d+\.\d times as fast"):
        compress.main(config(teacher, tmp_path / "fast", min_speedup=1e4))


def test_the_nearest_that_can_be_asked_for_is_said():
    forms = [(1.0, 9.0, Form(False, False)), (4.0, 3.0, Form(True, True))]
    both = Config(min_speedup=8.0, max_mb=5.0)
    assert allowed_costs(both, 10.0) == pytest.approx((1.1 * 10 / 8, 5.5))
    assert "the fastest of that size is 2.5 times as fast" in out_of_reach(both, 10.0, forms)
    assert "the smallest has 3.00 MB" in out_of_reach(Config(max_mb=1.0), 10.0, forms)
    assert "the fastest is 10.0 times as fast" in out_of_reach(Config(min_speedup=20.0), 10.0, forms)
    assert allowed_costs(Config(max_drop=1.0), 10.0) == (math.inf, math.inf)


def test_equal_texts_and_groups_are_held_out_together():
    texts = [f"text {number // 2}" for number in range(60)]
    examples = Examples(texts, labels=["a"] * 60, task=Task(kind="classification", text="t", label="l"))
    held = held_out_rows(examples, 0)
    assert len(held) == 10
    assert {texts[row] for row in held}.isdisjoint({texts[row] for row in range(60) if row not in held})
    assert held != held_out_rows(examples, 1)
    grouped = dataclasses.replace(examples, groups=[str(number // 5) for number in range(60)])
    groups = {row // 5 for row in held_out_rows(grouped, 0)}
    assert held_out_rows(grouped, 0) == {5 * group + row for group in groups for row in range(5)}
    assert len(held_out_rows(grouped, 0)) == 10
    assert record(examples, 3) == {"t": "text 1", "l": "a"}
    with pytest.raises(UserError, match="too few to hold some out: give --held_out"):
        held_out_rows(Examples(["a", "b"], labels=["x", "y"]), 0)


def test_flags_of_a_search_need_a_bound():
    with pytest.raises(UserError, match="give a bound as well"):
        Config(minutes=30)
    with pytest.raises(UserError, match="--minutes=0"):
        Config(max_drop=1, minutes=0)
    with pytest.raises(UserError, match="--max_memory=-1"):
        Config(max_drop=1, max_memory=-1)
    with pytest.raises(UserError, match="entry without stages"):
        Config(max_drop=1, candidates=((),))
    assert Config(max_drop=1, candidates=((Export(),),)).chooses
