"""The report of a comparison: its rows with scores, costs and times."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.jobs.data import Split, Text, predict_split, short
from bertjax.recipes.compare import BUILT_IN, Config
from bertjax.storage.paths import as_path, local

if TYPE_CHECKING:
    from bertjax.report.methods import Method
    from bertjax.text.facts import Facts
    from bertjax.text.tasks import Task


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    config: Config
    out: Path
    text: Text
    task: Task
    teacher: str
    examples: int
    """Number of training examples."""
    teacher_epochs: float
    """Epochs that the teacher was trained for."""
    facts: tuple[Facts, ...] = ()
    """Summary of the data."""

    def evaluation(self, folder: Any) -> Split:
        """The evaluation examples as a model reads them."""
        from bertjax.text.tokenizer import Tokenizer

        return self.text.held_out(self.task, Tokenizer.from_folder(local(folder)))


def measure(bench: Bench, outcomes: dict[str, dict[int, Any]]) -> Any:
    """Scores, costs and times of all rows, the teacher first and then the baselines."""
    from bertjax.engine.commands import command_for
    from bertjax.engine.fields import to_dict
    from bertjax.engine.log import note
    from bertjax.engine.record import versions
    from bertjax.report.methods import MethodComparison, method_rows

    config, task = bench.config, bench.task
    methods, gold = gather(bench, outcomes)
    note("measuring: scores and their intervals")
    rows, best = method_rows(task.metric, gold, methods)
    tokens, on, machine = machine_costs(bench, {m.name: folder_of(bench, m) for m in methods if m.runs})
    return MethodComparison(
        task=f"{task.kind} of {short(config.data.eval)}",
        metric=task.metric,
        device=on.device,
        threads=on.threads,
        lengths=tokens,
        rows=tuple(dataclasses.replace(row, **machine.get(row.name, {})) for row in rows),
        best=best,
        command=command_for("compare", config, out=f"{config.out}-again"),
        teacher_cost=f"training the teacher ({bench.teacher_epochs * bench.examples:,.0f} passes)",
        config=to_dict(config),
        versions={**versions(), **on.versions},
        texts=bench.facts,
    )


def gather(bench: Bench, outcomes: dict[str, dict[int, Any]]) -> tuple[list[Any], Any]:
    """All rows in the order of the table, with their predictions; and the labels."""
    import time

    from bertjax.jobs.report import word_baselines, words_predict
    from bertjax.report.methods import Method, MethodRun
    from bertjax.report.models import BAG_OF_WORDS

    predictions, gold = predict(bench, bench.teacher)
    methods = {"teacher": Method("teacher", (MethodRun(None, predictions),))}
    published = {row.name: row.paper for row in bench.config.rows}
    for name, runs in outcomes.items():
        done = tuple(run for run in runs.values() if not isinstance(run, str))
        failures = tuple((seed, why) for seed, why in runs.items() if isinstance(why, str))
        paper = published.get(name)
        methods[name] = Method(name, done, failures, paper and paper.value, paper and paper.source)
    began = time.monotonic()
    if words := word_baselines(bench.text, bench.task).get(BAG_OF_WORDS):
        words.save(bench.out / "bag-of-words")
        seconds, predictions = time.monotonic() - began, words_predict(words, bench.evaluation(bench.teacher))
        methods["bag_of_words"] = Method(
            "bag_of_words", (MethodRun(None, predictions, float(bench.examples), seconds=seconds),)
        )
    return [methods[name] for name in dict.fromkeys([*BUILT_IN, *methods]) if name in methods], gold


def machine_costs(bench: Bench, folders: dict[str, Path]) -> tuple[Any, Any, dict[str, dict[str, Any]]]:
    """Tokens per text, the timing of the teacher, and each row's size, FLOPs and time. Rows with the same architecture
    compile to the same program, which is measured once for all of them."""
    from bertjax.engine.log import note
    from bertjax.report.build import Entry, costs, first_alike, lengths, percentiles, time_entries

    examples, max_length = bench.evaluation(bench.teacher).examples, bench.config.data.max_length
    texts, pairs = examples.texts, examples.pairs
    runtimes = {name: "sklearn" if name == "bag_of_words" else "jax" for name in folders}
    entries = [Entry(name, folder, (), runtimes[name]) for name, folder in folders.items()]
    tokens = lengths(entries[0], texts, pairs, max_length)
    timings = time_entries(entries, texts, pairs, max_length, notify=lambda doing: note(f"measuring: {doing}"))
    first = first_alike(entries)
    known = {entry.name: costs(entry, tokens) for entry in first.values()}

    def cost(name: str) -> dict[str, Any]:
        fields = ("parameters", "size_bytes", "flops_per_example")
        times = {"latency_ms": timings[name].latency, "throughput_per_s": timings[name].throughput_per_s}
        return {field: value for field, value in known[first[name].name].items() if field in fields} | times

    return percentiles(tokens), timings["teacher"], {name: cost(name) for name in folders}


def folder_of(bench: Bench, method: Method) -> Any:
    """A model of the row: that of its first finished seed."""
    if method.name == "teacher":
        return as_path(bench.teacher)
    if method.name == "bag_of_words":
        return bench.out / "bag-of-words"
    seed = method.runs[0].seed
    every = dataclasses.replace(bench.config, row=f"{method.name}/seed{seed}").chosen()
    stages = every[0][0].stages
    return bench.out / "rows" / method.name / f"seed{seed}" / f"{len(stages)}-{stages[-1].name}" / "bundle"


def predict(bench: Bench, folder: Any) -> tuple[Any, Any]:
    """Predictions of a model for the evaluation examples, and the labels."""
    import bertjax

    return predict_split(bertjax.load(folder), bench.evaluation(folder))
