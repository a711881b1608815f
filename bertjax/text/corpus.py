"""Text for pre-training as tokens on disk: tokenised once, read at random during training.

A document is cut into chunks of whole sentences that fit one row. Chunks are stored in array_record files, which allow
random access, so that only an index (12 bytes per chunk) has to be in memory. How a chunk becomes two segments, and
what is masked, is decided when it is read (pairs.py, masking.py): it differs in every epoch, and the files depend on
text, tokenizer and length alone.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from bertjax.errors import UserError
from bertjax.storage.cache import cached_folder
from bertjax.text.documents import read_documents, source_digest
from bertjax.text.draws import CHUNKS, Draws
from bertjax.text.tokenizer import Tokenizer

RULES = 1
"""Version of the chunking; increase it whenever the same text would be cut differently."""
SHORT_FRACTION = 0.1
"""Share of chunks that are cut at a random shorter length, so that a model also sees short inputs (Devlin et al. 2018,
A.2)."""
DOCUMENTS_AT_ONCE = 512
"""Documents tokenised together."""
CHUNKS_PER_SHARD = 2**17
"""Chunks per file."""


class Chunk(NamedTuple):
    """Consecutive sentences: token ids without special tokens, and where each sentence ends."""

    ids: Int32[np.ndarray, "tokens"]
    ends: Int32[np.ndarray, "sentences"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A folder of chunks. `lengths` (in tokens), `sentences` (their number) and `documents` (the document's number)
    have one entry per chunk."""

    folder: Path
    fingerprint: str
    lengths: Int32[np.ndarray, "chunks"]
    sentences: Int32[np.ndarray, "chunks"]
    documents: Int32[np.ndarray, "chunks"]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        shards = sorted(str(file) for file in self.folder.glob("*.array_record"))
        try:
            records = ArrayRecordDataSource(shards)
        except (RuntimeError, ValueError, OSError) as error:
            raise self._damaged(error) from None
        if len(records) != len(self):
            raise self._damaged(f"{len(records)} chunks instead of {len(self)}")
        return records

    def chunk(self, number: int) -> Chunk:
        """One chunk, read from disk."""
        try:
            record = np.frombuffer(self._records[number], "<i4").astype(np.int32)
        except (RuntimeError, OSError) as error:
            raise self._damaged(error) from None
        count = self.sentences[number]
        return Chunk(record[count:], record[:count])

    def of_another_document(self, number: int, draws: Draws) -> Chunk:
        """A chunk drawn uniformly from those of all other documents."""
        first, last = np.searchsorted(self.documents, self.documents[number] + np.arange(2)).tolist()
        drawn = draws.below(len(self) - (last - first))
        return self.chunk(drawn if drawn < first else drawn + last - first)

    def _damaged(self, reason: Any) -> UserError:
        reason = str(reason).partition(";")[0][:200]
        return UserError(
            f"{self.folder} is damaged ({reason}).\nDelete it and run the command again, which rebuilds it."
        )


def build_corpus(
    source: str, tokenizer: Tokenizer, room: int, column: str | None = None, split: str = "train"
) -> Corpus:
    """The text of a source as chunks of at most `room` tokens; built now, or read from the cache.

    Raises:
      UserError: No such source, no text in it, or a disk error.
    """

    def make(folder: Path) -> None:
        chunks = split_documents(read_documents(source, column, split), tokenizer, room)
        index, shard = [], 0
        while batch := list(islice(chunks, CHUNKS_PER_SHARD)):
            write_shard(folder / f"chunks-{shard:05d}.array_record", [chunk for _, chunk in batch])
            index += [(len(chunk.ids), len(chunk.ends), document) for document, chunk in batch]
            shard += 1
        if not index:
            raise UserError(
                f"{source}: the tokenizer finds no token in it; expected text in the language of the model."
            )
        np.save(folder / "index.npy", np.array(index, "<i4"))
        about = {"tokenizer": tokenizer.fingerprint, "room": room, "chunks": len(index)}
        (folder / "corpus.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    identity = [RULES, source_digest(source, column, split), tokenizer.fingerprint, room]
    folder = cached_folder("corpora", identity, make)
    try:
        lengths, sentences, documents = np.load(folder / "index.npy", allow_pickle=False).T.astype(np.int32)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is damaged ({error}).\nDelete it and run the command again, which rebuilds it."
        ) from None
    return Corpus(folder, folder.name, lengths, sentences, documents)


def write_shard(file: Path, chunks: list[Chunk]) -> None:
    """One record per chunk: where its sentences end, then its ids, as little-endian 32-bit integers."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), "group_size:1")
    for chunk in chunks:
        writer.write(np.concatenate([chunk.ends, chunk.ids]).astype("<i4").tobytes())
    writer.close()


def split_documents(documents: Iterator[list[str]], tokenizer: Tokenizer, room: int) -> Iterator[tuple[int, Chunk]]:
    """The chunks of each document, with its number; sentences without a token are dropped.

    A sentence is read with the space before it, which byte-level BPE makes part of its first token.
    """
    numbered = enumerate(documents)
    while together := list(islice(numbered, DOCUMENTS_AT_ONCE)):
        texts = [" " * (place > 0) + sentence for _, document in together for place, sentence in enumerate(document)]
        rows = iter(tokenizer.encode(texts, spans=False).ids)
        for number, document in together:
            tokens = [np.array(row[1:-1], np.int32) for row in islice(rows, len(document))]  # without [CLS] and [SEP]
            for chunk in chunks_of([row for row in tokens if len(row)], room, Draws(0, 0, CHUNKS, number)):
                yield number, chunk


def chunks_of(sentences: list[Int32[np.ndarray, "_"]], room: int, draws: Draws) -> Iterator[Chunk]:
    """Chunks of as many sentences as fit; a sentence longer than a row is cut, and no token is lost."""
    parts = [row[start : start + room] for row in sentences for start in range(0, len(row), room)]
    start = 0
    while start < len(parts):
        limit = 2 + draws.below(room - 1) if draws.chance(SHORT_FRACTION) else room
        ends = np.cumsum([len(part) for part in parts[start : start + limit + 1]], dtype=np.int32)
        count = max(1, int(np.searchsorted(ends, limit, side="right")))
        yield Chunk(np.concatenate(parts[start : start + count]), ends[:count])
        start += count
