"""Text to ids, identical to Hugging Face.

The `tokenizers` library does the work. This class adds what a training run relies on: no truncation or padding taken
from `tokenizer.json` (many published files contain both), the special ids by name, a fingerprint for caches, and a
count of the texts that were truncated. It is immutable, so threads may share it.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from bertjax.errors import UserError
from bertjax.storage.typed_json import is_unicode
from bertjax.text.tokenizer_files import ROLES, has_tokenizer, read_folder, token_name, write_folder

__all__ = ["Encodings", "Tokenizer", "has_tokenizer"]

CHUNK = 4096  # texts at a time: the library's result objects are far larger than the lists that are kept of them


@dataclass(frozen=True)
class Encodings:
    """Tokens of every text, special tokens included, ragged. All lists are parallel to `ids`.

    `type_ids` is 0 for the first text and 1 for the second. `offsets` are character ranges in the original text,
    `word_ids` count the words separated by whitespace and punctuation, and `sequence_ids` tell which of the two texts a
    token is from. The last two are None at special tokens, and all three are None if `spans` was False. `n_truncated`
    counts the texts (or pairs) that were longer than the limit.
    """

    ids: list[list[int]]
    type_ids: list[list[int]]
    offsets: list[list[tuple[int, int]]] | None
    word_ids: list[list[int | None]] | None
    sequence_ids: list[list[int | None]] | None
    n_truncated: int


class Tokenizer:
    """A vocabulary and the rules that split text into its tokens; made by `from_folder` or `wrap`.

    Attributes: vocab_size, pad_id, cls_id, sep_id, unk_id, mask_id (None if the vocabulary has no such token) and
    fingerprint (sha256 of vocabulary and rules).
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]):
        backend = copy.deepcopy(backend)
        backend.no_truncation()
        backend.no_padding()
        require_sound(backend)
        vocabulary = backend.get_vocab()
        self._names = {role: token_name(config, role, vocabulary) for role in ROLES}
        if missing := [name for role, name in self._names.items() if name not in vocabulary and role != "mask_token"]:
            raise UserError(f"the tokenizer's vocabulary lacks {', '.join(missing)}, which BERT needs")
        self.pad_id, self.cls_id, self.sep_id, self.unk_id = (vocabulary[self._names[role]] for role in list(ROLES)[:4])
        self.mask_id = vocabulary.get(self._names["mask_token"])
        # Not the number of tokens: a token that is in vocab.txt twice takes two ids, one per line.
        self.vocab_size = max(vocabulary.values()) + 1
        self.fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()
        self._max_length = config.get("model_max_length")
        self._limited: dict[int | None, tokenizers.Tokenizer] = {None: backend}

    @classmethod
    def from_folder(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a Hugging Face folder: tokenizer.json, vocab.txt, or any other format that `transformers`
        reads."""
        return cls(*read_folder(Path(path)))

    @classmethod
    def wrap(cls, obj: Any) -> "Tokenizer":
        """A `Tokenizer` unchanged, or a copy of a `tokenizers.Tokenizer` or of a (fast) `transformers` tokenizer."""
        if isinstance(obj, cls):
            return obj
        if isinstance(obj, tokenizers.Tokenizer):
            return cls(obj, {})
        backend = getattr(obj, "backend_tokenizer", None)
        if backend is None:
            raise UserError(
                f"{type(obj).__name__} is not a tokenizer that bertjax can use\n"
                "expected a bertjax Tokenizer, a tokenizers.Tokenizer, or a fast transformers tokenizer"
            )
        names = {role: str(name) for role in ROLES if (name := getattr(obj, role, None)) is not None}
        return cls(backend, {**names, "model_max_length": getattr(obj, "model_max_length", None)})

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        *,
        spans: bool = True,
    ) -> Encodings:
        """Tokens of every text, or of every text with its pair.

        Beyond `max_length` tokens (special tokens included) the longer of the two loses its last token, repeatedly,
        until the pair fits. `spans=False` omits offsets, word ids and sequence ids, which saves a third of the time.
        """
        backend = self._limit(max_length, paired=pairs is not None)
        ids, type_ids, offsets, word_ids, sequence_ids, truncated = [], [], [], [], [], 0
        for encoding in self._encodings(backend, texts, pairs, spans):
            ids.append(encoding.ids)
            type_ids.append(encoding.type_ids)
            truncated += bool(encoding.overflowing)
            if spans:
                offsets.append(encoding.offsets)
                word_ids.append(encoding.word_ids)
                sequence_ids.append(encoding.sequence_ids)
        details = (offsets, word_ids, sequence_ids) if spans else (None, None, None)
        return Encodings(ids, type_ids, *details, truncated)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id."""
        return self._limited[None].get_vocab()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and (for WordPiece) vocab.txt; `transformers` can open them
        too."""
        write_folder(Path(folder), self._limited[None], self._names, self._max_length)

    def to_json(self) -> str:
        """Vocabulary and rules, in the format of `tokenizer.json`."""
        return self._limited[None].to_str()

    @classmethod
    def from_json(cls, text: str, like: "Tokenizer") -> "Tokenizer":
        """A tokenizer from other content of `tokenizer.json`, with the special tokens and the length limit of
        `like`."""
        return cls(tokenizers.Tokenizer.from_str(text), {**like._names, "model_max_length": like._max_length})

    def _limit(self, max_length: int | None, paired: bool) -> tokenizers.Tokenizer:
        """The backend that truncates at `max_length`: one copy per limit, because threads may use different ones."""
        if max_length is None:
            return self._limited[None]
        least = self._limited[None].num_special_tokens_to_add(paired) + 1 + paired
        if max_length < least:
            raise UserError(f"max_length is {max_length}; expected at least {least}: the special tokens and some text")
        if max_length not in self._limited:
            backend = copy.deepcopy(self._limited[None])
            backend.enable_truncation(max_length, strategy="longest_first")
            self._limited[max_length] = backend
        return self._limited[max_length]

    def _encodings(self, backend, texts, pairs, spans: bool) -> Iterator[tokenizers.Encoding]:
        encode = backend.encode_batch if spans else backend.encode_batch_fast
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            both = chunk if pairs is None else list(zip(chunk, pairs[start : start + CHUNK], strict=True))
            try:
                yield from encode(both)
            except (TypeError, UnicodeEncodeError):
                rows = both if pairs is not None else ((text,) for text in chunk)
                number, text = next(
                    (start + i, text) for i, row in enumerate(rows) for text in row if not is_unicode(text)
                )
                raise UserError(f"text {number} cannot be tokenised: expected Unicode text, found {text!r}") from None


def require_sound(backend: tokenizers.Tokenizer) -> None:
    """Refuses contradictory rules, which `tokenizers` only notices at the first text, with a panic."""
    try:
        backend.encode("a")
        backend.encode("a", "b")
    except BaseException as error:  # a panic is no Exception, and its class cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"the tokenizer's rules contradict one another: {str(error).splitlines()[0][:200]}") from None
