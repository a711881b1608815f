"""From label cells to answers: a name, a score, several names, a tag per word, or a span of the context.

Files say "1", JSON says 1, a table with gaps says 1.0 and TFDS says position 1 of a list of names; after this module
all of them are the same class name, and the order of the names is the order of the model's outputs.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from bertjax.errors import UserError
from bertjax.text.table import Table
from bertjax.text.tasks import Kind, Task


def guess_kind(table: Table, task: Task) -> Kind:
    """The kind that the cells speak for; unlabelled text counts as classification."""
    given = [cell for cell in table.columns[task.label] if not is_missing(cell)] if task.label else []
    first = given[0] if given else None
    if isinstance(first, dict):
        return "qa"
    if task.text and isinstance(next(iter(table.columns[task.text]), None), list):
        return "tokens"
    if isinstance(first, list):
        return "multi_label"
    numeric = bool(given) and all(as_number(cell) is not None for cell in given)
    if numeric and not task.labels and not all(is_integer(cell) for cell in given):
        return "regression"
    return "classification"


def typed_labels(table: Table, column: str, task: Task) -> tuple[Task, list]:
    """The task with its labels known, and the label column as the task's kind has it."""
    read = READERS[task.kind]
    answers = []
    for row, cell in enumerate(table.columns[column]):
        try:
            answers.append(read(cell))
        except ValueError as error:
            raise table.error(row, column, str(error)) from None
    if task.kind in ("regression", "qa"):
        return task, answers
    if task.kind == "classification":
        task, nested = name_labels(table, column, task, [[name] for name in answers])
        return task, [name for (name,) in nested]
    return name_labels(table, column, task, answers)


def name_labels(table: Table, column: str, task: Task, answers: list[list[str]]) -> tuple[Task, list[list[str]]]:
    """Names checked against the task's labels, which are filled from the data where open; positions become names."""
    used = {name for names in answers for name in names}
    if not task.labels:
        task = dataclasses.replace(task, labels=found_labels(table, column, used, multiple=task.kind == "multi_label"))
    names = {name: name for name in task.labels}
    positions = {str(position): name for position, name in enumerate(task.labels)}
    if used.isdisjoint(names) and used <= positions.keys():
        names = positions
    if used <= names.keys():
        return task, [[names[name] for name in row] for row in answers]
    row, name = next((row, name) for row, names_here in enumerate(answers) for name in names_here if name not in names)
    raise table.error(row, column, f'unknown label "{name}"; expected one of: {", ".join(task.labels)}')


def found_labels(table: Table, column: str, used: set[str], multiple: bool) -> tuple[str, ...]:
    """The names in the source's own order, else sorted; there must be something to tell apart."""
    if not multiple and len(used) < 2:
        only = next(iter(used))
        raise UserError(f'{table.source}, column "{column}": every label is "{only}"; expected at least two classes')
    if not used:
        raise UserError(f'{table.source}, column "{column}": there is no label in it; expected some names')
    known = table.label_names.get(column, ())
    return known if used <= set(known) else sorted_names(used)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Alphabetical, or numeric where every name is an integer."""
    names = list(names)
    return tuple(sorted(names, key=int) if all(is_integer(name) for name in names) else sorted(names))


def read_name(cell: Any) -> str:
    if is_missing(cell):
        raise ValueError("the label is missing; expected a class name")
    if isinstance(cell, list | dict):
        raise ValueError(f"expected one class name, found {cell!r}")
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # tables with gaps hold their class numbers as floats
    return str(cell).strip()


def read_score(cell: Any) -> float:
    if is_missing(cell):
        raise ValueError("the score is missing or NaN; expected a number")
    score = as_number(cell)
    if score is None or not math.isfinite(score):
        raise ValueError(f"expected a finite number, found {cell!r}")
    return score


def read_names(cell: Any) -> list[str]:
    """Several names: a list, or one cell with commas between them; an empty one says that no class applies."""
    if is_missing(cell):
        return []
    parts = cell.split(",") if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    return [read_name(name) for name in parts]


def read_tags(cell: Any) -> list[str]:
    if not isinstance(cell, list):
        raise ValueError(f"expected a list of tags, one per word, found {cell!r}")
    return [read_name(tag) for tag in cell]


def read_answer(cell: Any) -> dict[str, list]:
    texts, starts = (cell.get("text"), cell.get("answer_start")) if isinstance(cell, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or not texts or len(texts) != len(starts):
        raise ValueError('expected {"text": [...], "answer_start": [...]} with at least one answer, as in SQuAD 1.1')
    return {"text": texts, "answer_start": [int(start) for start in starts]}


READERS = {
    "classification": read_name,
    "regression": read_score,
    "multi_label": read_names,
    "tokens": read_tags,
    "qa": read_answer,
}


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no label: None, NaN, or a text of blanks."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def as_number(cell: Any) -> float | None:
    try:
        return None if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError):
        return None


def is_integer(cell: Any) -> bool:
    """Whether a cell is written as an integer: 1 and "1", but neither 1.0 nor "1.0"."""
    text = str(cell).strip()
    return text.isascii() and text.removeprefix("-").isdecimal()
