"""A summary of the data, as numbers and as a sentence: for the terminal before time is spent, and for the report.

A wrong column, truncated texts, a vocabulary that does not fit the text, and evaluation texts that are in the training
data: a run with one of these looks like any other, so each is reported.
"""

from collections import Counter
from dataclasses import dataclass

from bertjax.text.encode import Encoded
from bertjax.text.examples import Examples

SHOWN = 8
"""Classes that a sentence names."""
LONGEST = 40
"""Characters of a class name that are shown."""


@dataclass(frozen=True)
class Facts:
    """A summary of one source of examples, as a model reads it."""

    role: str
    """The role of the source: train, eval, or another one that a command names."""
    source: str
    examples: int
    cut: int
    """Texts that were truncated; for questions with contexts, the questions that were."""
    max_length: int
    """Tokens that a text may have."""
    unknown: float
    """Share of [UNK] among the tokens."""
    notes: tuple[str, ...] = ()
    """What the reader of the file might not expect, such as examples that were left out."""
    seen: int | None = None
    """How many of the texts are also in the data that was trained or chosen on; None where that does not apply."""

    def sentence(self) -> str:
        cut = f"{self.cut or 'none'} cut at {self.max_length} tokens"
        summary = f"{self.role}: {self.source}, {self.examples} texts, {cut}, {100 * self.unknown:.1f} % [UNK]"
        return "; ".join([summary, *self.notes])


def facts_of(
    role: str, source: str, examples: Examples, encoded: Encoded, max_length: int, learned: Examples | None = None
) -> Facts:
    """The facts of examples; `learned` are the training examples that they are compared with."""
    seen = None if learned is None else shared_texts(examples, learned)
    return Facts(role, source, len(examples), encoded.truncated, max_length, encoded.unknown, examples.notes, seen)


def shared_texts(examples: Examples, others: Examples) -> int:
    """How many of the examples have a text that is also among the others, ignoring surrounding blanks; of pairs, both
    texts must match."""

    def texts(of: Examples) -> list[tuple[str, ...]]:
        return [tuple(map(str.strip, row)) for row in zip(of.texts, *([of.pairs] if of.pairs else []), strict=True)]

    known = set(texts(others))
    return sum(text in known for text in texts(examples))


def overlap(facts: tuple[Facts, ...]) -> str:
    """A warning if texts of the evaluation data were trained or chosen on; else empty."""
    for one in facts:
        if one.seen:
            learned = next(other for other in facts if other.seen is None)
            return (
                f"{one.seen} of {one.examples} texts of {one.source} ({one.role}) are also in {learned.source} "
                f"({learned.role}): the score is not measured on unseen text"
            )
    return ""


def paragraph(facts: tuple[Facts, ...]) -> str:
    """All facts as a paragraph for a report."""
    sentences = [one.sentence() for one in facts]
    disjoint = [one.source for one in facts if one.seen == 0]
    sentences += [f"No text of {source} is in the text that was trained or chosen on" for source in disjoint]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in [*sentences, overlap(facts)] if sentence)


def task_summary(examples: Examples) -> str:
    """How the columns were understood: kind, classes with their counts, metric."""
    task = examples.task
    columns = " and ".join(f'"{name}"' for name in (task.text, task.text_pair) if name)
    if examples.labels is None:
        return f"{columns} without labels"
    metric = task.metric + (f' of "{task.labels[1]}"' if task.metric == "f1" and len(task.labels) == 2 else "")
    return f'{task.kind} of {columns} by "{task.label}": {label_summary(examples)}; score: {metric}'


def label_summary(examples: Examples) -> str:
    """A summary of the labels: the classes with their counts, or the range of the numbers."""
    task, labels = examples.task, examples.labels or []
    if task.kind == "qa":
        return "a span of the context"
    if task.kind in ("regression", "embedding"):
        return f"numbers from {min(labels):g} to {max(labels):g}"
    counts = Counter(labels if task.kind == "classification" else [name for row in labels for name in row])
    shown = ", ".join(f"{name[:LONGEST]} {counts[name]}" for name in task.labels[:SHOWN])
    more = f", and {len(task.labels) - SHOWN} more" if len(task.labels) > SHOWN else ""
    return f"{len(task.labels)} classes, {shown}{more}"
