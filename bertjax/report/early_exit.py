"""The report on a model with exits: what each threshold costs in score and gains in layers, FLOPs and time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertjax.report.number_text import metric_name, points_with_interval, short_number
from bertjax.report.parts import certificate
from bertjax.report.table import Table, cells_of
from bertjax.text.facts import Facts

WAYS = {"batch_1": "one text", "batch_32": "a batch of 32", "stream_32": "many batches of 32"}
"""How texts are timed: one by one, batch by batch, and all batches in one call, where the examples that remain of
several batches may be computed together."""


@dataclass(frozen=True)
class ThresholdRow:
    """One threshold on the evaluation examples. `ms` and `time_saving` are by way of timing, and None where the row was
    not timed; `timed_layer_saving` is that of the timed texts, to be compared with the saving in time."""

    name: str
    score: float
    score_ci95: tuple[float, float]
    difference_ci95: tuple[float, float]
    """Interval of the score minus that of the model without exits."""
    mean_depth: float
    layer_saving: float
    flops: float | None
    ms: Mapping[str, float] | None = None
    time_saving: Mapping[str, float] | None = None
    timed_layer_saving: float | None = None


@dataclass(frozen=True)
class EarlyExitReport:
    """What `report.json` of a calibration holds."""

    task: str
    metric: str
    device: str
    depth: int
    calibrated: Mapping[str, Any] | None
    """The exit rule that keeps the bound on the held-out text."""
    why_none: str
    bound: float
    timed: int
    """Number of examples that were timed."""
    rows: tuple[ThresholdRow, ...]
    held_out: tuple[Mapping[str, Any], ...]
    """The thresholds that were tried, on the held-out text."""
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    texts: tuple[Facts, ...] = ()


def threshold_table(report: EarlyExitReport) -> Table:
    """One line for each threshold; what was not measured is a dash."""

    def share(number: float | None) -> str:
        return "-" if number is None else f"{number:.0%}"

    columns = {
        "threshold": lambda row: row.name,
        f"{metric_name(report.metric)} [95 %]": lambda row: points_with_interval(row.score, row.score_ci95),
        "difference": lambda row: "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in row.difference_ci95)),
        f"mean depth of {report.depth}": lambda row: f"{row.mean_depth:.2f}",
        "layers saved": lambda row: share(row.layer_saving),
        "FLOPs": lambda row: short_number(row.flops),
        f"layers saved, {report.timed} timed texts": lambda row: share(row.timed_layer_saving),
    }
    for way, name in WAYS.items():
        columns[f"ms a text, {name}"] = lambda row, way=way: short_number((row.ms or {}).get(way))
        columns[f"time saved, {name}"] = lambda row, way=way: share((row.time_saving or {}).get(way))
    rule = f"{report.calibrated['rule']} {report.calibrated['threshold']:g}" if report.calibrated else ""
    otherwise = f"no text exits early: {report.why_none}"
    note = certificate("threshold", report.bound, rule, "holds this threshold", otherwise)
    return Table(
        *cells_of(report.rows, columns), title=f"{report.task}: early exit", left=("threshold",), notes=(note,)
    )
