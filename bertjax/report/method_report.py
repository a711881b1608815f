"""Methods compared, as data: a row is one way to train a small model, run with several seeds.

Every row has the same teacher, student shape, data and budget; only the method differs. Three rows are baselines: the
same model trained on the labels alone, the same with as many additional passes as distillation costs, and a bag of
words. A score is the average over the seeds. Intervals and p-values resample the evaluation examples with all seeds'
predictions, and the p-values are corrected for the number of rows (Holm). They say how these runs would score on other
examples; how much the seeds differ is a column of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertjax.measure.latency import Latency, Percentiles
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import holm, mean_difference_interval, mean_interval, mean_p_value
from bertjax.text.facts import Facts

TEACHER, NO_TEACHER, MORE_EPOCHS, BAG_OF_WORDS = "teacher", "no_teacher", "more_epochs", "bag_of_words"
BUILT_IN = (TEACHER, NO_TEACHER, MORE_EPOCHS, BAG_OF_WORDS)
"""Names of the rows that every comparison has."""


@dataclass(frozen=True)
class MethodRun:
    """One training of a method. `passes` counts the examples that it was trained on, `teacher_passes` those that the
    teacher computed for it; `seconds` is the time of both. A run without a seed (a bag of words) counts for each."""

    seed: int | None
    predictions: Sequence | np.ndarray
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
class MethodDifference:
    """The average score of a row minus that of another, on the seeds that both have; `p_value` is corrected (Holm)."""

    value: float
    ci95: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class MethodRow:
    """A row as measured. Scores are None where every seed failed."""

    name: str
    seeds: Mapping[str, float]
    score: float | None
    score_ci95: tuple[float, float] | None
    differences: Mapping[str, MethodDifference]
    """From "teacher", "no_teacher", "more_epochs", and from the row with the best score."""
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


def method_rows(metric: str, labels: Sequence | np.ndarray, methods: Sequence[Method]) -> tuple[list[MethodRow], Any]:
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


def against(
    metric: str, labels: Sequence | np.ndarray, methods: Sequence[Method], other: Method | None
) -> dict[str, MethodDifference]:
    """The difference of every method to `other`, where they have a seed in common; p-values corrected together."""
    pairs = {m.name: common(m.runs, other.runs) for m in methods if other is not None and m.name != other.name}
    pairs = {name: pair for name, pair in pairs.items() if pair[0]}
    corrected = holm([mean_p_value(metric, *pair, labels) for pair in pairs.values()])

    def difference(ours: list, theirs: list, p_value: float) -> MethodDifference:
        value = np.mean([score(metric, run, labels) for run in ours]) - np.mean(
            [score(metric, run, labels) for run in theirs]
        )
        return MethodDifference(float(value), mean_difference_interval(metric, ours, theirs, labels), p_value)

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
