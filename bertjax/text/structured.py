"""The two formats that are not tables: CoNLL with one word per line, and SQuAD's nested JSON.

Both become a `Table`: the words and tags of a sentence are two cells that hold lists, and a question with its context
and answers is one row. So columns, labels and checks work as for any table.
"""

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.text.files import ReadBytes, read_text
from bertjax.text.labels import side_by_side
from bertjax.text.table import Table
from bertjax.text.tables import at_line


def conll_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """One word per line with its tags after it, a blank line after each sentence.

    Columns are named `word`, 2, 3, .. and the last one `tag`; a single column has no tags. Columns are separated by
    tabs in lines that contain one, else by blanks. `-DOCSTART-` lines are skipped, and so are comments: lines that
    begin with # at the start of a sentence and do not have the columns of a word.
    """
    text = read_text(path, read)
    lines = [line.strip("\r") for line in text.split("\n")]
    split = [line.split("\t") if "\t" in line else line.split() for line in lines]
    plain = [fields for fields in split if fields and fields[0] != "-DOCSTART-" and not fields[0].startswith("#")]
    width, tabs = len(next(iter(plain), [])), "\t" in text
    sentences: list[list[list[str]]] = []
    starts: list[int] = []
    inside = False
    for number, (line, fields) in enumerate(zip(lines, split, strict=True), start=1):
        if not line.strip() or fields[0] == "-DOCSTART-":
            inside = False
            continue
        if line.startswith("#") and not inside and (len(fields) != (width or 1) or (tabs and "\t" not in line)):
            continue
        width = width or len(fields)
        if len(fields) != width:
            raise UserError(
                f"{path}, line {number}: expected {width} columns as in the first line, found {len(fields)}"
            )
        if not inside:
            sentences.append([])
            starts.append(number)
        inside = True
        sentences[-1].append(fields)
    names = ["word", *(str(i) for i in range(2, width)), *(["tag"] if width > 1 else [])]
    columns = {name: [[fields[i] for fields in rows] for rows in sentences] for i, name in enumerate(names)}
    line_of = at_line(starts)
    return Table(columns, str(path), lambda row: f"sentence from {line_of(row)}")


def squad_table(path: Path, read: ReadBytes = Path.read_bytes) -> Table:
    """SQuAD's JSON as columns question, context and answers, without answers if no question has any. In SQuAD 2 a
    question that `is_impossible` has none, and empty lists as its label."""
    try:
        content = json.loads(read_text(path, read))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not valid JSON ({error})") from None
    try:
        questions = [
            (paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        columns: dict[str, list[Any]] = {
            "question": [question["question"] for _, question in questions],
            "context": [context for context, _ in questions],
            "answers": [spans(question) for _, question in questions],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected SQuAD's JSON, that is data -> paragraphs -> context and qas -> question and answers\n"
            f"  failed at: {error}\nJSON objects with one row each belong into a .jsonl file, one per line"
        ) from None
    impossible = any(question.get("is_impossible") for _, question in questions)
    if not (impossible or any(answers and answers["text"] for answers in columns["answers"])):
        del columns["answers"]
    names = [question.get("id", number) for number, (_, question) in enumerate(questions)]
    return Table(columns, str(path), lambda row: f'question "{names[row]}"')


def spans(question: dict[str, Any]) -> dict[str, list] | None:
    """The answers of a question; None if the file does not give any."""
    answers = [] if question.get("is_impossible") else question.get("answers")
    return None if answers is None else side_by_side(answers)
