"""From a table to typed examples: the one place where data is checked, whatever it came from.

A bad cell ends in one `UserError` with source, line, column and what was expected, before any time is spent on it.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property, partial

from bertjax.errors import UserError
from bertjax.text.labels import guess_kind, typed_labels
from bertjax.text.table import Table, choose_columns
from bertjax.text.tasks import METRICS, Task
from bertjax.text.tokenizer import is_unicode

F1_COLUMNS = ("is_duplicate", "Quality")  # QQP's and MRPC's label columns: their published score is F1


@dataclass(frozen=True)
class Examples:
    """Texts with their answers, in file order.

    `labels` is None for unlabelled text, else one entry per text: a class name; a float (regression); a list of names
    (multi_label); a list of tags (tokens); or `{"text": [...], "answer_start": [...]}` (qa, where `texts` are the
    questions and `pairs` the contexts). For tokens `words` holds each text's words, joined by single spaces in `texts`.
    `groups` names what must not be torn apart by a split (the film of a review).
    """

    texts: list[str]
    pairs: list[str] | None = None
    labels: list | None = None
    words: list[list[str]] | None = None
    groups: list[str] | None = None
    source: str = "examples in memory"

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over texts, pairs, words and labels; where they came from does not matter."""
        columns = [self.texts, self.pairs, self.words, self.labels]
        return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def chosen_by_text(examples: Examples, count: int | None) -> Examples:
    """`count` examples (all for None), in their order: those whose texts have the smallest sha256. Equal texts have
    equal hashes, so that they stay together but for the last one; more examples are always those of fewer, and others.
    """
    if count is None or count >= len(examples):
        return examples
    joined = map("\t".join, zip(examples.texts, examples.pairs or [""] * len(examples), strict=True))
    hashes = [hashlib.sha256(text.encode()).digest() for text in joined]
    rows = sorted(sorted(range(len(examples)), key=hashes.__getitem__)[:count])
    columns = {name: getattr(examples, name) for name in ("texts", "pairs", "labels", "words", "groups")}
    return dataclasses.replace(
        examples, **{name: column and [column[row] for row in rows] for name, column in columns.items()}
    )


def make_examples(table: Table, task: Task) -> tuple[Task, Examples]:
    """The task with nothing left open, and the table's rows as it wants them.

    An open `kind` is guessed from the cells: numbers with a fraction are regression, lists several labels (or, next to
    lists of words, tags), a SQuAD answer is qa, the rest classification. Open `labels` become the names in the
    source's own order or sorted (numerically where all are integers). Where the task's labels are names and the cells
    numbers, the number is the position, as in GLUE's files.
    """
    if len(table) == 0:
        raise UserError(f"{table.source}: there are no examples in it; expected at least one row")
    task = choose_columns(table, task)
    text, label = task.text, task.label
    assert text is not None
    if task.kind == "auto":
        task = dataclasses.replace(task, kind=guess_kind(table, task))
    if task.metric == "auto":
        task = dataclasses.replace(task, metric=usual_metric(table, task))
    words = word_lists(table, text) if task.kind == "tokens" else None
    texts = [" ".join(row) for row in words] if words else check_texts(table, text)
    pairs = check_texts(table, task.text_pair) if task.text_pair else None
    if task.kind == "qa" and pairs is None:
        raise UserError(
            f"{table.source}: qa needs the questions in `text` and the contexts in `text_pair`\n{table.listing()}"
        )
    labels = None
    if label is not None:
        task, labels = typed_labels(table, label, task)
        if words is not None:
            check_tags(table, label, words, labels)
        if task.kind == "qa" and pairs is not None:
            check_answers(table, label, pairs, labels)
    groups = table.columns[table.groups] if table.groups else None
    return task, Examples(texts, pairs, labels, words, groups, table.source)


def plain_texts(table: Table, column: str | None) -> list[str]:
    """The text of each row for those who ask nothing about it: of `column`, or of the usual ones, where a second text
    follows the first on a line of its own."""
    chosen = choose_columns(table, Task(text=column))
    names = [name for name in (chosen.text, chosen.text_pair) if name is not None]
    words = any(isinstance(cell, list) for cell in table.columns[names[0]])
    read = (lambda name: [" ".join(row) for row in word_lists(table, name)]) if words else partial(check_texts, table)
    return ["\n".join(cells) for cells in zip(*map(read, names), strict=True)]


def usual_metric(table: Table, task: Task) -> str:
    """The published metric of a known layout where it fits the kind, else the kind's first."""
    implied = "f1" if task.label in F1_COLUMNS else table.metric
    return implied if implied in METRICS[task.kind] else METRICS[task.kind][0]


def check_texts(table: Table, column: str) -> list[str]:
    """A column of texts, each a string with something in it that UTF-8 can write."""
    for row, text in enumerate(table.columns[column]):
        if not isinstance(text, str):
            raise table.error(row, column, f"expected text, found {'nothing' if text is None else repr(text)}")
        if not text.strip():
            raise table.error(row, column, "the text is empty; expected at least one word")
        if not is_unicode(text):
            raise table.error(row, column, f"expected Unicode text, found undecodable characters in {text[:40]!r}")
    return table.columns[column]


def word_lists(table: Table, column: str) -> list[list[str]]:
    """A column of lists of words, none of them empty."""
    for row, words in enumerate(table.columns[column]):
        if not isinstance(words, list) or not words:
            raise table.error(row, column, f"expected a list of words, found {words!r}")
        for word in words:
            if not is_unicode(word) or not word.strip():
                raise table.error(row, column, f"expected a word, found {word!r}")
    return table.columns[column]


def check_tags(table: Table, column: str, words: list[list[str]], labels: list) -> None:
    """One tag in IOB form for every word."""
    for row, tags in enumerate(labels):
        if len(tags) != len(words[row]):
            raise table.error(row, column, f"expected a tag for each of {len(words[row])} words, found {len(tags)}")
        if wrong := [tag for tag in tags if tag != "O" and not re.match("[BI]-.", tag)]:
            raise table.error(row, column, f'"{wrong[0]}" is no IOB tag; expected O, B-NAME or I-NAME')


def check_answers(table: Table, column: str, contexts: list[str], labels: list) -> None:
    """Every answer stands in its context where it says."""
    for row, answer in enumerate(labels):
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            if contexts[row][start : start + len(text)] != text:
                raise table.error(row, column, f'the context does not read "{text}" at character {start}')
