"""Bounds in, a model out: what is tried, what is kept, and what happens where nothing fits."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.jobs import compress
from bertjax.jobs.budget import Finalist, choose, concluded, drop_of, measured
from bertjax.jobs.data import Text
from bertjax.jobs.report import Model
from bertjax.measure.latency import Latency, Percentiles
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context, Control, Stage, StageResult
from bertjax.report.models import WITHOUT_TEACHER, ModelRow, Report
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from bertjax.verify.measured import exceeds
from train import compress as train_compress


class Shop:
    """`compress` with everything replaced that trains and measures; `broken` is what does not work today."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.broken, self.ran, self.measured = folder, set(), [], []
        patch.setattr("bertjax.machine.processor.processor_features", lambda: frozenset({"avx_vnni"}))
        patch.setattr(compress, "has_trained_head", lambda model, task: True)
        patch.setattr(Text, "task", lambda text: Task(kind="classification"))
        patch.setattr(Text, "training_examples", lambda text, task: Examples(["a text"], labels=["a label"]))
        patch.setattr(train_compress, "describe_for", lambda text, model, task: ())
        patch.setattr(compress, "resolve_model", Path)
        patch.setattr("bertjax.jobs.next_steps.depth_of", lambda folder: 4)
        patch.setattr(compress, "exported", self.export)
        patch.setattr("bertjax.jobs.report.build_report", self.built)
        patch.setattr(compress, "ship", lambda kept, report, out: self.measured.append(f"kept {kept.name}"))
        patch.setattr("bertjax.report.write.show", lambda report: None)
        for stage in (Distill, Quantize, Finetune):
            patch.setattr(stage, "run", lambda stage, context: self.run(stage, context))

    def run(self, stage: Stage, context: Context) -> StageResult:
        folder, control = Path(context.out) / "bundle", None
        self.work(stage.name, folder)
        if stage.distils:
            control = Control(Finetune(name="without-teacher"), None, None)
        return StageResult(folder, context.data, control=control)

    def work(self, name: str, folder: Path) -> None:
        if (folder / "config.json").exists():
            return
        self.ran.append(name)
        if name in self.broken:
            raise UserError(f"{name} is broken")
        folder.mkdir(parents=True)
        (folder / "config.json").touch()

    def export(self, job: compress.Compression, model: Model) -> Model:
        name = f"{model.name}-onnx"
        folder = job.out / "stages" / name / "bundle"
        self.work(name, folder)
        (folder / "model.onnx").write_bytes(bytes(100))
        return Model(name, folder)

    def built(self, models: Any, text: Any, out: Any, **_: Any) -> Report:
        self.measured = [model.name for model in models]
        times = Latency(Percentiles(1.0, 1.0), Percentiles(1.0, 1.0))
        origin = {model.name: str(model.folder) for model in models}
        rows = [
            ModelRow(
                m.name, str(m.folder), "onnxruntime", 0.9, (0.8, 1.0), None, 1, 1, exported_from=self.origin(m, origin)
            )
            for m in models
        ]
        timed = tuple(dataclasses.replace(row, latency_ms=times) for row in rows)
        return Report("t", "accuracy", "cpu", 1, Percentiles(9.0, 9.0), models[0].name, timed)

    def origin(self, model: Model, folders: dict[str, str]) -> str | None:
        return folders["teacher"] if model.name.endswith("-onnx") else None

    def compress(self, **asked: Any) -> int:
        """The exit code."""
        self.ran.clear()
        code: Any = 0
        try:
            train_compress.main(Config(model=str(self.folder / "model"), out=str(self.folder / "out"), **asked))
        except SystemExit as left:
            code = left.code
        return code


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


STAGES = (Finetune(), Distill(name="student"), Quantize(name="int8"), Export())


@pytest.mark.parametrize(
    ("broken", "measured"),
    [
        ({"int8"}, ["teacher", WITHOUT_TEACHER, "student", "kept student"]),
        ({"without-teacher"}, ["teacher", "teacher-onnx", "student", "int8", "onnx", "kept onnx"]),
        ({"teacher-onnx"}, ["teacher", WITHOUT_TEACHER, "student", "int8", "onnx", "kept onnx"]),
    ],
)
def test_what_was_finished_before_a_stage_that_fails_is_measured_and_kept(shop: Shop, monkeypatch, broken, measured):
    def export(_: Export, context: Context) -> StageResult:
        folder = Path(context.out) / "bundle"
        shop.work("onnx", folder)
        (folder / "model.onnx").touch()
        return StageResult(folder, context.data)

    monkeypatch.setattr(Export, "run", export)
    shop.broken = broken
    assert shop.compress(stages=STAGES) == 4
    assert shop.measured == measured
    shop.broken = set()
    assert shop.compress(stages=STAGES) == 0
    assert shop.ran[0] in broken


def test_where_nothing_was_made_the_reason_is_the_error(shop: Shop):
    shop.broken = {"student"}
    with pytest.raises(UserError, match="student is broken"):
        shop.compress(stages=STAGES)


def made(tmp_path: Path, **numbers: tuple[float, float, int]) -> tuple[Report, list[Model]]:
    """A report of exported models: score, milliseconds, bytes of the folder."""
    rows, models = [], []
    numbers = {"teacher": (0.9, 8.0, 1), "teacher-onnx": (0.9, 6.0, 900_000), **numbers}
    for name, (score, ms, size) in numbers.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.onnx").write_bytes(bytes(size))
        times = Percentiles(ms, ms)
        origin = None if name == "teacher" else str(tmp_path / name.removesuffix("-onnx"))
        described = ModelRow(name, str(folder), "onnxruntime", score, (0.0, 1.0), None, 1, size, exported_from=origin)
        rows.append(dataclasses.replace(described, latency_ms=Latency(times, times)))
        models.append(Model(name, folder))
    return Report("t", "accuracy", "cpu", 1, Percentiles(9.0, 9.0), "teacher", tuple(rows)), models


def bounds(**given: Any) -> Config:
    return Config(**given)


def finalists(error: float, numbers: dict[str, tuple[float, float, float]]) -> list[Finalist]:
    """Files by name: points lost, speed-up, megabytes."""
    return [Finalist(Model(n, Path(n)), fast, drop, error, mb) for n, (drop, fast, mb) in numbers.items()]


FILES = {"int8": (0.2, 2.0, 0.3), "half": (1.5, 3.0, 0.5), "quarter": (4.0, 6.0, 0.2)}


@pytest.mark.parametrize(
    ("given", "kept", "missed"),
    [
        (bounds(max_drop=1.0), "int8", []),
        (bounds(max_drop=1.6), "half", []),
        (bounds(max_drop=5.0), "quarter", []),
        (bounds(max_drop=5.0, max_mb=0.1), "int8", ["--max_mb=0.1"]),  # all three miss one: the least lost
        (bounds(max_drop=1.0, min_speedup=4.0), "int8", ["--min_speedup=4.0"]),
        (bounds(max_drop=1.0, min_speedup=1.9), "int8", []),
        (bounds(min_speedup=7.0, max_drop=0.1, max_mb=0.25), "quarter", ["--max_drop=0.1", "--min_speedup=7.0"]),
        (bounds(min_speedup=2.5), "half", []),  # without a bound on the loss, the least lost
        (bounds(max_mb=0.4), "int8", []),
    ],
)
def test_the_fastest_within_the_bounds_is_kept_or_the_best_try(given, kept, missed):
    best = choose(finalists(0.0, FILES), given)
    assert (best.model.name, best.misses(given)) == (kept, missed)


def test_a_file_that_is_just_as_fast_as_the_bound_is_not_chosen():
    files = finalists(0.0, {"just": (0.1, 2.01, 1.0), "well": (0.3, 2.1, 1.0)})
    assert choose(files, bounds(min_speedup=2.0)).model.name == "well"
    assert files[0].misses(bounds(min_speedup=2.0)) == []


def test_a_loss_is_within_the_bound_only_with_its_uncertainty():
    assert choose(finalists(0.5, FILES), bounds(max_drop=1.6)).model.name == "int8"
    assert choose(finalists(0.05, FILES), bounds(max_drop=1.6)).model.name == "half"


def test_the_uncertainty_is_half_of_what_the_paired_interval_reaches_beyond_the_loss():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    before, after = (np.where(rng.random(400) < share, labels, 1 - labels) for share in (0.95, 0.85))
    found = drop_of("accuracy", before, after, labels)
    assert found["drop"] == pytest.approx(100 * ((before == labels).mean() - (after == labels).mean()))
    lost = (before == labels).astype(float) - (after == labels)
    assert found["error"] == pytest.approx(100 * lost.std() / 20, rel=0.1)  # the standard error of a paired mean
    assert found["interval"][0] < found["score"] < found["interval"][1]


def test_what_is_said_is_what_the_evaluation_text_says(tmp_path):
    report, models = made(tmp_path, half=(0.885, 2.0, 500_000))
    files = finalists(0.0, FILES)
    kept = files[1]._replace(model=models[-1], error=0.3)
    reported = measured(report, models[-1])
    assert (reported.speed_up, reported.drop) == pytest.approx((3.0, 1.5))  # 3x and not the 4x of another runtime
    told, missed = concluded(report, kept, [kept, *files[::2]], bounds(max_drop=2.0))
    assert missed is None
    assert (
        "Kept: half (3.0 times as fast, 1.5 points lost, 0.5 MB), the fastest of 2 within the bounds" in told.conclusion
    )
    assert "on held-out text it lost 1.5 points, +-0.3" in told.conclusion
    told, missed = concluded(report, kept._replace(drop=0.5), [kept._replace(drop=0.5)], bounds(max_drop=1.0))
    assert missed is not None
    assert missed == told.conclusion
    assert missed.startswith("Chosen on held-out text.")
    assert "misses --max_drop=1.0" in missed
    _, missed = concluded(report, kept, [kept, *files[::2]], bounds(max_drop=0.1))
    assert missed is not None
    assert missed.startswith("None of 3 files is within all bounds.")


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.906, "0.6 points gained"),
        (0.894, "0.6 points lost"),
        (0.9, "no loss"),
        (0.90004, "no loss"),
        (0.89996, "no loss"),
    ],
)
def test_a_gain_is_not_called_a_loss(tmp_path, score, said):
    report, models = made(tmp_path, int8=(score, 3.0, 1))
    assert str(measured(report, models[-1])).endswith(f"as fast, {said}, 0.0 MB)")


def test_a_loss_of_just_the_bound_keeps_it(tmp_path):
    scores = {"teacher-onnx": (523 / 600, 6.0, 1), "int8": (505 / 600, 3.0, 1)}  # 3.0000000000000027 points in float64
    report, models = made(tmp_path, **scores)
    assert measured(report, models[-1]).misses(bounds(max_drop=3.0)) == []
    assert exceeds(3.1, 3.0)
    assert exceeds(float("nan"), 3.0)


def test_a_bound_below_zero_and_an_export_in_the_middle_are_refused():
    with pytest.raises(UserError, match="--max_drop=-1"):
        Config(max_drop=-1)
    with pytest.raises(UserError, match="make it the last"):
        Config(stages=(Finetune(), Export(), Distill()))
