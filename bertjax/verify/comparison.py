"""Both models on the same texts: scored, timed and weighed from the folders that ship.

No number that a folder brings along is used, but to be held against what was measured.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bertjax import manifest
from bertjax.errors import UserError
from bertjax.measure.integer_products import inexact_products
from bertjax.measure.latency import Timing, measure_latency
from bertjax.measure.onnx import longest_input, read_graph
from bertjax.measure.outputs import measure_outputs
from bertjax.measure.processes import Candidate
from bertjax.measure.scores import answers, example_sums, score, score_of_sums
from bertjax.measure.uncertainty import paired_difference_interval, paired_p_value, score_interval
from bertjax.processor import processor_features
from bertjax.text.encode import sentence_labels
from bertjax.text.examples import Examples
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task, align_labels
from bertjax.text.tokenizer import Tokenizer
from bertjax.verify import folder as folders
from bertjax.verify.measured import Measured, Parity, Side

SIDES = ("OLD", "NEW")
Logits = Float[np.ndarray, "n c"]


def compare(
    new: Path,
    old: Path,
    source: str,
    task: Task,
    *,
    parity: Path | None = None,
    max_length: int = 512,
    threads: int = 1,
    rounds: int = 3,
    notify: Callable[[str], None] = lambda message: None,
) -> Measured:
    """Everything that a verdict needs. `parity` is the bundle that NEW is exported from, where NEW does not say it.

    Raises:
      UserError: A file that is not the one that was written (card and report, too), or a link that leads out of NEW; a
        `parity` that is NEW or no bundle; a folder without a model or without names for its classes; two models that
        answer with other classes; data without labels, or whose labels are none of the classes; a task with more than
        one answer per text.
    """
    folders.check_files(new)
    manifest.check(new, manifest.EVERYTHING)
    held, unheld = (folders.given_bundle(parity, new), "") if parity else folders.named_bundle(new)
    paths, bundle = with_bundle(new, old, held)
    for name in paths.keys() - {"NEW"}:
        manifest.check(paths[name], manifest.EVERYTHING)
    if bundle:
        check_origin(new, paths[bundle])
    runtimes = {name: folders.runtime_of(path) for name, path in paths.items()}
    task, examples, gold = labelled(source, task, folders.classes_of(old), old)
    candidates = {name: Candidate(runtimes[name], path) for name, path in paths.items()}
    timings, logits = run(candidates, task, examples, max_length, threads, rounds, notify)
    notify("reading the files")
    pieces = {name: cut(paths[name], examples.texts, examples.pairs, max_length) for name in SIDES}
    sides = {name: side(paths[name], task, gold, logits[name], timings[name], pieces[name][1]) for name in SIDES}
    said = {name: spoken(task.kind, logits[name]) for name in SIDES}
    return Measured(
        metric=task.metric,
        texts=len(examples),
        labels=distinct(task.kind, gold),
        old=sides["OLD"],
        new=dataclasses.replace(sides["NEW"], claims=folders.claims_of(new, old, task.metric)),
        difference=paired_difference_interval(task.metric, said["NEW"], said["OLD"], gold),
        p_value=paired_p_value(task.metric, said["NEW"], said["OLD"], gold),
        agreement=agreement(task.kind, logits["NEW"], logits["OLD"]),
        same_pieces=float(np.mean([a == b for a, b in zip(pieces["NEW"][0], pieces["OLD"][0], strict=True)])),
        renamed=renamed(said["NEW"], said["OLD"], len(task.labels)) if task.kind == "classification" else None,
        parity=held_against(str(paths[bundle]), task.kind, logits["NEW"], logits[bundle], sides["NEW"].holds_integers)
        if bundle
        else None,
        features=processor_features(),
        unheld=unheld,
    )


def check_origin(new: Path, bundle: Path) -> None:
    """Says if what NEW is to be held against is not what it was exported from."""
    before = manifest.read(new).made_from
    now = manifest.fingerprint(bundle)
    if differing := [part for part, digest in before.items() if now.get(part) != digest]:
        raise UserError(
            f"{new} was exported from another model than stands at {bundle} now: of other {' and '.join(differing)}.\n"
            "Export it again, or name the bundle that it comes from (--parity)."
        )


def with_bundle(new: Path, old: Path, bundle: Path | None) -> tuple[dict[str, Path], str | None]:
    """All the models to run, by name, and the name of the bundle, which may be one of the two as well."""
    paths = {"OLD": old, "NEW": new}
    if bundle is None:
        return paths, None
    name = next((name for name in SIDES if paths[name].resolve() == bundle.resolve()), "the bundle")
    return {**paths, name: bundle}, name


def run(
    candidates: dict[str, Candidate],
    task: Task,
    examples: Examples,
    max_length: int,
    threads: int,
    rounds: int,
    notify: Callable[[str], None],
) -> tuple[dict[str, Timing], dict[str, Logits]]:
    """The times of OLD and NEW, and the logits of every model, its columns in the order of the task's classes."""
    paths = {name: Path(one.path) for name, one in candidates.items()}
    orders = {name: columns(task, folders.classes_of(path), path) for name, path in paths.items()}
    words = examples.texts, examples.pairs
    common: Any = {"max_length": max_length, "threads": threads, "notify": notify}
    timings = measure_latency({name: candidates[name] for name in SIDES}, *words, rounds=rounds, **common)
    logits = measure_outputs(candidates, *words, **common)
    for name, order in orders.items():
        if logits[name].shape[1] != len(order):
            raise UserError(
                f"{paths[name]} names {len(order)} classes and gives {logits[name].shape[1]} numbers a text."
            )
    return timings, {name: logits[name][:, orders[name]] for name in paths}


def side(path: Path, task: Task, gold: np.ndarray, logits: Logits, timing: Timing, truncated: int) -> Side:
    """One of the two models, without its claims."""
    said = spoken(task.kind, logits)
    return Side(
        folder=str(path),
        score=score_of(task.metric, said, gold),
        interval=score_interval(task.metric, said, gold),
        timing=timing,
        bytes=folders.shipped_bytes(path),
        weights=folders.weights_of(path),
        graph=read_graph(path) if folders.runtime_of(path) == "onnx" else None,
        truncated=truncated,
        finite=bool(np.isfinite(logits).all()),
        answers=distinct(task.kind, said),
        inexact=inexact_products(path) if folders.runtime_of(path) == "onnx" else (),
    )


def labelled(source: str, task: Task, classes: dict[int, str], old: Path) -> tuple[Task, Examples, np.ndarray]:
    """The data with its labels as the classes of OLD, in OLD's order."""
    found = infer_task(source, task)
    if found.kind in ("tokens", "qa"):
        raise UserError(f"{source} is a task of kind {found.kind}: this compares models with one answer for each text.")
    aligned = align_labels(found, classes, str(old))
    examples = load_examples(source, aligned, "test", labelled=True)
    gold = sentence_labels(examples, aligned)
    assert gold is not None
    return aligned, examples, gold if aligned.kind == "regression" else gold.astype(np.int64)


def columns(task: Task, classes: dict[int, str], path: Path) -> list[int]:
    """Where a model's logits have the classes of the task: by name, or by place where its names are placeholders."""
    own = align_labels(task, classes, str(path)).labels
    if sorted(own) != sorted(task.labels):
        raise UserError(
            f"{path} answers with other classes than OLD\n  OLD:  {', '.join(task.labels)}\n  here: {', '.join(own)}"
        )
    return [own.index(name) for name in task.labels] if task.labels else [0]


def spoken(kind: str, logits: Logits) -> np.ndarray:
    """Answers; what is no number counts as 0, so that a broken model has a score, and a bad one."""
    return answers(kind, np.nan_to_num(logits))


def score_of(metric: str, said: np.ndarray, gold: np.ndarray) -> float:
    """As `score`, which imports scikit-learn for the mean of right and wrong."""
    if metric != "accuracy":
        return score(metric, said, gold)
    (sums,) = example_sums(metric, gold, said)
    return float(score_of_sums(metric, sums.sum(0, keepdims=True))[0])


def distinct(kind: str, said: np.ndarray) -> int | None:
    """How many different answers there are, where they are no numbers."""
    return None if kind == "regression" else len(np.unique(said, axis=0))


def agreement(kind: str, a: Logits, b: Logits) -> float | None:
    """Share of texts with the same answer, where it is no number."""
    if kind == "regression":
        return None
    same = spoken(kind, a) == spoken(kind, b)
    return float(same.reshape(len(same), -1).all(axis=-1).mean())


def renamed(new: np.ndarray, old: np.ndarray, classes: int) -> float | None:
    """Agreement after calling each class of NEW what OLD mostly says where NEW says it; None where that is no other
    order of the classes."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (new, old), 1)
    called = counts.argmax(axis=1).tolist()
    return float(counts.max(axis=1).sum() / len(new)) if sorted(called) == list(range(classes)) != called else None


def held_against(bundle: str, kind: str, new: Logits, ours: Logits, rounds: bool) -> Parity:
    """NEW beside its bundle. Where inputs are rounded, one that falls to the other side changes all that follows in its
    text, so it is the bulk of the texts that is looked at."""
    difference = np.abs(new - ours).max(axis=1)
    distance = np.median(difference) if rounds else difference.max()
    size = np.sqrt(np.mean(np.square(ours)))
    return Parity(bundle, float(difference.max()), float(distance / size), agreement(kind, new, ours))


def cut(path: Path, texts: list[str], pairs: list[str] | None, max_length: int) -> tuple[list[list[int]], int]:
    """The ids of every text as a folder's tokenizer cuts them, and how many lose their end."""
    encodings = Tokenizer.from_folder(path).encode(texts, pairs, min(max_length, longest_input(path)), spans=False)
    return encodings.ids, encodings.n_truncated
