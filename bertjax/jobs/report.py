"""From finished models to the report: predictions, the honest baselines, measurement, and what to try next."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from bertjax.jobs.stages import Failure, attempt
from bertjax.recipes.data import Data


class Model(NamedTuple):
    """A model that appears in the report: a bundle, or an exported folder. The first is a bundle."""

    name: str
    folder: Any
    """A path of this machine or of a bucket."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How the products of a bundle are computed."""

    @property
    def exported(self) -> bool:
        from bertjax.measure.onnx import onnx_file

        return onnx_file(self.folder) is not None


def build_report(
    models: Sequence[Model],
    data: Data,
    out: Any,
    *,
    asked: dict[str, Any],
    task: Any,
    next_steps: Sequence[tuple[str, str]] = (),
    command: str,
    base: str | None = None,
    words: bool = True,
    facts: Any = (),
    failures: list[Failure] | None = None,
) -> Any:
    """Measures the models (the first is the baseline) and writes the report into `out`; with `words` beside a bag of
    words, for which there is text to learn from. `facts` is what `tell` said of the texts.

    Every model is scored on `data.eval`, which has chosen nothing: not a step, not a setting. Each bundle that lies in
    `out` gets its model card, which names the model `base` that they were made from. With a list of `failures`, a model
    other than the first that does not answer is added to it and left out.
    """
    import dataclasses

    import bertjax
    from bertjax.engine.log import note
    from bertjax.engine.record import read_record, versions
    from bertjax.jobs.data import open_model, predict_exported, predict_split, short
    from bertjax.measure.onnx import origin_of
    from bertjax.measure.runtimes import BUNDLE_RUNTIMES
    from bertjax.report.build import Entry, measure_bundles
    from bertjax.report.card import write_card
    from bertjax.report.model_report import BAG_OF_WORDS
    from bertjax.report.write import write_report
    from bertjax.storage.paths import absolute, as_path, local
    from bertjax.text.tokenizer import Tokenizer

    _, task = open_model(str(models[0].folder), task, 0)
    source = short(data.eval)
    entries: list[Any] = []
    splits: dict[str, Any] = {}
    gold: Any = None
    runtime_of = {dtype: runtime for runtime, dtype in BUNDLE_RUNTIMES.items()}

    def answers(model: Model) -> tuple[Any, Any]:
        split = evaluation_split(splits, data, task, Tokenizer.from_folder(local(model.folder)))
        if model.exported:
            return predict_exported(model.folder, split)
        return predict_split(bertjax.load(model.folder, dtype=model.dtype), split)

    answering = []
    for model in models:
        needed = failures is None or model is models[0]
        found = answers(model) if needed else attempt(model.name, model.folder.parent, partial(answers, model))
        if isinstance(found, Failure):
            failures.append(found)  # type: ignore[union-attr]
            continue
        answering.append(model)
        record: Any = read_record(model.folder.parent) or {}
        runtime = "onnx" if model.exported else runtime_of[model.dtype]
        peak = record.get("training_step_bytes")
        predictions, gold = found
        entries.append(Entry(model.name, model.folder, predictions, runtime, training_step_bytes=peak))
    split = next(iter(splits.values()))
    if words and (bag := bag_of_words(data, task, out)) is not None:
        predictions = bag.predict(split.examples.texts, split.examples.pairs)
        entries.append(Entry(BAG_OF_WORDS, out / "bag-of-words", predictions, runtime="sklearn"))
    report = measure_bundles(
        entries,
        gold,
        split.examples.texts,
        split.examples.pairs,
        task=task,
        baseline=models[0].name,
        source=source,
        max_length=data.max_length,
        config={**asked, "eval_fingerprint": split.encoded.fingerprint},
        next_steps=next_steps,
        facts=facts,
        notify=lambda doing: note(f"measuring: {doing}"),
    )
    report = dataclasses.replace(report, versions={**versions(), **report.versions})
    write_report(report, out)
    measured = {as_path(absolute(model.folder)): model.name for model in answering if model.dtype == "float32"}
    for model in answering:  # what a file was made of has the card of the file, if it was not measured itself
        if model.exported and (origin := origin_of(model.folder)):
            measured.setdefault(as_path(absolute(origin)), model.name)
    for folder, name in measured.items():
        if as_path(absolute(out)) in folder.parents:
            about = {"base": base, "learned_from": short(data.train) if words else None, "max_length": data.max_length}
            write_card(folder, report, name, task=task, source=source, command=command, **about)
    return report


def evaluation_split(splits: dict[str, Any], data: Data, task: Any, tokenizer: Any) -> Any:
    """The evaluation examples as this tokenizer cuts them, read once: `splits` keeps them. A model whose vocabulary was
    pruned reads the same texts through a tokenizer of its own."""
    from bertjax.jobs.data import read_split

    name = tokenizer.fingerprint if tokenizer else ""
    if name not in splits:
        splits[name] = read_split(data, data.eval, task, tokenizer, "test")
    return splits[name]


def bag_of_words(data: Data, task: Any, out: Any) -> Any:
    """The baseline without a neural network, fitted on the training text and stored; None where it cannot answer."""
    if task.kind not in ("classification", "multi_label", "regression"):
        return None
    import numpy as np

    from bertjax.baselines.bag_of_words import fit_bag_of_words
    from bertjax.jobs.data import training_examples
    from bertjax.text.encode import sentence_labels

    examples = training_examples(data, task)
    if examples.labels is None:
        return None
    words = fit_bag_of_words(task.kind, examples.texts, np.asarray(sentence_labels(examples, task)), examples.pairs)
    words.save(out / "bag-of-words")
    return words
