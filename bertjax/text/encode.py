"""Examples -> token ids, once, before training begins.

Tokenising in every epoch would cost more than all other input work together. So it is done once, and the result is kept
ragged: one flat array of ids with the offsets of its rows. Nothing is padded before a batch knows its length, and the
fingerprint of these arrays identifies the data exactly (for checkpoints, and for caches of teacher outputs). A row is
an example, except that the context of a question is cut into overlapping rows. The cost: all ids stay in memory, 8
bytes per token.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64

from bertjax.errors import UserError
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from bertjax.text.windows import context_windows, ragged

NO_LABEL = -100
_CHUNK = 4096  # examples tokenised at a time: Python lists of tokens take twenty times the memory of the arrays


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows of tokens, flat: row `i` is `ids[offsets[i] : offsets[i + 1]]`, and so for `type_ids`, `words` and `spans`.

    `labels` is None for unlabelled data, else: classification int32 [rows]; regression float32 [rows]; multi_label
    float32 [rows, classes]; tokens int32 [tokens], -100 except at the first token of a word; qa int32 [rows, 2], the
    first and last token of the answer counted within the row, or 0, 0 (the [CLS]) if the row does not hold the whole
    answer; embedding float32 [rows], the score of the pair that the row belongs to, or [rows, e], the embedding by a
    reference model. The two texts of a pair to embed are two rows, which follow each other.
    """

    task: Task
    example: Int32[np.ndarray, "rows"]
    """The number of the example of each row; equal to the row number except for qa and pairs to embed."""
    offsets: Int64[np.ndarray, "rows+1"]
    ids: Int32[np.ndarray, "tokens"]
    type_ids: Int32[np.ndarray, "tokens"]
    labels: Int32[np.ndarray, "..."] | Float32[np.ndarray, "..."] | None
    pad_id: int
    truncated: int
    """Number of examples that were cut at `max_length` (for qa: of questions, because contexts are never cut)."""
    fingerprint: str
    """sha256 of ids, type ids, row ends and labels."""
    words: Int32[np.ndarray, "tokens"] | None = None
    """For kind tokens: the index of the word whose first token this is, else -1."""
    spans: Int32[np.ndarray, "tokens 2"] | None = None
    """For kind qa: the characters [start, end) of the context that this token covers; -1 outside the context."""
    unknown: float = 0.0
    """Share of [UNK] among the tokens, [CLS] and [SEP] aside."""

    def __len__(self) -> int:
        return len(self.example)

    @property
    def paired(self) -> bool:
        """Whether two rows that follow each other are a pair of texts to embed."""
        return self.task.kind == "embedding" and len(self) > 1 and bool(self.example[1] == 0)

    @property
    def lengths(self) -> Int64[np.ndarray, "rows"]:
        """Tokens per row, with [CLS] and [SEP]."""
        return np.diff(self.offsets)


def encode_examples(
    examples: Examples, task: Task, tokenizer: Tokenizer, max_length: int, stride: int = 128
) -> Encoded:
    """All examples as tokens, at most `max_length` per row. Longer examples are cut and counted in `truncated`.

    `stride` (qa) is the step from one window over a context to the next, as in BERT's SQuAD script. It is limited to
    half a window, so that an answer of up to half a window is whole in at least one.

    Raises:
      UserError: A label does not belong to the task, or there is nothing to encode.
    """
    if len(examples) == 0:
        raise UserError(f"{examples.source}: no examples; expected at least one.")
    paired = task.kind == "embedding" and examples.pairs is not None
    examples = singly(examples, task)
    count = len(examples)
    chunks = [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
    if task.kind == "qa":
        parts = [context_windows(examples, chunk, tokenizer, max_length, stride) for chunk in chunks]
    else:
        parts = [_texts(examples, chunk, task, tokenizer, max_length) for chunk in chunks]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    truncated = int(arrays.pop("truncated").sum())
    offsets = np.concatenate([[0], np.cumsum(arrays.pop("lengths"), dtype=np.int64)])
    arrays["example"] //= 1 + paired
    labels = arrays.pop("labels", None) if task.kind in ("tokens", "qa") else sentence_labels(examples, task)
    words = ~np.isin(arrays["ids"], (tokenizer.cls_id, tokenizer.sep_id))
    unknown = float((arrays["ids"] == tokenizer.unk_id).sum() / max(1, words.sum()))
    digest = hashlib.sha256()
    for array in (arrays["ids"], arrays["type_ids"], offsets, labels):
        digest.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return Encoded(
        task, offsets=offsets, labels=labels, pad_id=tokenizer.pad_id, truncated=truncated,
        fingerprint=digest.hexdigest(), unknown=unknown, **arrays,
    )  # fmt: skip


def singly(examples: Examples, task: Task) -> Examples:
    """Pairs to embed as texts of their own, the second after the first, each with the label of its pair. Examples of
    another task stay as they are."""
    if task.kind != "embedding" or examples.pairs is None:
        return examples
    texts = [text for pair in zip(examples.texts, examples.pairs, strict=True) for text in pair]
    labels = examples.labels and [label for label in examples.labels for _ in range(2)]
    return dataclasses.replace(examples, texts=texts, pairs=None, labels=labels)


def _texts(
    examples: Examples, chunk: slice, task: Task, tokenizer: Tokenizer, max_length: int
) -> dict[str, np.ndarray]:
    pairs = None if examples.pairs is None else examples.pairs[chunk]
    tokens = tokenizer.encode(examples.texts[chunk], pairs, max_length, spans=task.kind == "tokens")
    part = {
        **ragged(tokens.ids, tokens.type_ids),
        "example": np.arange(len(examples), dtype=np.int32)[chunk],
        "truncated": np.array([tokens.n_truncated]),
    }
    if task.kind == "tokens":
        if examples.words is None or tokens.offsets is None:
            raise UserError(
                f"{examples.source}: a task of kind tokens needs the words of every sentence, as in CoNLL files."
            )
        assert tokens.sequence_ids is not None
        rows = zip(tokens.offsets, tokens.sequence_ids, examples.words[chunk], strict=True)
        words = [_first_tokens(*row) for row in rows]
        part["words"] = np.concatenate(words)
        if examples.labels is not None:
            part["labels"] = np.concatenate(
                [_tag_labels(row, tags, task) for row, tags in zip(words, examples.labels[chunk], strict=True)]
            )
    return part


def _first_tokens(
    offsets: list[tuple[int, int]], sequence_ids: list[int | None], words: list[str]
) -> Int32[np.ndarray, "tokens"]:
    """For each token of words joined by single spaces: the word that it begins, else -1. The space before a word may
    belong to its first token, or be its first token, as in byte-level BPE."""
    spaces = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1] - 1
    owner = np.searchsorted(spaces, np.array([start for start, _ in offsets]), side="right") - 1
    owner[np.array([sequence is None for sequence in sequence_ids])] = -1  # [CLS] and [SEP]
    first = np.full(len(owner), -1, np.int32)
    begun, where = np.unique(owner, return_index=True)
    first[where] = begun
    return first


def _tag_labels(words: Int32[np.ndarray, "tokens"], tags: list[str], task: Task) -> Int32[np.ndarray, "tokens"]:
    ids = np.array([_label_id(tag, task) for tag in tags] + [NO_LABEL], np.int32)  # word -1 reads the last entry
    return ids[words]


def sentence_labels(examples: Examples, task: Task) -> np.ndarray | None:
    """One label per example as numbers (see `Encoded.labels`); None for unlabelled text."""
    labels = examples.labels
    if labels is None:
        return None
    if task.kind in ("regression", "embedding"):
        return np.array(labels, np.float32)
    if task.kind == "classification":
        return np.array([_label_id(label, task) for label in labels], np.int32)
    indicator = np.zeros((len(labels), len(task.labels)), np.float32)
    for row, names in enumerate(labels):
        indicator[row, [_label_id(name, task) for name in names]] = 1
    return indicator


def _label_id(label: str, task: Task) -> int:
    try:
        return task.labels.index(label)
    except ValueError:
        known = ", ".join(task.labels[:20])
        raise UserError(f"The label {label!r} is not a label of the task; expected one of: {known}.") from None
