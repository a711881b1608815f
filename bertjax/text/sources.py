"""Every source of text behind one function: files, TFDS, lists in memory, the demo.

`load_examples` picks the reader for a source; everything after that (columns, labels, checks) is the same for all. For
a model with a trained head, call `infer_task` on the training data first, then `tasks.align_labels` with the model's
label names, then `load_examples` with the resulting task.
"""

import dataclasses
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.storage.paths import local
from bertjax.text.demo import demo_table
from bertjax.text.examples import Examples, make_examples
from bertjax.text.files import ReadBytes, check_exists, ending
from bertjax.text.structured import conll_table, squad_table
from bertjax.text.table import Table
from bertjax.text.tables import csv_table, jsonl_table, lines_table, parquet_table, tsv_table
from bertjax.text.tasks import Task
from bertjax.text.tfds import tfds_table

OPEN = Task()  # every field is inferred from the data

__all__ = ["Examples", "infer_task", "load_examples"]


def load_examples(source: Any, task: Task = OPEN, split: str = "train", *, labelled: bool = False) -> Examples:
    """The examples of a source, checked cell by cell.

    `source` is a file (.tsv .csv .jsonl .parquet .txt .conll, SQuAD's .json; all but Parquet also .gz or .bz2),
    `tfds:NAME/SPLIT`, `demo`, a list of texts, or a list of dicts. `split` applies to the demo only: train, validation
    or test. Without a label column `labels` is None, or an error if `labelled`.
    """
    return read_source(source, task, split, labelled)[1]


def infer_task(source: Any, task: Task = OPEN, split: str = "train") -> Task:
    """The task with the open ones of kind, labels and metric filled in from the data.

    Columns stay as given: another source of the same task may name them differently.
    """
    resolved, _ = read_source(source, task, split, labelled=False)
    return dataclasses.replace(task, kind=resolved.kind, labels=resolved.labels, metric=resolved.metric)


def read_source(source: Any, task: Task, split: str, labelled: bool) -> tuple[Task, Examples]:
    table = read_table(source, task, split)
    task, examples = make_examples(table, task)
    if labelled:
        require_labels(table, task, examples)
    return task, examples


def require_labels(table: Table, task: Task, examples: Examples) -> None:
    """Raises an error that says where labels are missing, or which columns there are."""
    if examples.labels is None and task.label is not None:
        raise UserError(f'{table.source}, column "{task.label}": {examples.notes[0]}')
    if examples.labels is None:
        raise UserError(f"{table.source}: which column holds the label? Name it with `label`\n{table.listing()}")


def read_table(source: Any, task: Task, split: str, read: ReadBytes = Path.read_bytes) -> Table:
    """The columns of a source, before the task selects any."""
    if isinstance(source, list | tuple):
        return list_table(list(source))
    if not isinstance(source, str | Path):
        raise UserError(f"cannot read {source!r}: expected a file, tfds:NAME/SPLIT, demo, or a list of texts or dicts")
    if source == "demo":
        return demo_table(split)
    if str(source).startswith("tfds:"):
        return tfds_table(str(source))
    return file_table(local(source).expanduser(), task, read)


def table_variant(source: str, task: Task, split: str) -> str:
    """What the table of a source depends on besides the source: the split of the demo, and the kind of task for .txt
    (see `file_table`)."""
    if source == "demo":
        return split
    return task.kind if task.kind == "tokens" and ending(Path(source)) == ".txt" else ""


def file_table(path: Path, task: Task, read: ReadBytes) -> Table:
    """A file, read by its suffix. `.txt` is CoNLL columns for a task of kind tokens, else one unlabelled text per
    line."""
    check_exists(path)
    readers = {
        ".tsv": tsv_table,
        ".csv": csv_table,
        ".jsonl": jsonl_table,
        ".parquet": parquet_table,
        ".json": squad_table,
        ".conll": conll_table,
        ".txt": conll_table if task.kind == "tokens" else lines_table,
    }
    if ending(path) not in readers:
        raise UserError(f'{path}: unknown ending "{ending(path)}"; expected one of: {" ".join(readers)}')
    return readers[ending(path)](path, read)


def list_table(rows: list) -> Table:
    """Rows given in memory: texts, or dicts of columns."""
    if all(isinstance(row, str) for row in rows):
        rows = [{"text": row} for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"item {number} of the list: expected a dict like the first or a text, found {row!r}")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(columns, "the list given", lambda row: f"item {row}")
