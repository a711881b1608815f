"""Both models on the same texts: scores, times and sizes, measured on the folders that ship.

Numbers stored in a folder are used only to compare them with the measurement.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError
from bertjax.machine.processor import processor_features
from bertjax.measure.cost import stored_bytes
from bertjax.measure.faster import choose_runtime
from bertjax.measure.integer_products import inexact_products
from bertjax.measure.latency import Timing, measure_latency
from bertjax.measure.onnx import longest_input, read_graph
from bertjax.measure.outputs import measure_outputs
from bertjax.measure.processes import Candidate
from bertjax.measure.runtimes import FileRuntimes
from bertjax.metrics.neighbours import compared
from bertjax.metrics.scores import Answers, answers, score
from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value, score_interval
from bertjax.storage import manifest
from bertjax.text.answers import tags_or_answers
from bertjax.text.encode import Encoded, encode_examples, sentence_labels, singly
from bertjax.text.examples import Examples
from bertjax.text.facts import task_summary
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import BY_TOKEN, OF_A_MODEL, Task, align_labels
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import folder as folders
from bertjax.verify.behaviour import behaviour_of, times_by_length
from bertjax.verify.measured import InOther, Measured, Parity, Side

SIDES = ("OLD", "NEW")
IN_OTHER = "NEW in onnxruntime"
Logits = Sequence[np.ndarray]
"""One array per text, with a number per class; for token-level tasks, one array per row, with numbers for each
token."""


class ModelRun(NamedTuple):
    """A model that was run: the texts as it reads them, and its outputs for them."""

    path: Path
    rows: Encoded
    logits: Logits
    predictions: Answers


def compare(
    new: Path,
    old: Path,
    source: str,
    task: Task,
    *,
    parity: Path | None = None,
    max_length: int = 512,
    threads: int = 1,
    repeats: int = 3,
    runtime: FileRuntimes = "onnxruntime",
    notify: Callable[[str], None] = lambda message: None,
) -> Measured:
    """Everything that a verdict needs. `parity` is the bundle that NEW was exported from, if NEW does not name it.
    `runtime` is that of ONNX files.

    Tags are scored by entities, and answers over all windows of their context. A timed question is one call with as
    much of the context as fits.

    Raises:
      UserError: A file that changed since it was written (card and report included), or a link that leads out of NEW; a
        `parity` that is NEW or no bundle; a folder without a model or without names for its classes; two models with
        different classes; data without labels, or with labels that are none of the classes; a model for another kind of
        task.
    """
    folders.check_files(new)
    manifest.check(new, manifest.ALL_FILES)
    origin, no_parity = (folders.given_bundle(parity, new), "") if parity else folders.named_bundle(new)
    paths, bundle = with_bundle(new, old, origin)
    for name in paths.keys() - {"NEW"}:
        manifest.check(paths[name], manifest.ALL_FILES)
    if bundle:
        check_origin(new, paths[bundle])
    files = {name: paths[name] for name in paths if folders.runtime_of(paths[name]) == "onnx"}
    task, examples, gold = labelled(source, task, old)
    notify(task_summary(examples))
    settings: Any = {"max_length": max_length, "threads": threads, "repeats": repeats, "notify": notify}
    texts = examples.texts, examples.pairs
    choices = {name: choose_runtime(name, path, runtime, *texts, **settings) for name, path in files.items()}
    candidates = {name: Candidate(choices[name].runtime if name in choices else "jax", paths[name]) for name in paths}
    if "NEW" in choices and choices["NEW"].runtime != "onnxruntime":
        paths[IN_OTHER], candidates[IN_OTHER] = new, Candidate("onnxruntime", new)
    rows = {name: encode_for(path, examples, task, max_length) for name, path in paths.items()}
    timings, logits = run_models(candidates, examples, rows, settings)
    notify("reading the files")
    predictions, gold = predictions_of(logits, rows, examples, gold)
    models = {name: ModelRun(path, rows[name], logits[name], predictions[name]) for name, path in paths.items()}
    theirs, ours = models["OLD"], models["NEW"]
    measured = side(ours, gold, timings["NEW"])
    tokens = (by_example(model.rows, len(examples)) for model in (theirs, ours))
    parity_of = None
    if bundle:
        alike = agreement(task.kind, ours.predictions, models[bundle].predictions)
        rounds = measured.holds_integers or measured.decides
        parity_of = parity_with(str(paths[bundle]), ours.logits, models[bundle].logits, alike, rounds)
    in_other = None
    if other := models.get(IN_OTHER):
        alike = agreement(task.kind, ours.predictions, other.predictions)
        in_other = InOther(float(differences(ours.logits, other.logits).max()), alike)
    return Measured(
        metric=task.metric,
        texts=len(examples),
        labels=distinct(task.kind, gold),
        old=side(theirs, gold, timings["OLD"]),
        new=dataclasses.replace(measured, claims=folders.claims_of(new, old, task.metric)),
        difference=paired_difference_interval(task.metric, ours.predictions, theirs.predictions, gold),
        p_value=paired_p_value(task.metric, ours.predictions, theirs.predictions, gold),
        agreement=agreement(task.kind, ours.predictions, theirs.predictions),
        same_tokens=float(np.mean([np.array_equal(*both) for both in zip(*tokens, strict=True)])),
        renamed=renamed_agreement(task, ours.predictions, theirs.predictions),
        parity=parity_of,
        features=processor_features(),
        no_parity=no_parity,
        behaviour=behaviour_of(new, rows["NEW"], threads, choices["NEW"].runtime) if "NEW" in choices else None,
        by_length=times_by_length(rows["NEW"], len(examples), timings["OLD"], timings["NEW"]),
        in_other=in_other,
        runtimes=tuple(choice.why for choice in choices.values() if choice.why),
    )


def check_origin(new: Path, bundle: Path) -> None:
    """Raises a `UserError` if `bundle` is not the model that NEW was exported from."""
    before = manifest.read(new).made_from
    now = manifest.fingerprint(bundle)
    if differing := [part for part, digest in before.items() if now.get(part) != digest]:
        raise UserError(
            f"{new} was not exported from the model that is in {bundle} now: {' and '.join(differing)} differ.\n"
            "Export it again, or name the bundle that it was exported from (--parity=BUNDLE)."
        )


def with_bundle(new: Path, old: Path, bundle: Path | None) -> tuple[dict[str, Path], str | None]:
    """All models to run, by name, and the name of the bundle, which may also be OLD or NEW."""
    paths = {"OLD": old, "NEW": new}
    if bundle is None:
        return paths, None
    name = next((name for name in SIDES if paths[name].resolve() == bundle.resolve()), "the bundle")
    return {**paths, name: bundle}, name


def run_models(
    candidates: dict[str, Candidate],
    examples: Examples,
    rows: dict[str, Encoded],
    settings: dict[str, Any],
) -> tuple[dict[str, Timing], dict[str, Logits]]:
    """The times of OLD and NEW, and the logits of every model, with columns in the order of the task's classes.
    `settings` are those of `measure_latency`."""
    task = rows["NEW"].task
    paths = {name: Path(one.path) for name, one in candidates.items()}
    orders = {name: columns(task, classes_of(path, task.kind), path) for name, path in paths.items()}
    both = {name: candidates[name] for name in SIDES}
    timed = singly(examples, task)
    timings = measure_latency(both, timed.texts, timed.pairs, **settings)
    once = {name: value for name, value in settings.items() if name != "repeats"}
    logits = measure_outputs(candidates, examples, rows, **once)
    if task.kind in OF_A_MODEL:
        return timings, dict[str, Logits](logits)
    for name, order in orders.items():
        by_token, unit = (task.kind in BY_TOKEN), {1: "per text", 2: "per token"}
        found = logits[name][0]
        if found.ndim != 1 + by_token:
            raise UserError(
                f"{paths[name]} outputs logits {unit.get(found.ndim, 'of another shape')}; a task of kind {task.kind} "
                f"needs logits {unit[1 + by_token]}."
            )
        if found.shape[-1] != len(order):
            raise UserError(
                f"{paths[name]} names {len(order)} classes (id2label), but outputs {found.shape[-1]} logits "
                f"{unit[found.ndim]}."
            )
    return timings, {name: [row[..., orders[name]] for row in logits[name]] for name in paths}


def side(model: ModelRun, gold: Answers, timing: Timing) -> Side:
    """One of the two models, without its claims."""
    path, rows, logits, predictions = model
    task = rows.task
    in_runtime: Any = (path, timing.runtime) if folders.runtime_of(path) == "onnx" else None
    return Side(
        folder=str(path),
        score=score(task.metric, predictions, gold),
        interval=score_interval(task.metric, predictions, gold),
        timing=timing,
        bytes=folders.shipped_bytes(path),
        weights=folders.weights_of(path),
        graph=read_graph(*in_runtime) if in_runtime else None,
        truncated=rows.truncated,
        finite=all(bool(np.isfinite(row).all()) for row in logits),
        answers=distinct(task.kind, predictions),
        file_bytes=stored_bytes(path),
        inexact=inexact_products(*in_runtime) if in_runtime else (),
    )


def labelled(source: str, task: Task, old: Path) -> tuple[Task, Examples, Answers | None]:
    """The task with the classes of OLD in OLD's order, the examples, and their labels in the form that `score` takes;
    None for texts to embed without scores, whose gold similarities are those of OLD."""
    found = infer_task(source, task)
    aligned = align_labels(found, classes_of(old, found.kind), str(old))
    examples = load_examples(source, aligned, "test", labelled=aligned.kind not in OF_A_MODEL)
    if aligned.kind in OF_A_MODEL:
        return aligned, examples, sentence_labels(singly(examples, aligned), aligned)
    assert examples.labels is not None
    if aligned.kind in BY_TOKEN:
        return aligned, examples, [one["text"] if aligned.kind == "qa" else one for one in examples.labels]
    gold = sentence_labels(examples, aligned)
    assert gold is not None
    return aligned, examples, gold if aligned.kind == "regression" else gold.astype(np.int64)


def classes_of(path: Path, kind: str) -> dict[int, str]:
    """The name of each output. For question answering, whose outputs need no names, start and end; for embeddings,
    none."""
    fixed: dict[str, dict[int, str]] = {"qa": {0: "start", 1: "end"}, "embedding": {}}
    return fixed[kind] if kind in fixed else folders.classes_of(path)


def columns(task: Task, classes: dict[int, str], path: Path) -> list[int]:
    """The columns of a model's logits in the order of the task's classes: matched by name, or by position if the names
    are placeholders."""
    own = align_labels(task, classes, str(path)).labels
    if sorted(own) != sorted(task.labels):
        raise UserError(
            f"{path} has other classes than OLD.\n  OLD:  {', '.join(task.labels)}\n  here: {', '.join(own)}"
        )
    return [own.index(name) for name in task.labels] if task.labels else list(range(len(classes)))


def predictions_of(
    logits: dict[str, Logits], rows: dict[str, Encoded], examples: Examples, gold: Answers | None
) -> tuple[dict[str, Answers], Answers]:
    """Predictions from the logits of each model, and the labels. NaN counts as 0, so that a broken model has a score, a
    bad one."""
    numbers = {
        name: [np.nan_to_num(row, posinf=1e30, neginf=-1e30) for row in of_model] for name, of_model in logits.items()
    }
    task = rows["OLD"].task
    if task.kind in OF_A_MODEL:
        reference = np.stack(numbers["OLD"]) if gold is None else np.asarray(gold)
        judged = {
            name: compared(task.metric, np.stack(vectors), reference, examples.texts, examples.pairs)
            for name, vectors in numbers.items()
        }
        return {name: predictions for name, (predictions, _) in judged.items()}, judged["OLD"][1]
    assert gold is not None
    return {name: answers_of(found, rows[name], examples) for name, found in numbers.items()}, gold


def answers_of(numbers: Logits, rows: Encoded, examples: Examples) -> Answers:
    """Predictions from the logits of one model."""
    if rows.task.kind in BY_TOKEN:
        return tags_or_answers(numbers, rows, examples)
    return answers(rows.task.kind, np.stack(numbers))


def distinct(kind: str, predictions: Answers) -> int | None:
    """The number of different predictions, or None for regression and embeddings. For tags it is counted over all
    words."""
    if kind in ("regression", "embedding"):
        return None
    if kind in BY_TOKEN:
        return len({str(one) for text in predictions for one in (text if kind == "tokens" else [text])})
    return len(np.unique(predictions, axis=0))


def agreement(kind: str, a: Answers, b: Answers) -> float | None:
    """Share of texts with the same prediction; None for regression and embeddings, which are never quite the same."""
    if kind in ("regression", "embedding"):
        return None
    return float(np.mean([np.array_equal(one, other) for one, other in zip(a, b, strict=True)]))


def renamed_agreement(task: Task, new: Answers, old: Answers) -> float | None:
    """The agreement after each class of NEW is renamed to the class that OLD predicts most often for the same texts.
    None if this is not a permutation of the classes that OLD predicts, or changes nothing; and for tasks in which a
    text, or a word of it, has no single class."""
    if task.kind not in ("classification", "tokens"):
        return None
    by_word = task.kind == "tokens"
    ours, theirs = (
        [np.array([task.labels.index(tag) for tag in text] if by_word else [text], np.int64) for text in predictions]
        for predictions in (new, old)
    )
    pairs, counts = np.unique(np.stack([np.concatenate(ours), np.concatenate(theirs)]), axis=1, return_counts=True)
    order = np.lexsort((-counts, pairs[0]))
    classes, first = np.unique(pairs[0][order], return_index=True)
    called = pairs[1][order][first]
    if sorted(called) != np.unique(pairs[1]).tolist() or (called == classes).all():
        return None
    return agreement("classification", [called[np.searchsorted(classes, text)] for text in ours], theirs)


def parity_with(bundle: str, new: Logits, ours: Logits, alike: float | None, rounds: bool) -> Parity:
    """NEW compared with its bundle; `alike` is their share of equal predictions. With quantised activations, exits or
    dropped tokens (`rounds`) the distance is that of the median text: one value rounded to the other integer, or one
    choice between two close numbers, changes everything after it in its text. If the two tokenise differently, the
    distance is infinite."""
    difference = differences(new, ours)
    distance = np.median(difference) if rounds else difference.max()
    size = np.sqrt(np.mean(np.square(np.concatenate(ours))))
    return Parity(bundle, float(difference.max()), float(distance / size), alike)


def differences(a: Logits, b: Logits) -> np.ndarray:
    """The largest difference of a logit in each row; infinite if the two tokenise differently."""
    if [row.shape for row in a] != [row.shape for row in b]:
        return np.array([np.inf])
    return np.array([np.abs(one - other).max() for one, other in zip(a, b, strict=True)])


def encode_for(path: Path, examples: Examples, task: Task, max_length: int) -> Encoded:
    """The examples, tokenised for the model in a folder, whose threshold of no answer goes with them."""
    threshold = folders.config_of(path).get("no_answer_threshold") or 0.0
    task = dataclasses.replace(task, no_answer_threshold=float(threshold))
    return encode_examples(examples, task, Tokenizer.from_folder(path), min(max_length, longest_input(path)))


def by_example(rows: Encoded, count: int) -> list[np.ndarray]:
    """The token ids of every example, all its rows concatenated."""
    ends = np.searchsorted(rows.example, np.arange(count), side="right")
    return np.split(rows.ids, rows.offsets[ends[:-1]])
