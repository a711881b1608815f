"""WordPiece in both directions of a Hugging Face folder: read what is there, write what `transformers` opens.

The work is done by the `tokenizers` library; this class pins down what a training run relies on: no truncation or
padding hidden inside `tokenizer.json` (many published files carry both), the five special ids by name, a fingerprint
for caches, and a count of the texts that were cut. It is never changed after construction, so it may be shared by threads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Encodings:
    """Pieces of every text, special tokens included, ragged. All lists run in parallel to `ids`.

    `type_ids` is 0 for the first text and 1 for the second. `offsets` are character ranges in the original text,
    `word_ids` number the whitespace-and-punctuation words (None for special tokens), `sequence_ids` say which of the two texts
    a piece is from (None for special tokens). The last three are None unless asked for. `n_truncated` counts the texts
    (or pairs) that were longer than the limit.
    """

    ids: list[list[int]]
    type_ids: list[list[int]]
    offsets: list[list[tuple[int, int]]] | None
    word_ids: list[list[int | None]] | None
    sequence_ids: list[list[int | None]] | None
    n_truncated: int


class Tokenizer:
    """A `tokenizers.Tokenizer` with BERT's special tokens known by name.

    Attributes: vocab_size, pad_id, cls_id, sep_id, unk_id, mask_id (None where the vocabulary has no mask token),
    fingerprint (sha256).
    """

    vocab_size: int
    pad_id: int
    cls_id: int
    sep_id: int
    unk_id: int
    mask_id: int | None
    fingerprint: str

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer": ...

    @classmethod
    def wrap(cls, obj: Any) -> "Tokenizer": ...

    def encode(self, texts, pairs=None, max_length: int | None = None, *, spans: bool = True) -> Encodings: ...

    def save(self, folder: str | Path) -> None: ...
