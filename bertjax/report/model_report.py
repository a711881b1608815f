"""The report on models, as data: the numbers of every model side by side.

A row is one model as it ships. Stored size, memory, FLOPs and time are separate columns because one can change without
the others: a pruned model may be small on disk and no faster, one with shared layers small and as slow as before. Two
baselines stand beside the first model: the same small model trained without the technique, and a bag of words. Where a
technique does not beat them, the report says so.

`Report` mirrors `report.json` field by field; what only people read (comparisons, changed labels, next steps) is in
`report.md`. `None` means "not measured", never zero.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertjax.errors import UserError
from bertjax.measure.latency import Edge, Latency, PeakMemory, Percentiles
from bertjax.storage.paths import as_path, joined, local, relative
from bertjax.storage.typed_json import build, read_json
from bertjax.text.facts import Facts

WITHOUT_TEACHER = "same small model, trained without a teacher"
BAG_OF_WORDS = "bag of words"
BASELINES = (WITHOUT_TEACHER, BAG_OF_WORDS)
"""Names of the rows that a compressed model has to beat."""


@dataclass(frozen=True)
class ModelRow:
    """One model. FLOPs and bytes accessed are those of one text of the median length."""

    name: str
    bundle: str | None
    runtime: str
    score: float
    score_ci95: tuple[float, float]
    p_value_vs_baseline: float | None
    parameters: int
    size_bytes: int
    flops_per_example: float | None = None
    bytes_accessed_per_example: float | None = None
    peak_memory_bytes: PeakMemory = PeakMemory()
    latency_ms: Latency | None = None
    throughput_per_s: Mapping[str, float] = field(default_factory=dict)
    exported_from: str | None = None
    """The bundle that this model is in another runtime; parameters and FLOPs are those of the bundle."""
    edge: Edge | None = None


@dataclass(frozen=True)
class PairedComparison:
    """`row` minus `other` on the same examples: difference of the scores, its 95 % interval, paired p-value."""

    row: str
    other: str
    difference: float
    ci95: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Flip:
    """An example that `row` and the baseline label differently, one of them rightly."""

    row: str
    text: str
    gold: str
    baseline_label: str
    row_label: str


@dataclass(frozen=True)
class Report:
    """The models measured on one data set and one machine."""

    task: str
    metric: str
    device: str
    threads: int
    lengths: Percentiles
    baseline: str
    rows: tuple[ModelRow, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    comparisons: tuple[PairedComparison, ...] = ()
    flips: tuple[Flip, ...] = ()
    next_steps: tuple[tuple[str, str], ...] = ()
    """(what to try, the command that does it)."""
    conclusion: str = ""
    """Which model was kept, and why."""
    texts: tuple[Facts, ...] = ()
    """What was read: how many examples were truncated, left out, or are in the training data too."""

    def __post_init__(self):
        names = [row.name for row in self.rows]
        if self.baseline not in names or len(set(names)) < len(names):
            raise UserError(
                f"The rows of a report need different names, the baseline {self.baseline!r} among them; given: {names}."
            )

    def row(self, name: str) -> ModelRow:
        return next(row for row in self.rows if row.name == name)

    def against(self, row: ModelRow) -> ModelRow:
        """What a row is compared with: the baseline, or for an exported model the baseline in the same runtime if that
        was measured, so that a faster runtime is not taken for a faster model."""
        baseline = self.row(self.baseline)
        if row.exported_from in (None, baseline.bundle):
            return baseline
        alike = [one for one in self.rows if one.exported_from == baseline.bundle and one.runtime == row.runtime]
        return alike[0] if alike else baseline

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`."""
        left_out = ("comparisons", "flips", "next_steps", "conclusion")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}

    def json_text(self, folder: str | os.PathLike) -> str:
        """The text of `report.json`, its bundle paths relative to the folder where it will lie."""
        content = self.to_json()
        for row in content["rows"]:
            for name in ("bundle", "exported_from"):
                row[name] = row[name] and relative(row[name], folder)
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_report(path: str | os.PathLike) -> Report:
    """The report in a `report.json`; bundle paths are those of this machine again.

    Raises:
      UserError: There is none, or it holds something else.
    """
    file = as_path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected the report.json of a run.")
    report = build(Report, read_json(local(path)), str(file))
    return dataclasses.replace(report, rows=tuple(_placed(row, file.parent) for row in report.rows))


def _placed(row: ModelRow, folder: Any) -> ModelRow:
    bundle, origin = (named and joined(folder, named) for named in (row.bundle, row.exported_from))
    return dataclasses.replace(row, bundle=bundle, exported_from=origin)
