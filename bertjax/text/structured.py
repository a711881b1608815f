"""The two formats that are no tables: CoNLL's word per line, and SQuAD's nested JSON.

Both become a `Table` all the same: a sentence's words and tags are two cells holding lists, a question with its context
and answers is one row. So columns, labels and checks work as everywhere.
"""

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.text.files import read_text
from bertjax.text.table import Table
from bertjax.text.tables import at_line


def conll_table(path: Path) -> Table:
    """One word a line with its tags behind it, a blank line after each sentence.

    Columns are called `word`, 2, 3, .. and the last one `tag`; with one column alone there are no tags. Tabs separate
    where a line has any, else blanks. `-DOCSTART-` lines are left out.
    """
    sentences: list[list[list[str]]] = []
    starts: list[int] = []
    width, inside = 0, False
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.strip("\r").split("\t") if "\t" in line else line.split()
        if not line.strip() or fields[0] == "-DOCSTART-":
            inside = False
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


def squad_table(path: Path) -> Table:
    """SQuAD 1.1's JSON as columns question, context and answers (left out where no question has any)."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not valid JSON ({error})") from None
    try:
        asked = [
            (paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        columns: dict[str, list[Any]] = {
            "question": [question["question"] for _, question in asked],
            "context": [context for context, _ in asked],
            "answers": [spans(question.get("answers")) for _, question in asked],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected SQuAD 1.1, that is data -> paragraphs -> context and qas -> question and answers\n"
            f"  failed at: {error}\nrows as JSON objects belong into a .jsonl file, one a line"
        ) from None
    if not any(columns["answers"]):
        del columns["answers"]
    names = [question.get("id", number) for number, (_, question) in enumerate(asked)]
    return Table(columns, str(path), lambda row: f'question "{names[row]}"')


def spans(answers: list | None) -> dict[str, list] | None:
    """The answers of a question side by side."""
    if not answers:
        return None
    return {"text": [a["text"] for a in answers], "answer_start": [a["answer_start"] for a in answers]}
