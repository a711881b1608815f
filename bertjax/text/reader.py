"""A cache of text for the steps of one run: each file is opened once, and encoded once per tokenizer.

The record of a run needs the digest of a file before its text is used. So `digest` reads the bytes and keeps them for
`read`, which forgets them: the digest is that of the text in use, and no file is in memory twice. A file is opened
again only if it has changed. The cost: what was read stays in memory until the run ends.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax.storage.paths import is_remote
from bertjax.text.encode import Encoded, encode_examples
from bertjax.text.examples import Examples, make_examples
from bertjax.text.sources import read_table, require_labels, table_variant
from bertjax.text.table import Table
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer


class TextReader:
    """Examples and their token ids, cached, and the digests of the files that they come from."""

    def __init__(self) -> None:
        self._digests: dict[Any, str] = {}
        self._unread: dict[Path, bytes] = {}
        self._tables: dict[Any, Table] = {}
        self._examples: dict[Any, tuple[Task, Examples]] = {}
        self._encoded: dict[Any, Encoded] = {}
        self._computed: dict[Any, Any] = {}

    def read(self, source: str, task: Task, split: str, labelled: bool = False) -> tuple[Task, Examples]:
        """The task with every open field filled in, and the examples of a source; as
        `bertjax.text.sources.read_source`."""
        table, key = self.table(source, task, split), (*identity(source, task, split), task)
        if key not in self._examples:
            self._examples[key] = make_examples(table, task)
        resolved, examples = self._examples[key]
        if labelled:
            require_labels(table, resolved, examples)
        return resolved, examples

    def table(self, source: str, task: Task, split: str) -> Table:
        """The columns of a source, as `bertjax.text.sources.read_table`."""
        key = identity(source, task, split)
        if key not in self._tables:
            self._tables[key] = read_table(source, task, split, self.content)
        return self._tables[key]

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file. Its bytes are kept until `content` returns them."""
        key = path, version(path)
        if key not in self._digests:
            self._unread[path] = path.read_bytes()
            self._digests[key] = hashlib.sha256(self._unread[path]).hexdigest()
        return self._digests[key]

    def content(self, path: Path) -> bytes:
        """The bytes of a file, which are then forgotten; its digest is kept."""
        self.digest(path)
        return self._unread.pop(path, b"") or path.read_bytes()

    def encode(self, examples: Examples, task: Task, tokenizer: Tokenizer, max_length: int) -> Encoded:
        """The token ids of examples."""
        key = examples.fingerprint, task, tokenizer.fingerprint, max_length
        if key not in self._encoded:
            self._encoded[key] = encode_examples(examples, task, tokenizer, max_length)
        return self._encoded[key]

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` returns, called once per key."""
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]


def identity(source: str, task: Task, split: str) -> tuple[Any, ...]:
    """The table that a source has now, as a key."""
    return source, version(source), table_variant(source, task, split)


def version(source: str | Path) -> tuple[int, int] | None:
    """Time and size of a file; None for anything that is not a local file."""
    path = None if is_remote(source) else Path(source).expanduser()
    if path is None or not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size
