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
from bertjax.text.labels import as_list, guess_kind, is_integer, read_labels
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
    `groups` names what must not be torn apart by a split (the film of a review). `task` says how they were read, its
    columns included; `notes` what happened that a reader of the file might not expect, as rows that were left out.
    """

    texts: list[str]
    pairs: list[str] | None = None
    labels: list | None = None
    words: list[list[str]] | None = None
    groups: list[str] | None = None
    source: str = "examples in memory"
    task: Task = Task()
    notes: tuple[str, ...] = ()

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
    """The task with nothing left open, and the table's rows as it wants them, but for those without a label. How labels
    are read, and what is found out from them, stands in `bertjax.text.labels`."""
    if len(table) == 0:
        raise UserError(f"{table.source}: there are no examples in it; expected at least one row")
    task = choose_columns(table, task)
    labels, notes = None, ()
    if task.label is not None:
        task, rows, labels, notes = read_labels(table, task.label, task)
        table = table.take(rows) if len(rows) < len(table) else table
    elif task.kind == "auto":
        task = dataclasses.replace(task, kind=guess_kind(table, None, task))
    task = dataclasses.replace(task, metric=fitting_metric(table, task))
    assert task.text is not None
    words = word_lists(table, task.text) if task.kind == "tokens" else None
    texts = [" ".join(row) for row in words] if words else check_texts(table, task.text)
    pairs = check_texts(table, task.text_pair) if task.text_pair else None
    if task.kind == "qa" and pairs is None:
        raise UserError(
            f"{table.source}: qa needs the questions in `text` and the contexts in `text_pair`\n{table.listing()}"
        )
    if task.label is not None and labels is not None:
        if words is not None:
            check_tags(table, task.label, words, labels)
        if task.kind == "qa" and pairs is not None:
            check_answers(table, task.label, pairs, labels)
    groups = table.columns[table.groups] if table.groups else None
    return task, Examples(texts, pairs, labels, words, groups, table.source, task, notes)


def plain_texts(table: Table, column: str | None) -> list[str]:
    """The text of each row for those who ask nothing about it: of `column`, or of the usual ones, where a second text
    follows the first on a line of its own."""
    chosen = choose_columns(table, Task(text=column))
    names = [name for name in (chosen.text, chosen.text_pair) if name is not None]
    words = any(isinstance(cell, list) for cell in table.columns[names[0]])
    read = (lambda name: [" ".join(row) for row in word_lists(table, name)]) if words else partial(check_texts, table)
    return ["\n".join(cells) for cells in zip(*map(read, names), strict=True)]


def fitting_metric(table: Table, task: Task) -> str:
    """The task's metric; an open one is the published one of a known layout where it fits, else the kind's first."""
    two = len(task.labels) in (0, 2)
    if task.metric == "f1" and not two:
        raise UserError(
            f"{table.source}: metric f1 is of one class of two, there are {len(task.labels)}; expected f1_macro or "
            "accuracy"
        )
    if task.metric != "auto":
        return task.metric
    implied = "f1" if task.label in F1_COLUMNS else table.metric
    return implied if implied in METRICS[task.kind] and (two or implied != "f1") else METRICS[task.kind][0]


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
    cells = [as_list(cell) for cell in table.columns[column]]
    for row, words in enumerate(cells):
        if not isinstance(words, list) or not words:
            raise table.error(row, column, f"expected a list of words, found {words!r}")
        for word in words:
            if not is_unicode(word) or not word.strip():
                raise table.error(row, column, f"expected a word, found {word!r}")
    return cells


def check_tags(table: Table, column: str, words: list[list[str]], labels: list) -> None:
    """One tag in IOB form for every word."""
    for row, tags in enumerate(labels):
        if len(tags) != len(words[row]):
            raise table.error(row, column, f"expected a tag for each of {len(words[row])} words, found {len(tags)}")
        if wrong := [tag for tag in tags if tag != "O" and not re.match("[BI]-.", tag)]:
            raise table.error(
                row, column, f'"{wrong[0]}" is no IOB tag; expected O, B-NAME or I-NAME\n{advice(wrong[0])}'
            )


def advice(tag: str) -> str:
    """What to do about a tag of another notation, of which entity F1 would say something else."""
    if re.match("[ESLU]-.", tag):
        return "of BIOES and BILOU, write S- and U- as B-, E- and L- as I-: the same entities"
    if is_integer(tag):
        return "name the numbers with `labels`, in their order"
    return "plain tags of words, as parts of speech, are not supported: the score is of entities"


def check_answers(table: Table, column: str, contexts: list[str], labels: list) -> None:
    """Every answer stands in its context where it says."""
    for row, answer in enumerate(labels):
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            if contexts[row][start : start + len(text)] != text:
                raise table.error(row, column, f'the context does not read "{text}" at character {start}')
