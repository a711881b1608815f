"""From a table to typed examples: the one place where data is checked, whatever its source.

A bad cell raises one `UserError` with source, line, column and the expected value, before any time is spent on the
data.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, partial

from bertjax.errors import UserError
from bertjax.text.labels import as_list, guess_kind, is_integer, read_labels
from bertjax.text.table import Table, choose_columns
from bertjax.text.tasks import CHUNKS, METRICS, Task
from bertjax.text.tokenizer import is_unicode

F1_COLUMNS = ("is_duplicate", "Quality")  # the label columns of QQP and MRPC, whose published metric is F1


@dataclass(frozen=True)
class Examples:
    """Texts with their labels, in file order.

    `labels` is None for unlabelled text, else one entry per text: a class name; a float (regression, embedding); a list
    of names (multi_label); a list of tags (tokens); or `{"text": [...], "answer_start": [...]}` (qa, where `texts` are
    the questions and `pairs` the contexts). For kind tokens, `words` holds the words of each text, which `texts` joins
    by single spaces. `groups` are the groups that a split must keep together (the film of a review). `task` is the task
    with its columns, kind and labels resolved. `notes` report what the reader of the file might not expect, such as
    rows that were left out.
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
        """sha256 of texts, pairs, words and labels; the source does not matter."""
        columns = [self.texts, self.pairs, self.words, self.labels]
        return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def chosen_by_text(examples: Examples, count: int | None) -> Examples:
    """`count` examples (all if None), in their order: those whose texts have the smallest sha256.

    Equal texts have equal hashes, so they are chosen together, unless `count` cuts between them. A larger `count`
    chooses all examples of a smaller one, and more.
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
    """The task with every open field filled in, and the labelled rows of the table as its examples. The rules for
    reading labels are in `bertjax.text.labels`."""
    if len(table) == 0:
        raise UserError(f"{table.source}: there are no examples in it; expected at least one row")
    task = choose_columns(table, task)
    if task.kind == "embedding" and task.text_pair is None:
        task = dataclasses.replace(task, label=None)  # a label of one text is no similarity
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
            check_tags(table, task, words, labels)
        if task.kind == "qa" and pairs is not None:
            check_answers(table, task.label, pairs, labels)
    groups = table.columns[table.groups] if table.groups else None
    return task, Examples(texts, pairs, labels, words, groups, table.source, task, notes)


def plain_texts(table: Table, column: str | None) -> list[str]:
    """The text of each row without a task: from `column`, or from the usual columns, where the second text of a pair
    follows the first on a line of its own."""
    chosen = choose_columns(table, Task(text=column))
    names = [name for name in (chosen.text, chosen.text_pair) if name is not None]
    words = any(isinstance(cell, list) for cell in table.columns[names[0]])
    read = (lambda name: [" ".join(row) for row in word_lists(table, name)]) if words else partial(check_texts, table)
    return ["\n".join(cells) for cells in zip(*map(read, names), strict=True)]


def fitting_metric(table: Table, task: Task) -> str:
    """The task's metric. If it is open: the published metric of a known layout where it fits, else the default of the
    kind."""
    two = len(task.labels) in (0, 2)
    if task.metric == "f1" and not two:
        raise UserError(
            f"{table.source}: metric f1 needs exactly two classes, found {len(task.labels)}; expected f1_macro or "
            "accuracy"
        )
    if task.metric != "auto":
        return task.metric
    if task.kind == "embedding" and task.label is not None:
        return "spearman"  # of the scores of pairs, instead of the similarities of a reference model
    if task.kind == "tokens" and task.labels and not any(is_chunk(name) or is_integer(name) for name in task.labels):
        return "tag_accuracy"
    implied = "f1" if task.label in F1_COLUMNS else table.metric
    return implied if implied in METRICS[task.kind] and (two or implied != "f1") else METRICS[task.kind][0]


def check_texts(table: Table, column: str) -> list[str]:
    """A column of texts; each must be a string that is not blank and that UTF-8 can encode."""
    for row, text in enumerate(table.columns[column]):
        if not isinstance(text, str):
            raise table.error(row, column, f"expected text, found {'nothing' if text is None else repr(text)}")
        if not text.strip():
            raise table.error(row, column, "the text is empty; expected at least one word")
        if not is_unicode(text):
            raise table.error(row, column, f"expected Unicode text, found undecodable characters in {text[:40]!r}")
    return table.columns[column]


def word_lists(table: Table, column: str) -> list[list[str]]:
    """A column of lists of words; neither a list nor a word may be empty."""
    cells = [as_list(cell) for cell in table.columns[column]]
    for row, words in enumerate(cells):
        if not isinstance(words, list) or not words:
            raise table.error(row, column, f"expected a list of words, found {words!r}")
        for word in words:
            if not is_unicode(word) or not word.strip():
                raise table.error(row, column, f"expected a word, found {word!r}")
    return cells


def check_tags(table: Table, task: Task, words: list[list[str]], labels: list) -> None:
    """Check that every word has one tag, for entity F1 in IOB, BIOES or BILOU notation."""
    assert task.label is not None
    for row, tags in enumerate(labels):
        if len(tags) != len(words[row]):
            raise table.error(row, task.label, f"expected a tag for each of {len(words[row])} words, found {len(tags)}")
        if task.metric == "entity_f1" and (wrong := [tag for tag in tags if not is_chunk(tag)]):
            raise table.error(
                row,
                task.label,
                f'"{wrong[0]}" is not an IOB tag; expected O, B-NAME or I-NAME, or those of BIOES or BILOU\n'
                + (
                    "give the names of the numbers with `labels`, in their order"
                    if is_integer(wrong[0])
                    else "for tags that are no entities, such as parts of speech, give `metric` tag_accuracy"
                ),
            )


def is_chunk(tag: str) -> bool:
    """Whether a tag is one of entities, or of the words between them."""
    letter, _, name = tag.partition("-")
    return tag == "O" or bool(letter in CHUNKS and name)


def check_answers(table: Table, column: str, contexts: list[str], labels: list) -> None:
    """Check that every answer is in its context, at the given character."""
    for row, answer in enumerate(labels):
        for text, start in zip(answer["text"], answer["answer_start"], strict=True):
            if contexts[row][start : start + len(text)] != text:
                raise table.error(row, column, f'the context does not read "{text}" at character {start}')
