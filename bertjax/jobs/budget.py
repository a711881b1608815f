"""Search within bounds on score, speed and size: a short list of candidates is trained, and the fastest one within the
bounds is kept.

The candidates are the model in int8, and students with half and with a quarter of its layers, each also in int8 if that
is faster on this processor or the size is bounded. Every candidate is exported and measured as it ships. The list is
short so that each candidate is trained properly. Because the choice is made on the evaluation examples, the winner's
score is slightly optimistic; the conclusion in the report states the number of candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjax.jobs.report import Model
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Stage

if TYPE_CHECKING:
    from bertjax.report.models import Report

MISSED = 3
"""Exit code if no candidate is within the bounds; the same as that of `bertjax verify`."""


class Candidate(NamedTuple):
    """A stage, and the candidate whose model it begins with ("" is the teacher)."""

    name: str
    stage: Stage
    start: str = ""


def candidates(stages: Sequence[Stage], depth: int, integers: bool = True) -> list[Candidate]:
    """The candidates for a model of `depth` layers, with the recipes of the first of `stages` that trains a student and
    of the first that quantises. Without `integers`, only the full-depth model is quantised, which costs the least
    score."""
    distil = next((stage for stage in stages if stage.student_shape is not None), Distill())
    quantise = next((stage for stage in stages if stage.quantizes), Quantize())
    shape = distil.student_shape
    assert shape is not None

    def quantised(name: str, start: str = "") -> Candidate:
        return Candidate(name, with_name(quantise, name), start)

    tried = [quantised("int8")]
    layers = {"half": max(1, round(depth / 2)), "quarter": max(1, round(depth / 4))}
    for name, count in layers.items():
        if count < depth and count not in [layers[one.name] for one in tried if one.name in layers]:
            smaller = distil.with_student(dataclasses.replace(shape, num_hidden_layers=count))
            tried.append(Candidate(name, with_name(smaller, name)))
            tried += [quantised(f"{name}-int8", name)] * integers
    return tried


def with_name(stage: Any, name: str) -> Stage:
    """The stage, a dataclass, under another name."""
    return dataclasses.replace(stage, name=name)


def integers_pay(config: Config) -> bool:
    """Whether to try int8 at every depth: it is faster on this processor, or the size is bounded."""
    from bertjax.machine.processor import multiplies_integers, processor_features

    return config.max_mb is not None or multiplies_integers(processor_features())


def depth_of(folder: Path) -> int:
    """Number of layers of a bundle."""
    from bertjax.bundle import stored_config

    return stored_config(str(folder)).num_hidden_layers


class Measured(NamedTuple):
    """The measurements of a candidate, relative to the exported teacher."""

    model: Model
    speed_up: float
    drop: float
    """Loss of score, in points."""
    megabytes: float

    def misses(self, bounds: Config) -> list[str]:
        """The bounds that the candidate violates."""
        from bertjax.verify.measured import exceeds

        tests = {
            f"--max_drop={bounds.max_drop}": exceeds(self.drop, bounds.max_drop),
            f"--min_speedup={bounds.min_speedup}": bool(bounds.min_speedup) and not self.speed_up >= bounds.min_speedup,
            f"--max_mb={bounds.max_mb}": bounds.max_mb is not None and not self.megabytes <= bounds.max_mb,
        }
        return [bound for bound, missed in tests.items() if missed]

    def __str__(self) -> str:
        from bertjax.report.number_text import change_text

        changed = change_text(-self.drop)
        return f"{self.model.name} ({self.speed_up:.1f} times as fast, {changed}, {self.megabytes:.1f} MB)"


def choose(report: Report, models: Sequence[Model], bounds: Config) -> tuple[Model, Report, str | None]:
    """The chosen candidate, the report with a sentence that states the choice, and that sentence if a bound is
    violated.

    The choice is the fastest candidate within all bounds. If there is none, it is the one that violates the fewest
    bounds, and of those the one that loses the least score. The first two models are the teacher and the exported
    teacher.
    """
    results = [measured(report, model) for model in models[2:]]
    within = [one for one in results if not one.misses(bounds)]
    if within:
        best = max(within, key=lambda one: one.speed_up)
        sentence = (
            f"Kept: {best}, the fastest of {len(within)} within the bounds, of {len(results)} tried, on these texts."
        )
        return best.model, dataclasses.replace(report, conclusion=sentence), None
    best = min(results, key=lambda one: (len(one.misses(bounds)), one.drop))
    sentence = (
        f"None of {len(results)} candidates is within all bounds. The best one is kept: {best}; it misses "
        f"{' and '.join(best.misses(bounds))}. Relax the bounds, or train longer (--epochs)."
    )
    return best.model, dataclasses.replace(report, conclusion=sentence), sentence


def measured(report: Report, model: Model) -> Measured:
    """A candidate's measurements: score and time from the report, bytes from its folder and the report that ships in
    it."""
    from bertjax.report.models import speed_up
    from bertjax.storage.paths import local
    from bertjax.verify.folder import shipped_bytes

    row = report.row(model.name)
    reference = report.against(row)
    faster = speed_up(row, reference)
    assert faster is not None, model.name  # every row of this report was timed
    size = shipped_bytes(local(model.folder)) + len(report.json_text(model.folder).encode())
    return Measured(model, faster, 100 * (reference.score - row.score), size / 1e6)
