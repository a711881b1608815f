"""A run opens each file of text once: the digest in its record is that of the bytes that its examples come from."""

import bz2
import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bertjax.text.documents import read_documents
from bertjax.text.reader import TextReader
from bertjax.text.tasks import Task

TSV, TEXTS = "text\tlabel\na b\tx\nc d\ty\n", ["a b", "c d"]
JSON_LINES = '{"text": "a b", "label": "x"}\n{"text": "c d", "label": "y"}\n'
CONLL = "a B-X\nb I-X\n\nc B-Y\nd O\n"
FILES: dict[str, bytes] = {
    "a.tsv": TSV.encode(),
    "a.csv": TSV.replace("\t", ",").encode(),
    "a.jsonl": JSON_LINES.encode(),
    "a.jsonl.gz": gzip.compress(JSON_LINES.encode()),
    "a.tsv.bz2": bz2.compress(TSV.encode()),
    "a.txt": b"a b\nc d\n",
    "a.conll": CONLL.encode(),
    "a.json": b'{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "a b"}, {"question": "c d"}]}]}]}',
}


@pytest.fixture(params=[*FILES, "a.parquet"])
def file(request, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": ["x", "y"]}), path)
    else:
        path.write_bytes(FILES[path.name])
    return path


def spoil(path: Path) -> bytes:
    """Other bytes in the file, unnoticed: whoever opens it again finds them."""
    status = path.stat()
    path.write_bytes(other := bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return other


def read(reader: TextReader, path: Path) -> list[str]:
    return reader.read(str(path), Task(), "train")[1].texts


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("first", [TextReader.digest, read])
def test_a_file_is_opened_once_for_its_digest_and_its_examples(file: Path, first: Callable[[TextReader, Path], object]):
    reader, expected = TextReader(), digest(file)
    first(reader, file)
    spoiled = spoil(file)
    assert reader.digest(file) == expected
    assert read(reader, file) == TEXTS
    assert reader.content(file) == spoiled  # its bytes were not kept beside its examples


def test_a_file_that_changed_is_opened_again(tmp_path: Path):
    reader, path = TextReader(), tmp_path / "a.tsv"
    for text in (TSV, TSV.replace("c d", "something else")):
        path.write_text(text)
        assert reader.digest(path) == digest(path)
        path.write_text(text.replace("a b", "at last"))
        assert read(reader, path)[0] == "at last"
        assert reader.digest(path) == digest(path)


def test_one_file_is_one_table_for_every_split_and_kind(tmp_path: Path):
    reader, path = TextReader(), tmp_path / "a.conll"
    path.write_text(CONLL)
    task, examples = reader.read(str(path), Task(), "train")
    assert task.kind == "tokens"
    spoil(path)
    assert reader.read(str(path), task, "test")[1].texts == examples.texts


def test_lines_and_columns_of_one_file_are_two_tables(tmp_path: Path):
    reader, path = TextReader(), tmp_path / "a.txt"
    path.write_text(CONLL)
    assert read(reader, path) == ["a B-X", "b I-X", "c B-Y", "d O"]
    assert reader.read(str(path), Task(kind="tokens"), "train")[1].texts == TEXTS


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_documents_are_read_by_the_reader_of_the_run(name: str, tmp_path: Path):
    reader, path = TextReader(), tmp_path / name
    path.write_bytes(FILES[name])
    reader.digest(path)
    spoil(path)
    found = list(read_documents(str(path), reader=reader))
    assert [sentence for document in found for sentence in document] == TEXTS
