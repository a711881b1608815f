"""Every mistake in a data file ends in one message that says where it is and what was expected."""

import gzip
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bertjax.errors import UserError
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tables import parquet_table
from bertjax.text.tasks import Task

TASK = Task("classification", labels=("bad", "good"))

# name: (file name, content, task, every part of the message)
CASES = {
    "empty file": ("a.tsv", b"", Task(), ["a.tsv: the file is empty; expected at least one row"]),
    "only a mark": ("a.tsv", b"\xef\xbb\xbf", Task(), ["a.tsv: there are no examples in it"]),
    "header alone": ("a.tsv", b"text\tlabel\n", Task(), ["a.tsv: there are no examples in it"]),
    "empty csv": ("a.csv", b"\n\n", Task(), ["a.csv: the file is empty; expected a header"]),
    "empty jsonl": ("a.jsonl", b"\n", Task(), ["a.jsonl: there are no examples"]),
    "missing text column": (
        "a.tsv",
        b"text\tlabel\na\tgood\n",
        Task(text="txt"),
        ['a.tsv: no column "txt" (did you mean "text"?)', "columns: text, label"],
    ),
    "missing label column": (
        "a.csv",
        b"text,label\na,good\n",
        Task(label="sentiment"),
        ['a.csv: no column "sentiment"', "columns: text, label"],
    ),
    "no usual column": (
        "a.csv",
        b"body,verdict\na,good\n",
        Task(),
        ["a.csv: which column holds the text? Name it with `text`", "columns: body, verdict"],
    ),
    "missing label": (
        "a.tsv",
        b"text\tlabel\na\tgood\nb\t\n",
        TASK,
        ['a.tsv, line 3, column "label": the label is missing; expected a class name'],
    ),
    "missing key": (
        "a.jsonl",
        b'{"text": "a", "label": "good"}\n\n{"text": "b"}\n',
        TASK,
        ['a.jsonl, line 3, column "label": the label is missing'],
    ),
    "unknown label": (
        "a.tsv",
        b"text\tlabel\na\tgood\nb\tgod\n",
        TASK,
        ['a.tsv, line 3, column "label": unknown label "god"; expected one of: bad, good'],
    ),
    "position out of range": (
        "a.tsv",
        b"text\tlabel\na\t0\nb\t2\n",
        TASK,
        ['a.tsv, line 2, column "label": unknown label "0"; expected one of: bad, good'],
    ),
    "one class only": (
        "a.tsv",
        b"text\tlabel\na\tgood\nb\tgood\n",
        Task(),
        ['a.tsv, column "label": every label is "good"; expected at least two classes'],
    ),
    "empty text": (
        "a.csv",
        b'text,label\n"two\nlines",good\n"  ",bad\n',
        TASK,
        ['a.csv, line 4, column "text": the text is empty; expected at least one word'],
    ),
    "empty second text": (
        "a.tsv",
        b"sentence1\tsentence2\tlabel\na\t\tgood\n",
        TASK,
        ['a.tsv, line 2, column "sentence2": the text is empty'],
    ),
    "text is a number": (
        "a.jsonl",
        b'{"text": 3, "label": "good"}\n',
        TASK,
        ['a.jsonl, line 1, column "text": expected text, found 3'],
    ),
    "text is not there": (
        "a.jsonl",
        b'{"text": null}\n',
        TASK,
        ['line 1, column "text": expected text, found nothing'],
    ),
    "half a character": ("a.jsonl", b'{"text": "a \\ud83d"}\n', TASK, ['line 1, column "text": expected Unicode text']),
    "undecodable bytes": (
        "a.tsv",
        b"text\tlabel\nfine\tgood\ncaf\xe9\tbad\n",
        TASK,
        ["a.tsv, line 3, byte 4: 0xe9 cannot be decoded; expected UTF-8 text", "iconv"],
    ),
    "zeros": ("a.tsv", b"text\0\0\0\0label", TASK, ["a.tsv: many of its bytes are 0; expected text in UTF-8"]),
    "a hash in a row that is too long": (
        "a.tsv",
        b"text\tlabel\n#a\tgood\tbad\n",
        TASK,
        ["a.tsv, line 2: expected 2 fields, found 3"],
    ),
    "half of utf-16": ("a.txt", "text".encode("utf-16")[:-1], TASK, ["a.txt, line 1, byte 9", "cannot be decoded"]),
    "ragged row": (
        "a.tsv",
        b"text\tlabel\na\tgood\nb\tc\tbad\n",
        TASK,
        ["a.tsv, line 3: expected 2 fields, found 3", "columns: text, label"],
    ),
    "blank line": ("a.tsv", b"text\tlabel\na\tgood\n\nb\tbad\n", TASK, ["a.tsv, line 3: expected 2 fields, found 1"]),
    "semicolons": (
        "a.csv",
        "text;label\nschön, teuer;gut\n".encode(),
        Task(),
        ["a.csv, line 1: one column, 'text;label'; expected a comma between columns, not ';'"],
    ),
    "commas in a tsv": ("a.TSV", b"text,label\na,good\n", Task(), ["one column, 'text,label'; expected a tab between"]),
    "column twice": ("a.tsv", b"text\ttext\na\tb\n", TASK, ['a.tsv, line 1: the header holds "text" twice']),
    "open quote": (
        "a.csv",
        b'text,label\n"a,good\nb,bad\n',
        TASK,
        ["a.csv, the row that begins in line 2: not valid CSV"],
    ),
    "nan score": (
        "a.tsv",
        b"sentence1\tsentence2\tscore\na\tb\t1.5\nc\td\tnan\n",
        Task(),
        ["a.tsv, line 3", 'column "score": expected a finite number, found'],
    ),
    "no score": (
        "a.tsv",
        b"sentence1\tsentence2\tscore\na\tb\t\n",
        Task("regression"),
        ['a.tsv, line 2, column "score": the score is missing or NaN; expected a number'],
    ),
    "word as score": (
        "a.csv",
        b"text,score\na,high\n",
        Task("regression"),
        ['a.csv, line 2, column "score": expected a finite number, found'],
    ),
    "infinite score": ("a.csv", b"text,score\na,-inf\n", Task("regression"), ["line 2", "expected a finite number"]),
    "not json": ("a.jsonl", b'{"text": "a"}\n{"text"\n', TASK, ["a.jsonl, line 2: not valid JSON"]),
    "no object": ("a.jsonl", b'{"text": "a"}\n[1]\n', TASK, ["a.jsonl, line 2: expected a JSON object, found [1]"]),
    "list as class": (
        "a.jsonl",
        b'{"text": "a", "label": ["x"]}\n',
        TASK,
        ['line 1, column "label": expected one class name, found'],
    ),
    "no class at all": (
        "a.tsv",
        b"text\tlabel\na\t\n",
        Task("multi_label"),
        ['a.tsv, column "label": there is no label in it'],
    ),
    "no list of words": ("a.jsonl", b'{"text": "a b"}\n', Task("tokens"), ["expected a list of words, found 'a b'"]),
    "no list of tags": (
        "a.jsonl",
        b'{"text": ["a"], "label": "O"}\n',
        Task("tokens"),
        ["expected a list of tags, one per word, found 'O'"],
    ),
    "empty word": ("a.jsonl", b'{"text": ["a", " "]}\n', Task("tokens"), ["line 1", "expected a word, found ' '"]),
    "questions alone": (
        "a.jsonl",
        b'{"text": "a", "answers": {"text": ["a"], "answer_start": [0]}}\n',
        Task(),
        ["a.jsonl: qa needs the questions in `text` and the contexts in `text_pair`"],
    ),
    "unknown ending": ("a.xlsx", b"PK", TASK, ['a.xlsx: unknown ending ".xlsx"; expected one of: .tsv .csv .jsonl']),
    "damaged archive": ("a.tsv.gz", gzip.compress(b"text\n" * 99)[:-4], TASK, ["a.tsv.gz: damaged or incomplete .gz"]),
    "no archive": ("a.tsv.gz", b"text\tlabel\n", TASK, ["a.tsv.gz: damaged or incomplete .gz file"]),
    "no other archive": ("a.csv.bz2", b"text,label\n", TASK, ["a.csv.bz2: "]),
    "no parquet": (
        "a.parquet",
        b"text,label\n",
        TASK,
        ["a.parquet: cannot be read as Parquet (", "/a.parquet': Parquet magic bytes"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_named_with_place_and_expectation(name, tmp_path):
    file, content, task, parts = CASES[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_examples(path, task)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert message.startswith(str(tmp_path))
    assert len(message.splitlines()) <= 5


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["good", None], Task("classification")),
        ([0.0, np.nan], Task("classification")),
        ([1.5, np.nan], Task("regression")),
    ],
)
def test_gaps_in_parquet_are_missing_labels(labels, task, tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": labels}), path)
    with pytest.raises(UserError, match=r'a\.parquet, row 1, column "label": the (label|score) is missing'):
        load_examples(path, task)


def test_missing_files_name_the_nearest(tmp_path):
    (tmp_path / "train.tsv").write_text("text\na\n")
    with pytest.raises(UserError, match=r'trian\.tsv: no such file; the nearest there is "train\.tsv"'):
        load_examples(tmp_path / "trian.tsv")
    with pytest.raises(UserError, match="no such file, nor a folder"):
        load_examples(tmp_path / "none" / "train.tsv")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        load_examples(tmp_path)


def test_unreadable_files_say_why(tmp_path, monkeypatch):
    path = tmp_path / "train.tsv"
    path.write_text("text\na\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UserError, match=r"train\.tsv: cannot be read \(Permission denied\)"):
        load_examples(path)


def test_bad_lists_are_named():
    with pytest.raises(UserError, match="the list given: there are no examples in it"):
        load_examples([])
    with pytest.raises(UserError, match="item 1 of the list: expected a dict like the first or a text, found 3"):
        load_examples([{"text": "a"}, 3])
    with pytest.raises(UserError, match='the list given, item 1, column "label": unknown label "c"'):
        load_examples([{"text": "a", "label": "b"}, {"text": "d", "label": "c"}], Task(labels=("a", "b")))
    with pytest.raises(UserError, match="cannot read 3: expected a file, tfds:NAME/SPLIT, demo, a list of texts"):
        load_examples(3)


def test_labels_can_be_demanded(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tverdict\na\tgood\n")
    assert load_examples(path).labels is None
    with pytest.raises(UserError, match=re.escape("a.tsv: which column holds the label? Name it with `label`")):
        load_examples(path, labelled=True)


def test_one_class_is_enough_once_the_classes_are_known():
    rows = [{"text": "a", "label": "good"}]
    assert load_examples(rows, TASK).labels == ["good"]
    with pytest.raises(UserError, match="expected at least two classes"):
        infer_task(rows)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.timestamp("us"),
        pyarrow.timestamp("us", tz="Mars/Phobos"),
        pyarrow.timestamp("ns"),
        pyarrow.list_(pyarrow.timestamp("ms")),
        pyarrow.struct([("at", pyarrow.timestamp("ms"))]),
    ],
)
def test_a_column_of_times_that_python_cannot_hold_is_left_out(kind, tmp_path):
    far = 2**61 + 1
    value = [far] if pyarrow.types.is_list(kind) else {"at": far} if pyarrow.types.is_struct(kind) else far
    table = pyarrow.table({"when": pyarrow.array([value, value], kind), "text": ["a", "b"], "label": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert parquet_table(tmp_path / "a.parquet").columns == {"text": ["a", "b"], "label": ["x", "y"]}
