"""The report on models: the numbers of every model side by side, what they mean in plain sentences, and `report.md`.

A row is one model as it ships. Stored size, memory, FLOPs and time are separate columns because one can change without
the others: a pruned model may be small on disk and no faster, one with shared layers small and as slow as before. Two
baselines stand beside the first model: the same small model trained without the technique, and a bag of words. Where a
technique does not beat them, the report says so. A difference counts as real only where its paired 95 % interval
excludes zero and its p-value is below 5 %.

`Report` mirrors `report.json` field by field, with all digits; what only people read (comparisons, changed labels, next
steps) is in `report.md`, with rounded numbers. `None` means "not measured", never zero.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertjax.errors import UserError
from bertjax.measure.latency import Edge, Latency, PeakMemory, Percentiles
from bertjax.report.number_text import (
    LEVEL,
    SPEED_UP,
    bytes_text,
    interval_name,
    metric_name,
    p_text,
    points_with_interval,
    ratio_text,
    short_number,
)
from bertjax.report.parts import Difference, bullets, document, section, setting, shell, versions_text, warnings
from bertjax.report.table import Table, cells_of, one_line
from bertjax.storage.paths import as_path, joined, local, relative
from bertjax.storage.typed_json import build, read_json
from bertjax.text.facts import Facts
from bertjax.token_dropping.costs import TokensLeft

WITHOUT_TEACHER = "same small model, trained without a teacher"
BAG_OF_WORDS = "bag of words"
STATIC_TABLE = "static table"
BASELINES = (WITHOUT_TEACHER, BAG_OF_WORDS, STATIC_TABLE)
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
    tokens_left: TokensLeft | None = None
    """Of a model that drops tokens, at the real lengths of all texts."""


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
    comparisons: Mapping[tuple[str, str], Difference] = field(default_factory=dict)
    """The score of one row minus that of another, by the names of both."""
    flips: tuple[Flip, ...] = ()
    next_steps: tuple[tuple[str, str], ...] = ()
    """(what to try, the command that does it)."""
    conclusion: str = ""
    """Which model was kept, and why."""
    runtimes: tuple[str, ...] = ()
    """Why a file is measured in its runtime, and what differs in another."""
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
        """What a row is compared with: the baseline, or for an exported model the exported baseline if that was
        measured, so that a faster runtime is not taken for a faster model. Of several, that in the same runtime."""
        baseline = self.row(self.baseline)
        if row.exported_from in (None, baseline.bundle):
            return baseline
        exported = [one for one in self.rows if one.exported_from == baseline.bundle]
        return min(exported, key=lambda one: one.runtime != row.runtime, default=baseline)

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`."""
        left_out = ("comparisons", "flips", "next_steps", "conclusion", "runtimes")
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


def speed_up(row: ModelRow, baseline: ModelRow) -> float | None:
    """How many times less time `row` takes for one text (median, from its token ids), or None where not measured."""
    if row.latency_ms is None or baseline.latency_ms is None:
        return None
    return baseline.latency_ms.batch_1.p50 / row.latency_ms.batch_1.p50


def model_table(report: Report) -> Table:
    """One line per model; missing numbers are a dash."""
    score = f"{metric_name(report.metric)} [95 %]"
    columns = {
        "model": lambda row: row.name,
        "runtime": lambda row: row.runtime,
        score: lambda row: points_with_interval(row.score, row.score_ci95),
        "p": lambda row: "-" if row.p_value_vs_baseline is None else p_text(row.p_value_vs_baseline),
        "parameters": lambda row: short_number(row.parameters),
        "size": lambda row: bytes_text(row.size_bytes),
        "FLOPs": lambda row: short_number(row.flops_per_example),
        "memory": lambda row: bytes_text(row.peak_memory_bytes.inference),
        "memory, training": lambda row: bytes_text(row.peak_memory_bytes.training_step),
        "ms": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p50),
        "ms p95": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p95),
        "ms with tokenisation": lambda row: short_number(row.latency_ms and row.latency_ms.end_to_end.p50),
        "texts/s": lambda row: short_number(row.throughput_per_s.get("batch_32")),
        "speed": lambda row: _speed(row, report.against(row)),
    }
    return Table(
        *cells_of(report.rows, columns),
        title=f"{report.task} ({report.device}, {report.threads} threads)",
        left=("model",),
        terminal=("model", score, "size", "FLOPs", "ms", "speed"),
        bold=tuple(row.name not in (report.baseline, *BASELINES) for row in report.rows),
    )


def _speed(row: ModelRow, baseline: ModelRow) -> str:
    ratio = speed_up(row, baseline)
    if ratio is None or row is baseline:
        return "-"
    if ratio < 1 / SPEED_UP:
        return f"{ratio_text(1 / ratio)} slower"
    return ratio_text(ratio) if ratio >= SPEED_UP else "no speed-up"


def verdicts(report: Report) -> list[str]:
    """What the numbers say, a sentence or two for each compressed model. A warning comes first where examples that were
    scored had been trained on."""
    chosen = (f"{sentence}." for sentence in report.runtimes)
    sentences = [*warnings(report.texts), *chosen, *(_drops_tokens(row) for row in report.rows if row.tokens_left)]
    for row in report.rows:
        if row.name == report.baseline or row.name in BASELINES:
            continue
        sentences.append(_against_first_model(report, row))
        if row.exported_from and row.exported_from in [one.bundle for one in report.rows]:
            continue  # its predictions are those of its bundle
        for name in BASELINES:
            if (difference := report.comparisons.get((row.name, name))) is not None:
                beats = "beats" if _outcome(difference) == "better" else "does **not** beat"
                sentences.append(f"**{row.name}** {beats} *{name}* (difference {difference}).")
    return sentences


def _against_first_model(report: Report, row: ModelRow) -> str:
    baseline = report.against(row)
    score = f"{metric_name(report.metric)} {100 * row.score:.1f} against {100 * baseline.score:.1f}"
    costs = [_times(baseline.size_bytes, row.size_bytes, "smaller on disk", "larger on disk")]
    if row.flops_per_example and baseline.flops_per_example:
        costs.append(_times(baseline.flops_per_example, row.flops_per_example, "fewer FLOPs", "more FLOPs"))
    ratio = speed_up(row, baseline)
    if ratio is not None:
        slower = (
            f"slower by {ratio_text(1 / ratio)}" if ratio < 1 / SPEED_UP else f"no speed-up (time ratio {ratio:.2f})"
        )
        costs.append(f"{ratio_text(ratio)} faster" if ratio >= SPEED_UP else f"**{slower}**")
    difference = report.comparisons.get((row.name, baseline.name))
    compared = "" if difference is None else f": {_outcome(difference)} (difference {difference})"
    sentence = f"**{row.name}** next to *{baseline.name}*: {score}{compared}; {', '.join(costs)}."
    return sentence + _memory_alone(row, baseline)


def _drops_tokens(row: ModelRow) -> str:
    """What a model that drops tokens computes, and the time that it takes for one text and in batches."""
    times = []
    if row.latency_ms:
        times.append(f"{short_number(row.latency_ms.batch_1.p50)} ms for one text")
    if "batch_32" in row.throughput_per_s:
        times.append(f"{short_number(1000 / row.throughput_per_s['batch_32'])} ms a text in batches of 32")
    return f"**{row.name}** drops tokens: {'; '.join([str(row.tokens_left), *times])}."


def _memory_alone(row: ModelRow, baseline: ModelRow) -> str:
    """What fewer parameters save that need as many FLOPs, as with shared layers: memory, and mostly no time."""
    if not (row.flops_per_example and baseline.flops_per_example and row.parameters * SPEED_UP < baseline.parameters):
        return ""
    if not 1 / SPEED_UP < baseline.flops_per_example / row.flops_per_example < SPEED_UP:
        return ""
    before, after = baseline.peak_memory_bytes, row.peak_memory_bytes
    pairs = {
        "inference": (after.inference, before.inference),
        "training, optimiser state included,": (after.training_step, before.training_step),
    }
    memory = [f"{what} {bytes_text(a)} instead of {bytes_text(b)}" for what, (a, b) in pairs.items() if a and b]
    listed = f" ({', '.join(memory)})" if memory else ""
    sentence = f" Fewer parameters need as many FLOPs: that saves memory{listed}"
    if "batch_32" not in row.throughput_per_s or "batch_32" not in baseline.throughput_per_s:
        return f"{sentence}."
    ratio = row.throughput_per_s["batch_32"] / baseline.throughput_per_s["batch_32"]
    time = f"{ratio_text(ratio)} the speed" if ratio >= SPEED_UP else "no time saved"
    return f"{sentence}; in batches of 32, {time}."


def _outcome(difference: Difference) -> str:
    if difference.p_value < LEVEL and difference.ci95[0] > 0:
        return "better"
    return "worse" if difference.p_value < LEVEL and difference.ci95[1] < 0 else "not statistically distinguishable"


def markdown(report: Report, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    return document(
        report.task,
        model_table(report).markdown(),
        f"![{metric_name(report.metric)} against time]({picture})",
        report.conclusion and f"**{report.conclusion}**",
        section("What the numbers say", bullets(verdicts(report))),
        section("On one thread, from a cold start", _edge_table(report)),
        section("Examples whose label changed", _flips(report)),
        section("What to try next", *(f"{what}\n\n{shell(command)}" for what, command in report.next_steps)),
        section("How it was measured", how_measured(report)),
    )


def _edge_table(report: Report) -> str:
    """The exported models as a small device would run them; empty if there are none."""
    measured = [(row.name, row.edge) for row in report.rows if row.edge]
    columns = {
        "model": lambda pair: pair[0],
        "ms": lambda pair: short_number(pair[1].latency_ms.p50),
        "ms p95": lambda pair: short_number(pair[1].latency_ms.p95),
        "load, ms": lambda pair: short_number(pair[1].load_ms),
        "cold start, ms": lambda pair: short_number(pair[1].cold_start_ms),
        "memory of the process": lambda pair: bytes_text(pair[1].peak_resident_bytes),
    }
    return Table(*cells_of(measured, columns), left=("model",)).markdown() if measured else ""


def _flips(report: Report) -> str:
    sides = (("right", "wrong", "baseline_label"), ("wrong", "right", "row_label"))
    parts = []
    for name in dict.fromkeys(flip.row for flip in report.flips):
        for was, now, right in sides:
            shown = [flip for flip in report.flips if flip.row == name and getattr(flip, right) == flip.gold]
            texts = (f"{one_line(f.text)} ({f.baseline_label} → {f.row_label}; gold: {f.gold})" for f in shown)
            if shown:
                parts.append(f"*{report.baseline}* was {was}, *{name}* is {now}:\n\n{bullets(texts)}")
    return "\n\n".join(parts)


def how_measured(report: Report) -> str:
    """One paragraph that explains the columns."""
    exported = [row.name for row in report.rows if row.exported_from == report.row(report.baseline).bundle]
    speed = [
        f"Exported models are compared in speed with *{name}*, all others with the first model. " for name in exported
    ]
    return (
        f"{setting(report.device, report.threads, report.lengths, report.texts)}Scores are times 100; their 95 % "
        f"interval is {interval_name(report.metric)}; p compares a row with *{report.baseline}* on the same examples "
        "(McNemar's exact test for accuracy, else a permutation test). Size is the bytes of the stored weights. FLOPs "
        "are those of one text of the median length. Memory is what one compiled call holds at once: parameters, "
        "inputs, outputs and temporaries. Times are milliseconds for one text at its real length; texts/s is measured "
        "in batches of 32. Each model runs in a process of its own, the processes take turns, and the median of the "
        "repeats counts. Models that differ only in the values of their parameters are timed once. "
        f"{''.join(speed[:1])}A time ratio under {SPEED_UP} is no speed-up. {versions_text(report.versions)}"
    )


def _times(before: int | float, after: int | float, less: str, more: str) -> str:
    ratio = before / after
    if 1 / SPEED_UP < ratio < SPEED_UP:
        return f"not {less}"
    return f"{ratio_text(ratio)} {less}" if ratio > 1 else f"{ratio_text(1 / ratio)} {more}"
