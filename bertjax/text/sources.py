"""Every source of text behind one function: files, TFDS, lists in memory, the demo.

`load_examples` picks the reader for a source; everything after that (columns, labels, checks) is the same for all. For
a model with a trained head, call `infer_task` on the training data first, then `tasks.align_labels` with the model's
label names, then `load_examples` with the resulting task.
"""

import dataclasses
import math
from collections.abc import Mapping
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

__all__ = ["Examples", "infer_task", "load_examples", "memory_table"]


def load_examples(source: Any, task: Task = OPEN, split: str = "train", *, labelled: bool = False) -> Examples:
    """The examples of a source, checked cell by cell.

    `source` is a file (.tsv .csv .jsonl .parquet .txt .conll, SQuAD's .json; all but Parquet also .gz or .bz2),
    `tfds:NAME/SPLIT`, `demo`, or what `memory_table` reads: lists and tables in memory. `split` applies to the demo
    only: train, validation or test. Without a label column `labels` is None, or an error if `labelled`.
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
    if not isinstance(source, str | Path):
        return memory_table(source)
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


def memory_table(source: Any) -> Table:
    """Text given in memory: a list of texts, of pairs (text, label) or of dicts; a dict of columns; or a table of
    pandas, Polars, Arrow or Hugging Face `datasets`, none of which is imported here."""
    if isinstance(source, list | tuple):
        return list_table(list(source))
    if hasattr(source, "notna"):  # pandas, whose missing cells are of three kinds
        columns = source.astype(object).where(source.notna(), None).to_dict("list")
    elif isinstance(features := getattr(source, "features", None), Mapping):
        columns = {name: named_classes(list(source[name]), feature) for name, feature in features.items()}
    elif hasattr(source, "to_pydict"):
        columns = source.to_pydict()
    elif hasattr(source, "iter_rows"):
        columns = source.to_dict(as_series=False)
    elif isinstance(source, Mapping) and all(isinstance(cells, list | tuple) for cells in source.values()):
        columns = {name: list(cells) for name, cells in source.items()}
    elif isinstance(source, Mapping):
        raise UserError(f"there are several data sets: {', '.join(map(str, source))}. Give one, as data['train'].")
    else:
        raise UserError(
            f"cannot read {repr(source)[:60]}: expected a file, tfds:NAME/SPLIT, demo, a list of texts or dicts, or a "
            "table with columns"
        )
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns have different lengths: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    columns = {str(name): [plain(cell) for cell in cells] for name, cells in columns.items()}
    return Table(columns, "the table given", lambda row: f"row {row}")


def named_classes(cells: list, feature: Any) -> list:
    """The cells of a column of `datasets`, or of the lists in it: class numbers by their names, -1 as no label."""
    if (inner := getattr(feature, "feature", None)) is not None:
        return [named_classes(list(cell), inner) for cell in cells]
    names = getattr(feature, "names", None)
    return [None if cell in (None, -1) else names[cell] for cell in cells] if names else cells


def plain(cell: Any) -> Any:
    """A cell without NumPy's types, and None for NaN."""
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def list_table(rows: list) -> Table:
    """Rows given in memory: texts, pairs of a text and its label, or dicts of columns."""
    if all(isinstance(row, str) for row in rows):
        rows = [{"text": row} for row in rows]
    elif all(isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str) for row in rows):
        rows = [{"text": text, "label": plain(label)} for text, label in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"item {number} of the list: expected a dict like the first or a text, found {row!r}")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(columns, "the list given", lambda row: f"item {row}")
