"""Raw text -> documents -> sentences.

A text file holds one document per block between blank lines, as in BERT's own format; a file without blank lines is one
document. A sentence ends at the end of a line, and after a full stop, question or exclamation mark that is followed by
a space and anything but a small letter. That is crude ("Dr. Who" becomes two) but sufficient: pre-training needs text
segments whose order means something, not grammar. In other sources (tables, `tfds:`, `demo`) each row is a document,
with both texts of a pair; labels are ignored.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from bertjax.errors import UserError
from bertjax.storage.paths import local
from bertjax.text.examples import plain_texts
from bertjax.text.files import ReadBytes, check_exists, ending, read_text
from bertjax.text.reader import TextReader
from bertjax.text.sources import read_table
from bertjax.text.tasks import Task

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])|\n")
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
TEXT = ".txt"


def read_documents(
    source: str, column: str | None = None, split: str = "train", reader: TextReader | None = None
) -> Iterator[list[str]]:
    """The sentences of each document that has any.

    `source` is a text file, a folder of them (read in the order of their names), or any source that `load_examples`
    reads; `column` is the text column of a table. With the `reader` of a run, a table that the run
    has read already is not read again.

    Raises:
      UserError: No such source, or no text in it.
    """
    has_text, read = False, reader.content if reader else Path.read_bytes
    for text in (
        chain.from_iterable(blocks(file, read) for file in files)
        if (files := text_files(source))
        else table_texts(source, column, split, reader)
    ):
        if sentences := sentences_of(text):
            has_text = True
            yield sentences
    if not has_text:
        raise UserError(f"{source}: there is no text in it; expected documents, with blank lines between them.")


def sentences_of(text: str) -> list[str]:
    return [sentence for part in SENTENCE_END.split(text) if (sentence := part.strip())]


def text_files(source: str) -> list[Path]:
    """The text files that a source names; empty if it is of another kind."""
    path = local(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if ending(file) == TEXT and not file.is_dir())
        if not files:
            raise UserError(f"{source}: no text files in this folder; expected names like wiki.txt or wiki.txt.gz")
        for file in files:
            check_exists(file)  # a link may lead nowhere
        return files
    if source == "demo" or source.startswith("tfds:") or ending(path) != TEXT:
        return []
    check_exists(path)
    return [path]


def blocks(file: Path, read: ReadBytes) -> list[str]:
    return BLANK_LINE.split(read_text(file, read).replace("\r\n", "\n"))


def table_texts(source: str, column: str | None, split: str, reader: TextReader | None = None) -> list[str]:
    return plain_texts((reader.table if reader else read_table)(source, Task(text=column), split), column)


def source_digest(source: str, column: str | None = None, split: str = "train") -> str:
    """sha256 of the content of a source: of the bytes of its files, or of its rows. File names do not matter."""
    digest = hashlib.sha256()
    for file in (files := text_files(source)):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    for text in () if files else table_texts(source, column, split):
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()
