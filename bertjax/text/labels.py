"""From the cells of a label column to labels: a name, a number, several names, a tag per word, or a span of the
context.

One function, `read_labels`, reads both the column from which a task is inferred and every later one, so that the two
cannot disagree. What the task gives (`kind`, `labels`) is never overruled. For the rest the first rule that matches
holds. Where two readings make sense, an error asks for one of these fields.

cells   A string that begins with [ is a list, written as JSON or by Python. 1, 1.0, "1", "1.0" and "+1" are one name,
        "1".
kind    objects                                   qa
        lists, if the text is a list of words     tokens
        other lists                               multi_label
        numbers with a fraction                   regression
        whole numbers with a point (1.0)          classification up to `FEW` different ones, else regression
        everything else                           classification
errors  Ambiguous, an error: numbers with a decimal comma; several names in a cell ("joy|anger", or with ; or a comma)
        that also occur in other cells; IOB tags with a text that is not a list of words; more than `FEW` different
        names, most of which occur once.
none    In classification, "-" means that annotators did not agree, and -1 and -100 mean that there is no label: such
        rows are left out and counted. They are class names if the task's labels contain them; so are "-" if there is
        "+", and -1 if there are other negative numbers or 1 is the only other name. -1 with 0 and 1 is ambiguous, an
        error. An empty cell is an error.
names   For multi_label, lists of 0 and 1 (or false and true) are indicators, one for each of the task's labels, if one
        of the two occurs twice in a list or if all lists are pairs; without labels the classes are LABEL_0, LABEL_1,
        ... Numbers in the cells are positions in the task's labels if none of these is a number itself, as in GLUE's
        files; otherwise they are names. Labels that the task leaves open become the names in the source's own order if
        it has one, else sorted, numerically if all are numbers.
"""

import ast
import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.text.table import Table
from bertjax.text.tasks import Kind, Task
from bertjax.text.tokenizer import is_unicode

FEW = 20
"""Most different whole numbers with a point (1.0) that still count as classes."""
MARKS = "|;,"
"""Possible separators of several names in one cell; the first that occurs is used."""


class ReadLabels(NamedTuple):
    """The content of a label column."""

    task: Task
    """The task, with kind and labels known."""
    rows: list[int]
    """The rows that have a label."""
    answers: list | None
    """One label for each of these rows, in the form of the task's kind; None if no row of a classification task has
    one."""
    notes: tuple[str, ...]
    """What the reader of the file might not expect."""


def read_labels(table: Table, column: str, task: Task) -> ReadLabels:
    """The task with kind and labels known, and the labels of the column, by the rules at the top of this module.

    Raises:
      UserError: A cell that the kind cannot read, a label that is not among the task's, or an ambiguous column.
    """
    cells = [unpacked(table, column, row, task.kind) for row in range(len(table))]
    if task.kind == "auto":
        task = dataclasses.replace(task, kind=guess_kind(table, column, task, cells))
    rows, notes = list(range(len(cells))), []
    if task.kind == "classification":
        answers = read_cells(table, column, cells, read_name)
        no_label = without_label(table, column, task, set(answers))
        rows = [row for row, name in enumerate(answers) if name not in no_label]
        if len(rows) < len(answers):
            listed = " or ".join(f'"{name}"' for name in sorted(no_label))
            notes.append(f"left out {len(answers) - len(rows)} of {len(answers)} whose label is {listed}")
        if not rows:
            return ReadLabels(task, list(range(len(cells))), None, (f"no row has a label: all are {listed}",))
        task, nested, note = checked_names(table.take(rows), column, task, [[answers[row]] for row in rows])
        return ReadLabels(task, rows, [name for (name,) in nested], (*notes, *note))
    if task.kind == "multi_label":
        return ReadLabels(*several(table, column, task, cells, rows))
    answers: list[Any] = read_cells(table, column, cells, READERS[task.kind])
    if task.kind == "tokens":
        task, answers, notes = checked_names(table, column, task, answers)
    if task.kind == "qa" and (without := sum(not answer["text"] for answer in answers)):
        notes = [f"{without} of {len(answers)} questions have no answer, as in SQuAD 2"]
    return ReadLabels(task, rows, answers, tuple(notes))


def guess_kind(table: Table, column: str | None, task: Task, cells: Sequence[Any] = ()) -> Kind:
    """The kind of task that fits the parsed cells; unlabelled text counts as classification."""
    words = bool(task.text) and isinstance(as_list(next(iter(table.columns[task.text or ""]), None)), list)
    labelled = [(row, cell) for row, cell in enumerate(cells) if not is_missing(cell)]
    if not labelled or column is None:
        return "tokens" if words and not cells else "classification"
    for form in (dict, list):
        if isinstance(labelled[0][1], form):
            if odd := [row for row, cell in labelled if not isinstance(cell, form)]:
                kind = "object" if form is dict else "list"
                raise table.error(odd[0], column, f"expected a {kind} as in the rows before, found {cells[odd[0]]!r}")
            return "qa" if form is dict else "tokens" if words else "multi_label"
    if task.labels:
        return "classification"
    numbers = [as_number(cell) for _, cell in labelled]
    if None not in numbers and not all(is_integer(cell) for _, cell in labelled):
        whole = all(number.is_integer() for number in numbers)  # type: ignore[union-attr]
        return "classification" if whole and len(set(numbers)) <= FEW else "regression"
    require_clear(table, column, labelled)
    return "classification"


def require_clear(table: Table, column: str, labelled: list[tuple[int, Any]]) -> None:
    """Raises a `UserError` if names may as well be numbers, several names, or free text."""
    texts = [(row, str(cell).strip()) for row, cell in labelled]
    commas = [row for row, text in texts if re.fullmatch(r"[+-]?[\d.]*\d,\d+", text)]
    if commas and all(re.fullmatch(r"[+-]?[\d.]*\d(,\d+)?", text) for _, text in texts):
        raise table.error(
            commas[0],
            column,
            f"{dict(texts)[commas[0]]!r} may be a number or several labels\n"
            "write numbers with a point; with `kind` multi_label these are labels, with classification names",
        )
    for mark in MARKS:
        parts = {text: {part.strip() for part in text.split(mark)} for _, text in texts}
        cells_with = Counter(part for several in parts.values() for part in several)
        for row, text in texts:
            if len(parts[text]) > 1 and all(part and cells_with[part] > 1 for part in parts[text]):
                raise table.error(
                    row,
                    column,
                    f'"{text}" may be several labels or one, because its parts also occur in other cells\n'
                    "give `kind`: multi_label for several, classification for one",
                )
    names = Counter(text for _, text in texts)
    if len(names) > FEW and sum(count == 1 for count in names.values()) > len(labelled) / 2:
        raise table.error(
            labelled[0][0],
            column,
            f"{len(names)} different labels, most of which occur once, in {len(labelled)} rows\n"
            "give `kind`: classification for classes, regression for numbers; or another column as `label`",
        )


def read_cells(table: Table, column: str, cells: Sequence[Any], read: Any) -> list:
    """Every cell read by `read`, or a `UserError` that names the cell."""
    answers = []
    for row, cell in enumerate(cells):
        try:
            answers.append(read(cell))
        except ValueError as error:
            raise table.error(row, column, str(error)) from None
    return answers


def without_label(table: Table, column: str, task: Task, used: set[str]) -> set[str]:
    """Those of the names used that mean "no label"."""
    known = set(map(as_name, task.labels))
    no_label = {"-100"} & (used - known) | ({"-"} & (used - known) if "+" not in used else set())
    others = used - no_label - {"-1"}
    if "-1" not in used - known or others == {"1"} or any(is_integer(name) and int(name) < 0 for name in others):
        return no_label
    if others and others <= {"0", "1"} and not others <= known:
        if known:
            return no_label  # -1 then raises the error of an unknown label
        raise UserError(
            f'{table.source}, column "{column}": -1 may be a class beside 0 and 1, or mean that there is no label\n'
            "give `labels`: -1 0 1 for three classes, 0 1 to leave such rows out"
        )
    return no_label | {"-1"}


def checked_names(
    table: Table, column: str, task: Task, answers: list[list[str]]
) -> tuple[Task, list[list[str]], tuple[str, ...]]:
    """Names checked against the task's labels; open labels are filled from the data, and positions become names."""
    used = {name for names in answers for name in names}
    if not task.labels:
        task = dataclasses.replace(task, labels=found_labels(table, column, used, multiple=task.kind == "multi_label"))
    names, note = {as_name(name): name for name in task.labels}, ()
    positions = {str(position): name for position, name in enumerate(task.labels)}
    if used and not any(is_integer(name) for name in names) and used <= positions.keys():
        names = positions
        read = ", ".join(f"{number} = {positions[number]}" for number in sorted_names(used)[:FEW])
        note = (f"read class numbers as positions: {read}",)
    if used <= names.keys():
        return task, [[names[name] for name in row] for row in answers], note
    row, name = next((row, name) for row, names_here in enumerate(answers) for name in names_here if name not in names)
    known = ", ".join(task.labels[:FEW])
    raise table.error(row, column, f'unknown label "{name}"; expected one of: {known}')


def several(
    table: Table, column: str, task: Task, cells: Sequence[Any], rows: list[int]
) -> tuple[Task, list[int], list[list[str]], tuple[str, ...]]:
    """The labels of multi_label: lists of names, or an indicator for each class."""
    known = set(map(as_name, task.labels))
    single = [cell for cell in cells if isinstance(cell, str) and as_name(cell) not in known]
    mark = next((mark for mark in MARKS if any(mark in cell for cell in single)), ",")
    answers = read_cells(table, column, cells, lambda cell: read_names(cell, mark, known))
    if not are_indicators([row for row in answers if row], known):
        names = {name for row in answers for name in row}
        if names and not known and all((as_number(name) or 0) % 1 for name in names):
            raise table.error(0, column, "expected names of classes, or 0 and 1 for each; found probabilities")
        if "O" in names and any(re.match("[BI]-.", name) for name in names):
            raise table.error(0, column, "these are tags of words: expected a list of words as the text")
        task, answers, notes = checked_names(table, column, task, answers)
        return task, rows, answers, notes
    width = len(task.labels) or len(table.label_names.get(column, ())) or max(map(len, answers))
    for row, bits in enumerate(answers):
        if len(bits) != width:
            raise table.error(row, column, f"expected {width} times 0 or 1, one for each class, found {len(bits)}")
    labels = task.labels or table.label_names.get(column) or tuple(f"LABEL_{place}" for place in range(width))
    chosen = [
        [name for name, bit in zip(labels, bits_of(bits), strict=True) if bit in ("1", "true")] for bits in answers
    ]
    return dataclasses.replace(task, labels=labels), rows, chosen, ()


def are_indicators(rows: list[list[str]], known: set[str]) -> bool:
    """Whether lists hold a 0 or 1 for each class. Read as class names, a name would occur twice in a row, or all rows
    would be pairs of 0 and 1."""
    if not rows or not {bit for row in rows for bit in bits_of(row)} <= {"0", "1", "false", "true"}:
        return False
    twice = any(len(set(row)) < len(row) for row in rows)
    return twice or ({len(row) for row in rows} == {2} and not {"0", "1"} <= known)


def bits_of(row: list[str]) -> list[str]:
    return [name.lower() for name in row]


def found_labels(table: Table, column: str, used: set[str], multiple: bool) -> tuple[str, ...]:
    """The names in the source's own order, else sorted. Classification needs at least two."""
    if not multiple and len(used) < 2:
        only = next(iter(used))
        raise UserError(f'{table.source}, column "{column}": every label is "{only}"; expected at least two classes')
    if not used:
        raise UserError(f'{table.source}, column "{column}": there is no label in it; expected class names')
    known = table.label_names.get(column, ())
    return known if used <= set(known) else sorted_names(used)


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted alphabetically, or numerically if every name is an integer."""
    names = list(names)
    return tuple(
        sorted(names, key=lambda name: (int(name), name)) if all(is_integer(name) for name in names) else sorted(names)
    )


def unpacked(table: Table, column: str, row: int, kind: Kind) -> Any:
    """A cell, or the list that it spells out."""
    value = as_list(table.columns[column][row])
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return side_by_side(value)
    if kind in ("classification", "regression") or not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    raise table.error(
        row,
        column,
        f"{value[:40]!r} begins like a list but cannot be read as one\n"
        'expected JSON such as ["joy", "fear"]; if it is a name, give `kind` classification',
    )


def as_list(cell: Any) -> Any:
    """The list that a string spells out, as JSON or as Python prints it; anything else unchanged."""
    if not (isinstance(cell, str) and cell.lstrip().startswith("[")):
        return cell
    # Python would join the strings of ['a' 'b'], as NumPy prints it, to one name.
    readers = (json.loads,) if re.search(r"""['"]\s+['"]""", cell) else (json.loads, ast.literal_eval)
    for read in readers:
        try:
            parsed = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return parsed if isinstance(parsed, list) else cell
    return cell


def read_name(cell: Any) -> str:
    if is_missing(cell):
        raise ValueError("the label is missing; expected a class name")
    if isinstance(cell, list | dict):
        raise ValueError(f"expected one class name, found {cell!r}")
    name = as_name(cell)
    if name.lower() == "nan":
        raise ValueError(f'the label is missing ("{name}"); expected a class name')
    if not is_unicode(name):
        raise ValueError(f"expected a name that UTF-8 can encode, found {name!r}")
    return name


def as_name(cell: Any) -> str:
    """A name without surrounding blanks; a whole number without decimal point and plus sign."""
    name = str(cell).strip()
    match = re.fullmatch(r"\+?(-?(?:0|[1-9][0-9]*))(?:\.0*)?", name)
    return name if match is None else "0" if match[1] == "-0" else match[1]


def read_score(cell: Any) -> float:
    if is_missing(cell):
        raise ValueError("the score is missing or NaN; expected a number")
    score = as_number(cell)
    if score is None or not math.isfinite(score):
        raise ValueError(f"expected a finite number, found {cell!r}")
    return score


def read_names(cell: Any, mark: str, known: set[str]) -> list[str]:
    """Several names: a list, or one cell with separators; an empty cell means that no class applies."""
    if is_missing(cell):
        return []
    parts = cell if isinstance(cell, list) else [cell]
    if isinstance(cell, str) and as_name(cell) not in known:
        parts = cell.split(mark)
    return [read_name(name) for name in parts]


def read_tags(cell: Any) -> list[str]:
    if not isinstance(cell, list):
        raise ValueError(f"expected a list of tags, one per word, found {cell!r}")
    return [read_name(tag) for tag in cell]


def read_answer(cell: Any) -> dict[str, list]:
    texts, starts = (cell.get("text"), cell.get("answer_start")) if isinstance(cell, dict) else (None, None)
    expected = 'expected {"text": [...], "answer_start": [...]} as in SQuAD, with empty lists where there is no answer'
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(expected)
    if not all(str(text).strip() for text in texts):
        raise ValueError(f"{expected}\nthis answer is empty")
    if not all(isinstance(text, str) for text in texts) or not all(type(at) is int and at >= 0 for at in starts):
        raise ValueError(f"{expected}: texts, and the characters of the context where they begin, counted from 0")
    return {"text": texts, "answer_start": starts}


def side_by_side(answers: list[dict[str, Any]]) -> dict[str, list]:
    """The list of answers in SQuAD's JSON as one dict of lists, the form of its tables."""
    return {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}


READERS = {"regression": read_score, "embedding": read_score, "tokens": read_tags, "qa": read_answer}


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no label: None, NaN, or a blank string."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def as_number(cell: Any) -> float | None:
    """The number that a cell holds, as a number or in ASCII digits (Python's `float` also reads "1_2" and digits of
    other scripts); None if there is none."""
    if isinstance(cell, bool) or (isinstance(cell, str) and ("_" in cell or not cell.isascii())):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def is_integer(cell: Any) -> bool:
    """Whether a cell is written as an integer: 1 and "1", but neither 1.0 nor "1.0"."""
    text = str(cell).strip()
    return text.isascii() and text.removeprefix("-").isdecimal()
