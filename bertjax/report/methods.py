"""The comparison of methods: a row is one way to train a small model, run with several seeds.

Every row has the same teacher, student shape, data and budget; only the method differs. Three rows are baselines: the
same model trained on the labels alone, the same with as many additional passes as distillation costs, and a bag of
words. A score is the average over the seeds. Intervals and p-values resample the evaluation examples with all seeds'
predictions, and the p-values are corrected for the number of rows (Holm). They say how these runs would score on other
examples; how much the seeds differ is a column of its own.

A difference counts only where its corrected p-value is below 5 %. Everything else is called not statistically
distinguishable, because a reader who sees eight rows finds a best one whether or not it is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertjax.measure.latency import Latency, Percentiles
from bertjax.metrics.scores import RIGHT_OR_WRONG, Answers, score
from bertjax.metrics.uncertainty import holm, mean_difference_interval, mean_interval, mean_p_value
from bertjax.report.number_text import (
    BOOTSTRAP,
    LEVEL,
    SPEED_UP,
    bytes_text,
    interval_name,
    metric_name,
    p_text,
    points,
    points_with_interval,
    short_number,
)
from bertjax.report.parts import Difference, bullets, document, section, setting, shell, versions_text, warnings
from bertjax.report.table import Table, cells_of, one_line
from bertjax.text.facts import Facts

TEACHER, NO_TEACHER, MORE_EPOCHS, BAG_OF_WORDS = "teacher", "no_teacher", "more_epochs", "bag_of_words"
BUILT_IN = (TEACHER, NO_TEACHER, MORE_EPOCHS, BAG_OF_WORDS)
"""Names of the rows that every comparison has."""


@dataclass(frozen=True)
class MethodRun:
    """One training of a method. `passes` counts the examples that it was trained on, `teacher_passes` those that the
    teacher computed for it; `seconds` is the time of both. A run without a seed (a bag of words) counts for each."""

    seed: int | None
    predictions: Answers
    passes: float | None = None
    teacher_passes: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Method:
    """A row before it is measured: its runs, the failed ones (seed, reason), and the score in its paper, in points."""

    name: str
    runs: tuple[MethodRun, ...]
    failures: tuple[tuple[int, str], ...] = ()
    paper: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class MethodRow:
    """A row as measured. Scores are None where every seed failed."""

    name: str
    seeds: Mapping[str, float]
    score: float | None
    score_ci95: tuple[float, float] | None
    differences: Mapping[str, Difference]
    """From "teacher", "no_teacher", "more_epochs", and from the row with the best score, on the seeds that both have;
    p-values are corrected (Holm)."""
    failures: tuple[tuple[int, str], ...]
    paper: float | None
    source: str | None
    passes: float | None
    """Examples seen in training, averaged over the seeds, as the next two are."""
    teacher_passes: float | None
    seconds: float | None
    parameters: int | None = None
    size_bytes: int | None = None
    flops_per_example: float | None = None
    latency_ms: Latency | None = None
    throughput_per_s: float | None = None


@dataclass(frozen=True)
class MethodComparison:
    """The table, and what was compared with what."""

    task: str
    metric: str
    device: str
    threads: int
    lengths: Percentiles
    rows: tuple[MethodRow, ...]
    best: str | None
    """Of the rows that are neither the teacher nor a baseline."""
    command: str
    """With `--row=NAME` or `--row=NAME/seedN` added it runs a row again."""
    teacher_cost: str
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[Facts, ...] = ()
    """What was read: how many examples were truncated, left out, or are in the training data too."""

    def row(self, name: str) -> MethodRow:
        return next(row for row in self.rows if row.name == name)


def method_rows(metric: str, labels: Answers, methods: Sequence[Method]) -> tuple[list[MethodRow], Any]:
    """Every method's score and its differences, and the name of the best of those that are not built in."""
    scores = {m.name: [score(metric, run.predictions, labels) for run in m.runs] for m in methods}
    own = [m for m in methods if m.name not in BUILT_IN and m.runs]
    best = max(own, key=lambda m: float(np.mean(scores[m.name]))).name if own else None
    rows = [m for m in methods if m.name != TEACHER and m.runs]
    compared = {
        other: against(metric, labels, candidates, next((m for m in methods if m.name == other and m.runs), None))
        for other, candidates in ((TEACHER, rows), (NO_TEACHER, rows), (MORE_EPOCHS, own), (best, own))
        if other is not None
    }

    def row(method: Method) -> MethodRow:
        runs, found = method.runs, scores[method.name]
        return MethodRow(
            method.name,
            seeds={str(run.seed): value for run, value in zip(runs, found, strict=True)},
            score=float(np.mean(found)) if runs else None,
            score_ci95=mean_interval(metric, [run.predictions for run in runs], labels) if runs else None,
            differences={other: table[method.name] for other, table in compared.items() if method.name in table},
            failures=method.failures,
            paper=method.paper,
            source=method.source,
            passes=mean([run.passes for run in runs]),
            teacher_passes=mean([run.teacher_passes for run in runs]),
            seconds=mean([run.seconds for run in runs]),
        )

    return [row(method) for method in methods], best


def against(metric: str, labels: Answers, methods: Sequence[Method], other: Method | None) -> dict[str, Difference]:
    """The difference of every method to `other`, where they have a seed in common; p-values corrected together."""
    pairs = {m.name: common(m.runs, other.runs) for m in methods if other is not None and m.name != other.name}
    pairs = {name: pair for name, pair in pairs.items() if pair[0]}
    corrected = holm([mean_p_value(metric, *pair, labels) for pair in pairs.values()])

    def difference(ours: list, theirs: list, p_value: float) -> Difference:
        value = np.mean([score(metric, run, labels) for run in ours]) - np.mean(
            [score(metric, run, labels) for run in theirs]
        )
        return Difference(float(value), mean_difference_interval(metric, ours, theirs, labels), p_value)

    return {name: difference(*pair, p) for (name, pair), p in zip(pairs.items(), corrected, strict=True)}


def common(ours: Sequence[MethodRun], theirs: Sequence[MethodRun]) -> tuple[list, list]:
    """The predictions of both for every seed that both have; a run without a seed stands for each."""
    a, b = ({run.seed: run.predictions for run in runs} for runs in (ours, theirs))
    known = [seed for seed in dict.fromkeys([*a, *b]) if seed is not None]
    seeds = [seed for seed in known if all(seed in runs or None in runs for runs in (a, b))]
    return [a.get(seed, a.get(None)) for seed in seeds], [b.get(seed, b.get(None)) for seed in seeds]


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def method_table(report: MethodComparison) -> Table:
    """One line per method."""
    score = f"{metric_name(report.metric)} [95 %]"
    columns = {
        "row": lambda row: title(row.name),
        score: score_text,
        "by seed": lambda row: " ".join(points(value) for seed, value in row.seeds.items() if seed != "None") or "-",
        "- teacher": lambda row: difference_text(row, TEACHER),
        "- no teacher": lambda row: difference_text(row, NO_TEACHER),
        "p": lambda row: p_text(row.differences[NO_TEACHER].p_value) if NO_TEACHER in row.differences else "-",
        "paper": lambda row: "-" if row.paper is None else f"{row.paper:g}",
        "passes": lambda row: short_number(row.passes),
        "of the teacher": lambda row: short_number(row.teacher_passes) if row.teacher_passes else "-",
        "seconds": lambda row: "-" if row.seconds is None else f"{row.seconds:.0f}",
        "ms": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p50),
        "FLOPs": lambda row: short_number(row.flops_per_example),
        "parameters": lambda row: short_number(row.parameters),
        "size": lambda row: bytes_text(row.size_bytes),
        "run it again": lambda row: "-" if row.name in (TEACHER, BAG_OF_WORDS) else f"`--row={row.name}`",
    }
    return Table(
        *cells_of(report.rows, columns),
        title=report.task,
        left=("row", "run it again"),
        terminal=("row", score, "- no teacher", "p", "passes", "ms"),
        bold=tuple(row.name not in BUILT_IN for row in report.rows),
    )


def title(name: str) -> str:
    return name.replace("_", " ")


def score_text(row: MethodRow) -> str:
    if row.score is None or row.score_ci95 is None:
        return "failed"
    tried = len(row.seeds) + len(row.failures)
    seeds = f" ({len(row.seeds)} of {tried} seeds)" if row.failures else ""
    return points_with_interval(row.score, row.score_ci95) + seeds


def difference_text(row: MethodRow, other: str) -> str:
    found = row.differences.get(other)
    return "-" if found is None else points_with_interval(found.value, found.ci95, "+")


def verdicts(report: MethodComparison) -> list[str]:
    """What the numbers say: each row against no teacher, the rows against more epochs, the best, the seeds."""
    rows = [row for row in report.rows if row.name not in (TEACHER, NO_TEACHER)]
    sentences = warnings(report.texts)
    sentences += [_against_no_teacher(row, len(rows)) for row in rows if row.score is not None]
    sentences += [_against_more_epochs(report), _best(report), _teacher(report), _seeds(report), _time(report)]
    sentences += [
        f"**{title(row.name)}**, seed {seed}, failed: {one_line((why.splitlines() or [why])[0])}"
        for row in report.rows
        for seed, why in row.failures
    ]
    return [sentence for sentence in sentences if sentence]


def _against_no_teacher(row: MethodRow, count: int) -> str:
    found = row.differences.get(NO_TEACHER)
    if found is None:
        return ""
    evidence = f"{found} corrected for {count} rows"
    name, other = f"**{title(row.name)}**", f"*{title(NO_TEACHER)}*"
    if found.p_value >= LEVEL:
        return f"{name} next to {other}: not statistically distinguishable ({evidence})."
    return f"{name} is **{'better' if found.value > 0 else 'worse'}** than {other} ({evidence})."


def _against_more_epochs(report: MethodComparison) -> str:
    compared = {row.name: row.differences[MORE_EPOCHS] for row in report.rows if MORE_EPOCHS in row.differences}
    if not compared:
        return ""
    more = report.row(MORE_EPOCHS)
    better = [title(name) for name, found in compared.items() if found.value > 0 and found.p_value < LEVEL]
    worse = [title(name) for name, found in compared.items() if found.value < 0 and found.p_value < LEVEL]
    sentence = (
        f"Labels alone, with as many passes as distillation costs ({short_number(more.passes)}), "
        f"score {score_text(more)}: "
    )
    parts = [f"better than that: {', '.join(better) or 'no row'}"] + [f"worse: {', '.join(worse)}"] * bool(worse)
    return sentence + "; ".join(parts) + "."


def _best(report: MethodComparison) -> str:
    best = report.best or ""
    compared = {row.name: row.differences[best] for row in report.rows if best in row.differences}
    if not compared:
        return ""
    near = [title(name) for name, found in compared.items() if found.p_value >= LEVEL]
    if len(near) == len(compared):
        return f"**{title(best)}** scores highest, but is not statistically distinguishable from any other row."
    sentence = f"The best row is **{title(best)}**"
    return (
        f"{sentence}; it is not statistically distinguishable from {', '.join(near)}."
        if near
        else f"{sentence}, better than every other row."
    )


def _teacher(report: MethodComparison) -> str:
    bag = [row.score for row in report.rows if row.name == BAG_OF_WORDS and row.score is not None]
    teacher = report.row(TEACHER).score
    if not bag or teacher is None or teacher > bag[0]:
        return ""
    return "The teacher is no better than a bag of words, so there is little to be learnt from it."


def _seeds(report: MethodComparison) -> str:
    spreads = {row.name: max(row.seeds.values()) - min(row.seeds.values()) for row in report.rows if len(row.seeds) > 1}
    if not spreads:
        return "Every row has one seed: how much scores vary between seeds is not known, and no p-value includes it."
    widest = max(spreads, key=lambda name: spreads[name])
    return (
        f"Seeds of one row differ by up to {points(spreads[widest])} points ({title(widest)}); p-values do not "
        "include that."
    )


def _time(report: MethodComparison) -> str:
    found = {row.name: row.latency_ms for row in report.rows if row.name not in (TEACHER, BAG_OF_WORDS)}
    times = [latency.batch_1.p50 for latency in found.values() if latency is not None]
    teacher = report.row(TEACHER).latency_ms
    if not times or teacher is None:
        return ""
    ratios = [teacher.batch_1.p50 / time for time in (max(times), min(times))]
    if ratios[1] < SPEED_UP:
        return "No row is faster than the teacher."
    low, high = (f"{ratio:.1f}" for ratio in ratios)
    return f"For one text the small models need {low if low == high else f'{low} to {high}'} times less time."


def markdown(report: MethodComparison, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    again = "Add the row's flag; with a seed (`--row=NAME/seed0`) it is one run, bit for bit the same:"
    heading = "Published scores, of other models and other data: expect the same order, not the same numbers."
    sources = [f"{title(row.name)}: {row.paper:g}, {row.source}" for row in report.rows if row.paper is not None]
    return document(
        f"Methods compared: {report.task}",
        method_table(report).markdown(),
        f"![{metric_name(report.metric)} of every row]({picture})",
        section("What the numbers say", bullets(verdicts(report))),
        section("To run a row again", again, shell(report.command)),
        section("Papers", heading, bullets(sources)) if sources else "",
        section("How it was measured", how_measured(report)),
    )


def how_measured(report: MethodComparison) -> str:
    """One paragraph that explains the columns."""
    exact = f"; of one seed it is {interval_name(report.metric)}" if report.metric in RIGHT_OR_WRONG else ""
    return (
        f"Scores are times 100, averaged over the seeds; the 95 % interval is {BOOTSTRAP}, with the predictions of "
        f"all seeds{exact}. *- teacher* and *- no teacher* are differences of the averages over the same seeds. p is a "
        "paired test of the latter (McNemar's exact test for the accuracy of one seed, else a permutation test that "
        "swaps an example's predictions in all seeds), corrected for the number of rows (Holm). *passes* are training "
        "examples that the small model saw, *of the teacher* those that the teacher computed for the row; *seconds* "
        "are the time of both, without compilation of the training step. What all rows share is not included: "
        f"{report.teacher_cost}. *ms* is the median time of one text, measured once for all rows of one shape, each "
        "shape in a process of its own, the processes taking turns. FLOPs are those of one text of the median length. "
        f"{setting(report.device, report.threads, report.lengths, report.texts)}{versions_text(report.versions)}"
    )
