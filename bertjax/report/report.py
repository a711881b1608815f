"""The report: every model's numbers side by side, as data.

A row is one model as it ships. Stored size, memory, arithmetic and time are separate columns because they move
separately: a pruned model may be small on disk and no faster, a shared one small and as slow as before. Two rows keep
everybody honest besides the model that all are compared with: the same small model without the technique in question,
and a bag of words. A technique that does not beat them was not worth its trouble, and the report says so in words.

`Report` mirrors `report.json` field by field; what is only worth reading (comparisons, flipped texts, next steps) goes
to `report.md`. `None` means "not measured", never zero.
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
class Row:
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
class Comparison:
    """`row` minus `other` on the same examples: difference of the scores, its 95 % interval, paired p-value."""

    row: str
    other: str
    difference: float
    ci95: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Flip:
    """A text which `row` labels unlike the baseline, one of the two being right."""

    row: str
    text: str
    gold: str
    baseline_label: str
    row_label: str


@dataclass(frozen=True)
class Report:
    """What was gained and what it cost, model by model, on one data set and one machine."""

    task: str
    metric: str
    device: str
    threads: int
    lengths: Percentiles
    baseline: str
    rows: tuple[Row, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    flips: tuple[Flip, ...] = ()
    next_steps: tuple[tuple[str, str], ...] = ()
    """(what to try, the command that does it)."""
    conclusion: str = ""
    """What was decided from these numbers."""
    texts: tuple[Facts, ...] = ()
    """What was read: how many texts were cut, left out, or stand in the training text, too."""

    def __post_init__(self):
        names = [row.name for row in self.rows]
        if self.baseline not in names or len(set(names)) < len(names):
            raise UserError(f"A report needs a name of its own for each row and its baseline among them: {names}.")

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def against(self, row: Row) -> Row:
        """What a row is compared with: the baseline; for an exported model the baseline exported alike, if there is
        such a row, so that a faster runtime is not taken for a faster model."""
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


def _placed(row: Row, folder: Any) -> Row:
    bundle, origin = (named and joined(folder, named) for named in (row.bundle, row.exported_from))
    return dataclasses.replace(row, bundle=bundle, exported_from=origin)
