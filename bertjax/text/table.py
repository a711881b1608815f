"""The result of every reader: named columns, and the position of each row in its source.

Files, TFDS, lists and the demo all become a `Table`, so that columns are looked up, inferred and reported in one place.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjax.errors import UserError
from bertjax.text.tasks import Task

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
    ("tokens", None),
)
LABEL_COLUMNS = ("label", "ner_tags", "gold_label", "is_duplicate", "Quality", "score", "labels", "tag", "answers")


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `at(row)` is the position of a row ("line 12"), for messages.

    `label_names` are the classes of a column in the source's own order, if known; `metric` is the metric that the
    layout implies; `groups` is the column whose groups a split must keep together.
    """

    columns: dict[str, list[Any]]
    source: str
    at: Callable[[int], str]
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metric: str = "auto"
    groups: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column(self, name: str) -> list[Any]:
        """The cells of a column, or a `UserError` that names the nearest column and lists all."""
        if name in self.columns:
            return self.columns[name]
        near = difflib.get_close_matches(name, self.columns, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise UserError(f'{self.source}: no column "{name}"{hint}\n{self.listing()}')

    def take(self, rows: Sequence[int]) -> "Table":
        """The table with these rows only; they keep their positions in the source."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return dataclasses.replace(self, columns=columns, at=lambda row: self.at(rows[row]))

    def listing(self) -> str:
        return f"  columns: {', '.join(self.columns)}"

    def error(self, row: int, column: str, message: str) -> UserError:
        """A `UserError` about one cell."""
        return UserError(f'{self.source}, {self.at(row)}, column "{column}": {message}')


def choose_columns(table: Table, task: Task) -> Task:
    """The task with its columns named: given ones must exist, the others are found by their usual names."""
    for name in (task.text, task.text_pair, task.label):
        if name is not None:
            table.column(name)
    text, pair = task.text, task.text_pair
    if text is None:
        known = ((a, b) for a, b in TEXT_COLUMNS if a in table.columns and (b is None or b in table.columns))
        text, usual_pair = next(known, (None, None))
        pair = pair or usual_pair
    if text is None:
        raise UserError(f"{table.source}: which column holds the text? Name it with `text`\n{table.listing()}")
    label = task.label or next(
        (name for name in LABEL_COLUMNS if name in table.columns and name not in (text, pair)), None
    )
    return dataclasses.replace(task, text=text, text_pair=pair, label=label)
