"""From columns to typed examples: the one place where data is checked, whatever file or service it came from.

Every reader returns a `Table` (named columns, and a function that says where a row came from). `make_examples` picks the
columns a task names or a well-known layout implies, finds out what the task leaves open, and turns every cell into
what the task's kind needs. A bad cell ends in one `UserError` with source, line, column and what was expected.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bertjax.errors import UserError
from bertjax.text.tasks import METRICS, Kind, Task

# Column names of GLUE's files, of TFDS and of the usual tables, the most specific first.
TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("#1 String", "#2 String"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "context"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("text", None),
    ("sentence", None),
    ("word", None),
)
LABEL_COLUMNS = ("label", "gold_label", "is_duplicate", "Quality", "score", "labels", "tag", "answers")
F1_COLUMNS = ("is_duplicate", "Quality")  # QQP and MRPC, whose published score is F1


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


@dataclass(frozen=True)
class Table:
    """Named columns of equal length. `at(row)` says where a row is ("line 12"), for messages.

    `label_names` is the order of the classes where the source itself defines one; `metric` the one its layout implies.
    """

    columns: dict[str, list[Any]]
    source: str
    at: Callable[[int], str]
    label_names: tuple[str, ...] = ()
    metric: str = "auto"
    groups: str | None = None

    def column(self, name: str) -> list[Any]:
        """The cells of a column, or a `UserError` that names the nearest and lists those there."""
        if name in self.columns:
            return self.columns[name]
        near = difflib.get_close_matches(name, self.columns, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise UserError(f'{self.source}: no column "{name}"{hint}\n  columns there: {", ".join(self.columns)}')

    def error(self, row: int, column: str, message: str) -> UserError:
        """A `UserError` about one cell."""
        return UserError(f'{self.source}, {self.at(row)}, column "{column}": {message}')
