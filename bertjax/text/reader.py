"""A cache of text for the steps of one run: each source is read once, and encoded once per tokenizer.

A file is read again only if it has changed. The cost: what was read stays in memory until the run ends.
"""

from pathlib import Path
from typing import Any

from bertjax.storage.paths import is_remote
from bertjax.text.encode import Encoded, encode_examples
from bertjax.text.examples import Examples, make_examples
from bertjax.text.sources import read_table, require_labels
from bertjax.text.table import Table
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer


class TextReader:
    """Examples and their token ids, cached."""

    def __init__(self) -> None:
        self._tables: dict[Any, Table] = {}
        self._examples: dict[Any, tuple[Task, Examples]] = {}
        self._encoded: dict[Any, Encoded] = {}

    def read(self, source: str, task: Task, split: str, labelled: bool = False) -> tuple[Task, Examples]:
        """The task with every open field filled in, and the examples of a source; as
        `bertjax.text.sources.read_source`."""
        key = source, version(source), split, task.kind == "tokens"
        if key not in self._tables:
            self._tables[key] = read_table(source, task, split)
        table = self._tables[key]
        if (key, task) not in self._examples:
            self._examples[key, task] = make_examples(table, task)
        resolved, examples = self._examples[key, task]
        if labelled:
            require_labels(table, resolved, examples)
        return resolved, examples

    def encode(self, examples: Examples, task: Task, tokenizer: Tokenizer, max_length: int) -> Encoded:
        """The token ids of examples."""
        key = examples.fingerprint, task, tokenizer.fingerprint, max_length
        if key not in self._encoded:
            self._encoded[key] = encode_examples(examples, task, tokenizer, max_length)
        return self._encoded[key]


def version(source: str) -> tuple[int, int] | None:
    """Time and size of a file; None for anything that is not a local file."""
    path = None if is_remote(source) else Path(source).expanduser()
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size
