"""From folders and predictions to the report: the one call at the end of a compression.

    report = measure_bundles(
        [Entry("teacher", teacher_folder, teacher_predictions),
         Entry("student", student_folder, student_predictions, training_step_bytes=peak),
         Entry(WITHOUT_TEACHER, alone_folder, alone_predictions),
         Entry(BAG_OF_WORDS, words_folder, words_predictions, runtime="sklearn")],
        labels, examples.texts, examples.pairs, task=task, baseline="teacher", source=examples.source)
    write_report(report, out)

Predictions come from the caller, who has the encoded examples; everything else is measured on the folders as they would
be shipped. Scores, intervals and tests share one set of resampled examples. Time is measured last, when this process
does nothing else.
"""

import dataclasses
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.cold_start import measure_edge
from bertjax.measure.latency import Candidate, PeakMemory, Percentiles, Timing, measure_latency
from bertjax.measure.onnx import origin_of
from bertjax.measure.runtimes import BUNDLE_RUNTIMES, FILE_RUNTIMES
from bertjax.metrics.scores import Answers, score
from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value, score_interval
from bertjax.report.models import BASELINES, Flip, ModelRow, Report
from bertjax.report.parts import Difference
from bertjax.storage.paths import absolute, local
from bertjax.text.tasks import Task

FLIPS = 3  # examples shown of each kind


@dataclass(frozen=True)
class Entry:
    """A model to measure: its name, the folder as shipped, its predictions on the evaluation examples.

    `runtime` is one of `BUNDLE_RUNTIMES` for a bundle, one of `FILE_RUNTIMES` for an exported folder and "sklearn" for
    a stored bag of words. `training_step_bytes` is the peak memory of the step that trained it (`cost.peak_memory`); it
    is not known of models that were not trained here.
    """

    name: str
    folder: str | os.PathLike
    predictions: Answers
    runtime: str = "jax"
    training_step_bytes: int | None = None

    @property
    def candidate(self) -> Candidate:
        """What is timed."""
        return Candidate(self.runtime, local(self.folder))

    @property
    def exported(self) -> bool:
        return self.runtime in FILE_RUNTIMES


def measure_bundles(
    entries: Sequence[Entry],
    labels: Answers,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    task: Task,
    baseline: str,
    source: str,
    max_length: int = 512,
    sample: int = 128,
    notify: Callable[[str], None] = lambda message: None,
) -> Report:
    """Measure every entry and compare it with the first model (`baseline`, a bundle) and with the baselines.

    `labels` and predictions are in the form that `score` compares; `texts` and `pairs`, from `source`, are timed (a
    random `sample` of them). `notify` is given a line for each measurement; all take about a minute.
    """
    by_name = {entry.name: entry for entry in entries}
    if baseline not in by_name:
        raise UserError(f"The baseline {baseline!r} is not among the models to measure: {', '.join(by_name)}.")
    first = by_name[baseline]
    notify("scores and their intervals")
    numbers = {entry.name: _scores(task.metric, entry, first, labels) for entry in entries}
    tokens = lengths(first, texts, pairs, max_length)
    for entry in entries:
        notify(f"size and arithmetic of {entry.name}")
        numbers[entry.name] |= costs(entry, tokens)
    timings = time_entries(entries, texts, pairs, max_length, sample, notify)
    exported = {entry.name: entry.candidate for entry in entries if entry.exported}
    edges = measure_edge(exported, texts, pairs, max_length=max_length, notify=notify)
    on = timings[baseline]
    report = Report(
        task=f"{task.kind} of {source}",
        metric=task.metric,
        device=on.device,
        threads=on.threads,
        lengths=percentiles(tokens),
        baseline=baseline,
        rows=tuple(_row(e, timings[e.name], on, edge=edges.get(e.name), **numbers[e.name]) for e in entries),
        versions={name: version for timing in timings.values() for name, version in timing.versions.items()},
        flips=_flips(task, by_name, baseline, labels, texts, pairs),
    )
    return dataclasses.replace(report, comparisons=_comparisons(report, by_name, labels))


def time_entries(
    entries: Sequence[Entry],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    sample: int = 128,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Timing]:
    """The times of all entries; those that run as the same program are timed once."""
    first = first_alike(entries)
    timings = measure_latency(
        {entry.name: entry.candidate for entry in first.values()},
        texts,
        pairs,
        max_length=max_length,
        sample=sample,
        isolated=not one_process_only(),
        notify=notify,
    )
    return {name: timings[entry.name] for name, entry in first.items()}


def first_alike(entries: Sequence[Entry]) -> dict[str, Entry]:
    """For the name of every entry, the first entry that runs as the same program."""
    programs = {entry.name: program(entry) for entry in entries}
    first = {programs[entry.name]: entry for entry in reversed(entries)}
    return {name: first[one] for name, one in programs.items()}


def program(entry: Entry) -> str:
    """A key that is equal for bundles that run as the same compiled program with other parameter values, as a model and
    its copy with zeros do. Timing both would report noise as a difference. Where examples may exit early, the values
    decide the time, so the key is the name."""
    from bertjax.bundle import stored_config

    if entry.runtime not in BUNDLE_RUNTIMES:
        return entry.name
    config = stored_config(entry.folder)
    exits_early = (config.exits and config.exits.exit_rule) or (config.recurrence and config.recurrence.halting)
    return entry.name if exits_early else f"{entry.runtime}: {config!r}"


def _scores(metric: str, entry: Entry, baseline: Entry, labels: Any) -> dict[str, Any]:
    predictions = entry.predictions
    against = None if entry is baseline else paired_p_value(metric, predictions, baseline.predictions, labels)
    interval = score_interval(metric, predictions, labels)
    return {"score": score(metric, predictions, labels), "score_ci95": interval, "p_value_vs_baseline": against}


def lengths(baseline: Entry, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> np.ndarray:
    """Tokens of every text, special ones included, as the baseline tokenizes and truncates."""
    import bertjax

    bundle = bertjax.load(baseline.folder)
    if bundle.tokenizer is None:
        raise UserError(f"{baseline.folder} has no tokenizer, so {baseline.name} cannot be measured on texts.")
    limit = min(max_length, bundle.config.max_tokens)
    return np.array([len(row) for row in bundle.tokenizer.encode(texts, pairs, limit, spans=False).ids])


def percentiles(tokens: np.ndarray) -> Percentiles:
    """The median and the 95th percentile of numbers of tokens."""
    p50, p95 = np.percentile(tokens, (50, 95))
    return Percentiles(float(p50), float(p95))


def costs(entry: Entry, tokens: np.ndarray) -> dict[str, Any]:
    """Parameters, bytes, FLOPs and memory of a model, for texts of these numbers of tokens; an exported one has those
    of its bundle."""
    import bertjax
    from bertjax.baselines.bag_of_words import bag_of_words_bytes, load_bag_of_words
    from bertjax.measure.cost import forward_cost, stored_bytes
    from bertjax.params import count
    from bertjax.token_dropping.costs import tokens_left

    folder = local(entry.folder)
    if entry.runtime == "sklearn":
        return {"parameters": load_bag_of_words(folder).parameters, "size_bytes": bag_of_words_bytes(folder)}
    exported = entry.exported
    dtype = BUNDLE_RUNTIMES.get(entry.runtime, "float32")
    bundle = bertjax.load(origin(entry) if exported else entry.folder, dtype=dtype)
    cost = forward_cost(bundle.model, bundle.params, round(float(np.median(tokens))))
    exits, retention = bundle.config.exits, bundle.config.retention
    by_text = bool(exits and exits.exit_rule) or bool(retention and any(retention.thresholds))
    return {
        "parameters": count(bundle.params),
        "size_bytes": stored_bytes(folder),
        "flops_per_example": None if by_text else cost.flops,  # depends on where each text exits, or on its attention
        "bytes_accessed_per_example": None if exported else cost.bytes_accessed,
        "tokens_left": tokens_left(bundle.config, tokens),
        "peak_memory_bytes": PeakMemory(None if exported else cost.peak_memory, entry.training_step_bytes),
    }


def origin(entry: Entry) -> Any:
    """The path of the bundle that an exported folder comes from."""
    found = origin_of(entry.folder)
    if found is None:
        raise UserError(
            f"{entry.folder} does not name the bundle that it was exported from, or that bundle is gone, so its FLOPs "
            "cannot be counted. Export it again (bertjax export)."
        )
    return found


def _row(entry: Entry, timing: Timing, on: Timing, **numbers: Any) -> ModelRow:
    return ModelRow(
        entry.name,
        bundle=None if entry.runtime == "sklearn" else absolute(entry.folder),
        runtime=timing.runtime if timing.device == on.device else f"{timing.runtime} on {timing.device}",
        latency_ms=timing.latency,
        throughput_per_s={"batch_32": timing.throughput_per_s},
        exported_from=absolute(origin(entry)) if entry.exported else None,
        **numbers,
    )


def _comparisons(report: Report, by_name: Mapping[str, Entry], labels: Any) -> dict[tuple[str, str], Difference]:
    """Every compressed model with the first model, with that in its own runtime, and with each baseline."""
    others = [name for name in (report.baseline, *BASELINES) if name in by_name]

    def difference(name: str, other: str) -> Difference:
        metric, a, b = report.metric, by_name[name].predictions, by_name[other].predictions
        value = score(metric, a, labels) - score(metric, b, labels)
        interval = paired_difference_interval(metric, a, b, labels)
        return Difference(value, interval, paired_p_value(metric, a, b, labels))

    return {
        (row.name, other): difference(row.name, other)
        for row in report.rows
        if row.name not in others
        for other in dict.fromkeys([*others, report.against(row).name])
    }


def _flips(
    task: Task,
    by_name: Mapping[str, Entry],
    baseline: str,
    labels: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
) -> tuple[Flip, ...]:
    """For every compressed bundle a few random examples that only the first model or only this one labels rightly."""
    if task.kind != "classification":
        return ()
    gold, before = np.asarray(labels), np.asarray(by_name[baseline].predictions)
    flips = []
    others = [name for name, entry in by_name.items() if entry.runtime in BUNDLE_RUNTIMES and name != baseline]
    for name in [name for name in others if name not in BASELINES]:
        after = np.asarray(by_name[name].predictions)
        for right in (before, after):
            rows = np.flatnonzero((before != after) & (right == gold)).tolist()
            for i in random.Random(0).sample(rows, min(FLIPS, len(rows))):
                text = texts[i] if pairs is None else f"{texts[i]} / {pairs[i]}"
                flips.append(Flip(name, text, *(task.labels[ids[i]] for ids in (gold, before, after))))
    return tuple(flips)


def one_process_only() -> bool:
    """A TPU belongs to the process that opened it, here this one."""
    import jax

    return jax.default_backend() == "tpu"
