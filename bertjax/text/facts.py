"""What was read, in numbers and in a sentence: for the person who watches, before time is spent, and for the report.

A column that was taken for something else, texts that lost their end, a vocabulary that does not know the words, and
texts to score on that were learned from: each leaves a run that looks like any other, so each is said.
"""

from collections import Counter
from dataclasses import dataclass

from bertjax.text.encode import Encoded
from bertjax.text.examples import Examples

SHOWN = 8
"""Classes that are named in a sentence, each with so many of its first characters:"""
LONGEST = 40


@dataclass(frozen=True)
class Facts:
    """A source of examples as a model reads it."""

    role: str
    """What it is for: train, eval, or what a command calls it."""
    source: str
    examples: int
    cut: int
    """Texts that lost their end; of questions with contexts, questions that did."""
    max_length: int
    """Tokens that a text may have."""
    unknown: float
    """Share of the tokens that the vocabulary does not know."""
    notes: tuple[str, ...] = ()
    """What happened to it that a reader of the file might not expect, as examples that were left out."""
    seen: int | None = None
    """How many of the texts stand in what was learned or chosen from, too; None where that is not known."""

    def sentence(self) -> str:
        cut = f"{self.cut or 'none'} cut at {self.max_length} tokens"
        said = f"{self.role}: {self.source}, {self.examples} texts, {cut}, {100 * self.unknown:.1f} % [UNK]"
        return "; ".join([said, *self.notes])


def facts_of(
    role: str, source: str, examples: Examples, encoded: Encoded, max_length: int, learned: Examples | None = None
) -> Facts:
    """The facts of examples beside those that were `learned` from."""
    seen = None if learned is None else shared_texts(examples, learned)
    return Facts(role, source, len(examples), encoded.truncated, max_length, encoded.unknown, examples.notes, seen)


def shared_texts(examples: Examples, others: Examples) -> int:
    """How many of the examples have a text that stands among the others, blanks around it aside; of pairs, both."""

    def texts(of: Examples) -> list[tuple[str, ...]]:
        return [tuple(map(str.strip, row)) for row in zip(of.texts, *([of.pairs] if of.pairs else []), strict=True)]

    known = set(texts(others))
    return sum(text in known for text in texts(examples))


def overlap(facts: tuple[Facts, ...]) -> str:
    """A warning where texts that are scored were learned or chosen from; else nothing."""
    for one in facts:
        if one.seen:
            learned = next(other for other in facts if other.seen is None)
            return (
                f"{one.seen} of {one.examples} texts of {one.source} ({one.role}) stand in {learned.source} "
                f"({learned.role}) too: the score is not one on new text"
            )
    return ""


def paragraph(facts: tuple[Facts, ...]) -> str:
    """All of it for a report."""
    said = [one.sentence() for one in facts]
    apart = [one.source for one in facts if one.seen == 0]
    said += [f"No text of {source} stands in what was learned or chosen from" for source in apart]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in [*said, overlap(facts)] if sentence)


def task_summary(examples: Examples) -> str:
    """What the columns were taken for: kind, classes with their numbers, score."""
    task = examples.task
    columns = " and ".join(f'"{name}"' for name in (task.text, task.text_pair) if name)
    if examples.labels is None:
        return f"{columns} without labels"
    metric = task.metric + (f' of "{task.labels[1]}"' if task.metric == "f1" and len(task.labels) == 2 else "")
    return f'{task.kind} of {columns} by "{task.label}": {label_summary(examples)}; score: {metric}'


def label_summary(examples: Examples) -> str:
    """What the labels of examples are."""
    task, labels = examples.task, examples.labels or []
    if task.kind == "qa":
        return "a span of the context"
    if task.kind == "regression":
        return f"numbers from {min(labels):g} to {max(labels):g}"
    counts = Counter(labels if task.kind == "classification" else [name for row in labels for name in row])
    shown = ", ".join(f"{name[:LONGEST]} {counts[name]}" for name in task.labels[:SHOWN])
    more = f", and {len(task.labels) - SHOWN} more" if len(task.labels) > SHOWN else ""
    return f"{len(task.labels)} classes, {shown}{more}"
