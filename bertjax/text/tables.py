"""Tables in files: TSV as in GLUE, CSV with quotes, JSON lines, Parquet, and plain lines of text.

In a TSV file a tab separates and quotes have no meaning, because GLUE's sentences contain lone quotation marks; a CSV
file follows the usual rules. Every row keeps its line number for error messages.
"""

import contextlib
import csv
import io
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.text.files import ReadBytes, ending, read_text
from bertjax.text.table import Table

COLA = ["source", "label", "mark", "sentence"]  # the one GLUE task whose files have no header
QQP = {"question1", "question2", "is_duplicate"}


def tsv_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """Tab-separated columns with a header line, or CoLA's four without one."""
    lines = read_text(path, read).rstrip("\r\n").split("\n")
    split = [(number, line.removesuffix("\r").split("\t")) for number, line in enumerate(lines, start=1)]
    records = without_comments(split)
    first = records[0][1]
    if len(first) == 4 and first[1] in ("0", "1") and first[2] in ("", "*"):
        return table_of(path, COLA, records, metric="matthews")
    return table_of(path, first, records[1:])


def csv_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """Comma-separated columns with a header line. A quoted cell may span lines; the number of a row is that of its
    first line."""
    reader = csv.reader(io.StringIO(read_text(path, read), newline=""), strict=True)
    records, line = [], 1
    limit = csv.field_size_limit(2**31 - 1)  # characters of a cell: Python's default, 131072, is less than a long text
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, the row that begins in line {line}: not valid CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    records = without_comments(records)
    if not records:
        raise UserError(f"{path}: the file is empty; expected a header line and rows")
    return table_of(path, records[0][1], records[1:])


def without_comments(records: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Records without comments: lines that begin with # and have no separator, where rows have several columns; above
    the header also those with another number of columns than it has."""
    begins = [fields[0].startswith("#") for _, fields in records]
    header = begins.index(False) if False in begins else 0
    width = len(records[header][1]) if records else 0
    return [
        (line, fields)
        for position, (line, fields) in enumerate(records)
        if not begins[position] or len(fields) == width or (len(fields) > 1 and position > header)
    ]


def table_of(path: Path, header: list[str], records: list[tuple[int, list[str]]], metric: str = "auto") -> Table:
    """Records of (line number, fields) as columns; each must have as many fields as the header."""
    names = [name.strip() for name in header]
    if repeated := {name for name, count in Counter(names).items() if count > 1}:
        raise UserError(f'{path}, line 1: the header holds "{min(repeated)}" twice; expected different column names')
    if set(names) >= QQP:
        records = without_broken(path, names, records)
    if len(names) == 1 and (marks := [mark for mark in ";,\t|" if mark in names[0]]):
        expected = "a tab" if ending(path) == ".tsv" else "a comma"
        raise UserError(
            f"{path}, line 1: one column, {names[0]!r}; expected {expected} between columns, not {marks[0]!r}"
        )
    for line, fields in records:
        if len(fields) != len(names):
            raise UserError(
                f"{path}, line {line}: expected {len(names)} fields, found {len(fields)}\n  columns: {', '.join(names)}"
            )
    columns: dict[str, list[Any]] = {name: [fields[i] for _, fields in records] for i, name in enumerate(names)}
    return Table(columns, str(path), at_line([line for line, _ in records]), metric=metric)


def without_broken(path: Path, names: list[str], records: list) -> list:
    """QQP without its broken rows: in the published file, some questions contain line breaks."""
    needed = [names.index(name) for name in QQP]
    whole = [(n, f) for n, f in records if len(f) == len(names) and all(f[i].strip() for i in needed)]
    if len(whole) < len(records):
        warnings.warn(f"{path}: left out {len(records) - len(whole)} broken rows of {len(records)}", stacklevel=2)
    return whole


def jsonl_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """One JSON object per line; its keys are the columns, and a key may be missing in some lines."""
    rows, lines = [], []
    for number, line in enumerate(read_text(path, read).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object, found {line.strip()[:40]}")
        rows.append(row)
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, str(path), at_line(lines))


def parquet_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """The columns of a Parquet file; rows count from 0, as in pandas."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(read(path)))
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].replace("<Buffer>", str(path))  # as pyarrow names bytes without a file
        raise UserError(f"{path}: cannot be read as Parquet ({reason})") from None
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        # Python has no times before the year 1 or after 9999: such a column is neither text nor label, and is dropped.
        with contextlib.suppress(ValueError, OverflowError):
            columns[name] = column.to_pylist()
    return Table(columns, str(path), lambda row: f"row {row}")


def lines_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """Plain text, one example per line, no labels; blank lines are skipped."""
    lines = [(n, line) for n, line in enumerate(read_text(path, read).split("\n"), start=1) if line.strip()]
    return Table({"text": [line.removesuffix("\r") for _, line in lines]}, str(path), at_line([n for n, _ in lines]))


def at_line(lines: list[int]):
    return lambda row: f"line {lines[row]}"
