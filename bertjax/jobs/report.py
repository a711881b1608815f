"""From finished models to the report: predictions, the bag-of-words baseline, and measurement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bertjax.jobs.data import Split, Text, open_model, predict_exported, predict_split, short
from bertjax.jobs.stages import Failure, attempt
from bertjax.jobs.training import result_of
from bertjax.recipes.data import Data
from bertjax.storage.paths import absolute, as_path, local

if TYPE_CHECKING:
    from bertjax.baselines.bag_of_words import BagOfWords
    from bertjax.measure.runtimes import FileRuntime, FileRuntimes
    from bertjax.report.build import Entry
    from bertjax.report.models import Report
    from bertjax.text.facts import Facts
    from bertjax.text.tasks import Task

MOST_EMBEDDED = 10_000
"""Training texts that the reference model embeds for the static table."""


class Model(NamedTuple):
    """A model in the report: a bundle, or an exported folder. The first one is a bundle."""

    name: str
    folder: Any
    """A local path, or one in a bucket."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype in which a bundle computes its matrix products."""

    @property
    def exported(self) -> bool:
        from bertjax.measure.onnx import onnx_file

        return onnx_file(self.folder) is not None


def build_report(
    models: Sequence[Model],
    text: Text,
    out: Path,
    *,
    settings: dict[str, Any],
    task: Task,
    next_steps: Sequence[tuple[str, str]] = (),
    command: str,
    base: str | None = None,
    learned: bool = True,
    facts: tuple[Facts, ...] = (),
    failures: list[Failure] | None = None,
    runtime: FileRuntimes = "onnxruntime",
) -> Report:
    """Measures the models (the first is the baseline) and writes the report into `out`.

    Every model is scored on `data.eval`, on which nothing was chosen: no step and no setting. Each bundle inside `out`
    gets a model card, which names `base` as the original model.

    Args:
      learned: Whether there is training text, on which a bag of words is fitted as one more baseline.
      facts: The summary of the data.
      failures: If given, a model other than the first that cannot be scored is added to this list and left out.
      runtime: The runtime of exported models.
    """
    import dataclasses

    from bertjax.engine.log import note
    from bertjax.engine.record import versions
    from bertjax.report.build import Entry, measure_bundles
    from bertjax.report.write import write_report
    from bertjax.text.encode import singly
    from bertjax.text.tokenizer import Tokenizer

    data, first = text.data, models[0]
    _, task = open_model(str(first.folder), task, 0)
    entries: list[Entry] = []
    labels: Any = None
    sentences: list[str] = []
    for model in models:
        work, left_out = partial(predicted, model, text, task, runtime), None if model is first else failures
        if (found := attempt(model.name, model.folder.parent, work, left_out)) is not None:
            entry, labels, about = found
            entries.append(entry)
            sentences += about
    measured = [model for model in models if model.name in [entry.name for entry in entries]]
    split = text.held_out(task, Tokenizer.from_folder(local(first.folder)))
    examples = split.examples
    for name, words in word_baselines(text, task).items() if learned else ():
        folder = out / name.replace(" ", "-")
        words.save(folder)
        predictions = words_predict(words, split)
        entries.append(Entry(name, folder, predictions, runtime="sklearn"))
    timed = singly(examples, task)
    report = measure_bundles(
        entries,
        labels,
        timed.texts,
        timed.pairs,
        task=task,
        baseline=first.name,
        source=short(data.eval),
        max_length=data.max_length,
        notify=lambda doing: note(f"measuring: {doing}"),
    )
    report = dataclasses.replace(
        report,
        config={**settings, "eval_fingerprint": split.encoded.fingerprint},
        versions={**versions(), **report.versions},
        next_steps=tuple(next_steps),
        runtimes=tuple(sentences),
        texts=facts,
    )
    write_report(report, out)
    write_cards(report, measured, data, out, task=task, command=command, base=base, learned=learned)
    return report


def predicted(model: Model, text: Text, task: Task, given: FileRuntimes) -> tuple[Entry, Any, list[str]]:
    """A model with its predictions for the evaluation examples, their labels, and sentences about the runtime of an
    exported model."""
    import bertjax
    from bertjax.measure.runtimes import BUNDLE_RUNTIMES
    from bertjax.report.build import Entry
    from bertjax.text.tokenizer import Tokenizer

    split = text.held_out(task, Tokenizer.from_folder(local(model.folder)))
    sentences: list[str] = []
    if model.exported:
        runtime, sentences = file_runtime(model, split, given, text.data.max_length)
        predictions, labels = predict_exported(model.folder, split, runtime)
        if runtime != "onnxruntime":
            sentences.append(differing(model, runtime, predictions, predict_exported(model.folder, split)[0]))
    else:
        runtime = next(name for name, dtype in BUNDLE_RUNTIMES.items() if dtype == model.dtype)
        predictions, labels = predict_split(bertjax.load(model.folder, dtype=model.dtype), split)
    peak = result_of(str(model.folder.parent), text.data).training_step_bytes
    return Entry(model.name, model.folder, predictions, runtime, training_step_bytes=peak), labels, sentences


def file_runtime(model: Model, split: Split, given: FileRuntimes, max_length: int) -> tuple[FileRuntime, list[str]]:
    """The runtime of an exported model, and a sentence if it was chosen here."""
    from bertjax.engine.log import note
    from bertjax.measure.faster import choose_runtime

    texts, folder = (split.examples.texts, split.examples.pairs), local(model.folder)
    notify = lambda doing: note(f"measuring: {doing}")  # noqa: E731
    choice = choose_runtime(model.name, folder, given, *texts, max_length=max_length, notify=notify)
    return choice.runtime, [choice.why] if choice.why else []


def differing(model: Model, runtime: str, found: Any, others: Any) -> str:
    """How many predictions differ from those in ONNX Runtime, in which the file was compared with its bundle."""
    import numpy as np

    count = sum(not np.array_equal(one, other) for one, other in zip(found, others, strict=True))
    return f"{model.name} in {runtime} predicts otherwise than in onnxruntime for {count} of {len(found)} texts"


def write_cards(report: Report, models: Sequence[Model], data: Data, out: Path, *, learned: bool, **about: Any) -> None:
    """The model cards of all bundles and exported folders inside `out`. The card of a bundle whose exported file was
    measured, and not the bundle itself, has the numbers of the file."""
    from bertjax.measure.onnx import origin_of
    from bertjax.report.card import write_card

    folders = {as_path(absolute(model.folder)): model.name for model in models if model.dtype == "float32"}
    for model in models:
        if model.exported and (origin := origin_of(model.folder)):
            folders.setdefault(as_path(absolute(origin)), model.name)
    about |= {"learned_from": short(data.train) if learned else None, "max_length": data.max_length}
    for folder, name in folders.items():
        if as_path(absolute(out)) in folder.parents:
            write_card(folder, report, name, source=short(data.eval), **about)


def word_baselines(text: Text, task: Task) -> dict[str, BagOfWords]:
    """The baselines without a neural network, by name, fitted on the training examples; none for tasks that they do not
    support, or without labels."""
    import numpy as np

    from bertjax.baselines.bag_of_words import fit_bag_of_words, static_table, tf_idf
    from bertjax.report.models import BAG_OF_WORDS, STATIC_TABLE
    from bertjax.text.encode import sentence_labels, singly
    from bertjax.text.examples import chosen_by_text

    if task.kind == "embedding":
        examples = chosen_by_text(text.training_examples(task), MOST_EMBEDDED)
        texts = singly(examples, task).texts
        table = {STATIC_TABLE: static_table(texts, text.reference(examples, task))} if text.data.reference else {}
        return {BAG_OF_WORDS: tf_idf(texts), **table}
    if task.kind not in ("classification", "multi_label", "regression"):
        return {}
    examples = text.training_examples(task)
    if examples.labels is None:
        return {}
    labels = np.asarray(sentence_labels(examples, task))
    return {BAG_OF_WORDS: fit_bag_of_words(task.kind, examples.texts, labels, examples.pairs)}


def words_predict(words: BagOfWords, split: Split) -> Any:
    """Predictions in the form that the metric compares."""
    from bertjax.metrics.neighbours import compared
    from bertjax.text.encode import singly

    examples, encoded = split
    if words.kind != "embedding":
        return words.predict(examples.texts, examples.pairs)
    vectors = words.predict(singly(examples, encoded.task).texts)
    return compared(encoded.task.metric, vectors, encoded.labels, examples.texts, examples.pairs)[0]
