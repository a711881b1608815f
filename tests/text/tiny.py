"""A vocabulary of a few tokens, and encoded rows made by hand, for tests that are about order and not about text."""

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bertjax.text.encode import Encoded
from bertjax.text.tasks import Kind, Task
from bertjax.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WHOLE = ["the", "cat", "sat", "on", "mat", "play", "in", "new", "york", "who", "a", ".", ",", "?"]
TOKENS = [*WHOLE, "##ing", "##ed", "##s"]


def raw_tokenizer() -> tokenizers.Tokenizer:
    """WordPiece with BERT's templates, lower-casing."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL + TOKENS)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.wrap(raw_tokenizer())


def made_up(lengths: list[int], kind: Kind = "classification", fingerprint: str = "data") -> Encoded:
    """Rows of these lengths whose ids are all different, so that an id says where it comes from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows, tokens = len(lengths), int(offsets[-1])
    random = np.random.default_rng(0)
    labels = {
        "classification": random.integers(1, 5, rows).astype(np.int32),
        "regression": random.uniform(1, 5, rows).astype(np.float32),
        "multi_label": random.integers(0, 2, (rows, 3)).astype(np.float32),
        "tokens": np.where(np.arange(tokens) % 2, np.arange(tokens) % 7, -100).astype(np.int32),
        "qa": np.stack([np.ones(rows), np.array(lengths) - 1], axis=1).astype(np.int32),
    }[kind]
    return Encoded(
        Task(kind=kind),
        example=np.arange(rows, dtype=np.int32),
        offsets=offsets.astype(np.int64),
        ids=np.arange(1, tokens + 1, dtype=np.int32),
        type_ids=(np.arange(tokens, dtype=np.int32) // 3) % 2,
        labels=labels,
        pad_id=0,
        truncated=0,
        fingerprint=fingerprint,
    )


def random_lengths(rows: int, longest: int, seed: int = 0) -> list[int]:
    """Skewed like text: many short rows, a few long ones, one of the longest."""
    drawn = np.random.default_rng(seed).geometric(0.1, rows - 1) + 2
    return [longest, *np.minimum(drawn, longest).tolist()]
