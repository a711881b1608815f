"""Masking for masked language modelling: which tokens are predicted, and what replaces them.

A share of the real tokens of a row is chosen; of these, 80 % become [MASK], 10 % a random token, and 10 % stay (Devlin
et al. 2018, section 3.1). They are chosen one by one, by whole words, or by n-grams of up to three whole words whose
length n has probability proportional to 1/n (Lan et al. 2020, section 3.2). The larger the unit, the less its
neighbours reveal of a token, and the harder the task. Masks are drawn anew in every epoch, from a generator keyed by
(seed, epoch, example).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bertjax.errors import UserError
from bertjax.text.draws import Draws
from bertjax.text.tokenizer import Tokenizer

LONGEST = {"words": 1, "ngrams": 3}
"""Most words in an n-gram, by unit."""


@dataclass(frozen=True)
class Masking:
    """How masked tokens are chosen."""

    unit: Literal["tokens", "words", "ngrams"] = "ngrams"
    """Single tokens, whole words, or n-grams of up to three whole words."""
    rate: float = 0.15
    """Share of the real tokens that are predicted. 0 leaves the text unmasked, for distillation without the MLM
    loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UserError(
                f"--masking.rate={self.rate}: expected the share of tokens to predict, from 0 to below 1 (0.15 in BERT)"
            )

    def most(self, tokens: int) -> int:
        """The most tokens that can be chosen in a row of `tokens` tokens."""
        return int(self.rate * tokens) + 1


class MaskVocabulary(NamedTuple):
    """The properties of a vocabulary that masking needs, by token id."""

    special: Bool[np.ndarray, "v"]
    """[CLS], [SEP], [PAD], [UNK], [MASK]: never chosen, and never a random replacement."""
    continues: Bool[np.ndarray, "v"]
    """Whether the token belongs to the word before it (##ing)."""
    ordinary: Int[np.ndarray, "n"]
    """The ids of all other existing tokens."""
    mask_id: int


class Masked(NamedTuple):
    """A masked row: its ids, the positions to predict from left to right, and the original ids there."""

    ids: Int[np.ndarray, "l"]
    positions: Int[np.ndarray, "m"]
    labels: Int[np.ndarray, "m"]


def mask_vocabulary(tokenizer: Tokenizer, masking: Masking) -> MaskVocabulary:
    """The vocabulary of a tokenizer for this masking.

    Raises:
      UserError: It has no [MASK], or whole words are to be masked and it does not mark where words begin.
    """
    if tokenizer.mask_id is None:
        raise UserError(
            "the model's vocabulary has no [MASK], which masked language modelling needs; use another model."
        )
    vocabulary = tokenizer.vocabulary
    special, continues, exists = np.zeros((3, tokenizer.vocab_size), bool)
    special[[tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]] = True
    exists[list(vocabulary.values())] = True
    if masking.unit != "tokens":
        continues_word = inside_words(tokenizer, masking.unit)
        continues[[number for token, number in vocabulary.items() if continues_word(token)]] = True
        continues &= ~special
    return MaskVocabulary(special, continues, np.flatnonzero(exists & ~special), tokenizer.mask_id)


def inside_words(tokenizer: Tokenizer, unit: str) -> Callable[[str], bool]:
    """A function that tells whether a token belongs to the word before it.

    WordPiece marks these tokens, SentencePiece and byte-level BPE all others. With those, a token without a letter or
    digit is a word of its own, as punctuation is in WordPiece (the code of ALBERT does the same). A byte beyond ASCII
    counts as a letter, because it is only a part of a character.
    """
    parts = json.loads(tokenizer.to_json())
    model, byte_level = parts["model"], '"ByteLevel"' in json.dumps(parts["pre_tokenizer"])
    if model.get("type") == "WordPiece":
        return lambda token: token.startswith(model["continuing_subword_prefix"])
    if model.get("type") == "Unigram":
        return lambda token: not token.startswith("\u2581") and any(letter.isalnum() for letter in token)
    if byte_level:  # \u0120 is the space, and what is printable in ASCII stands for itself.
        return lambda token: token[0] != "\u0120" and any(letter.isalnum() or letter > "~" for letter in token)
    raise UserError(
        f"--masking.unit={unit}: the tokenizer is of type {model.get('type')}, which does not mark where words begin; "
        "use --masking.unit=tokens."
    )


def mask(ids: Int[np.ndarray, "l"], vocabulary: MaskVocabulary, masking: Masking, draws: Draws) -> Masked:
    """A row with some of its tokens masked.

    Their number is `rate` times the number of real tokens, rounded up or down at random so that it is right on average.
    With larger units it may be a few less, because a unit that would exceed it is shortened or skipped.
    """
    special = vocabulary.special[ids]
    real = np.flatnonzero(~special)
    budget = int(masking.rate * len(real) + draws(1)[0])
    if masking.unit == "tokens":
        positions = np.sort(real[draws.order(len(real))[:budget]])
    else:
        words = word_ranges(special, vocabulary.continues[ids])
        runs = choose_runs(words, np.cumsum(special)[words[:, 0]], budget, LONGEST[masking.unit], draws)
        chosen = [np.arange(words[first, 0], words[last, 1]) for first, last in runs]
        positions = np.sort(np.concatenate([real[:0], *chosen]))
    labels = ids[positions]
    return Masked(replaced(ids, positions, vocabulary, draws), positions, labels)


def word_ranges(special: Bool[np.ndarray, "l"], continues: Bool[np.ndarray, "l"]) -> Int[np.ndarray, "words 2"]:
    """First token and end of every word. Where the text was cut within a word, the rest of that word counts as one."""
    after_special = np.concatenate([[True], special[:-1]])
    starts = ~special & (~continues | after_special)
    edges = np.append(np.flatnonzero(starts | special), len(special))
    firsts = np.flatnonzero(starts)
    return np.stack([firsts, edges[np.searchsorted(edges, firsts) + 1]], axis=1)


def choose_runs(
    words: Int[np.ndarray, "words 2"], parts: Int[np.ndarray, "words"], budget: int, longest: int, draws: Draws
) -> list[tuple[int, int]]:
    """Runs of words (first, last) in the order in which they were drawn, of at most `budget` tokens together.

    A run begins at a random word and stays within its segment of the row (`parts`). Its length is drawn from p(n) ~ 1/n
    over the lengths possible there. It loses words at its end until it is within the budget, and is dropped if it would
    overlap another run.
    """
    taken, runs = np.zeros(len(words), bool), []
    ends = np.searchsorted(parts, parts, side="right")
    for first, u in zip(draws.order(len(words)).tolist(), draws(len(words)).tolist(), strict=True):
        if budget == 0:
            break
        last = first + run_length(min(longest, int(ends[first]) - first), u) - 1
        while last >= first and words[last, 1] - words[first, 0] > budget:
            last -= 1
        if last >= first and not taken[first : last + 1].any():
            taken[first : last + 1] = True
            budget -= int(words[last, 1] - words[first, 0])
            runs.append((first, last))
    return runs


def run_length(longest: int, u: float) -> int:
    """A length from 1 to `longest` with p(n) ~ 1/n, from a number uniform in [0, 1)."""
    weights = [1 / n for n in range(1, longest + 1)]
    return 1 + sum(u * sum(weights) >= below for below in accumulate(weights[:-1]))


def replaced(
    ids: Int[np.ndarray, "l"], positions: Int[np.ndarray, "m"], vocabulary: MaskVocabulary, draws: Draws
) -> Int[np.ndarray, "l"]:
    """The row with [MASK] (80 %), a random token (10 %) or the original token (10 %) at these positions."""
    choice, which = draws(len(positions)), draws(len(positions))
    random_tokens = vocabulary.ordinary[(which * len(vocabulary.ordinary)).astype(np.int64)]
    hidden = ids.copy()
    hidden[positions] = np.where(
        choice < 0.8, vocabulary.mask_id, np.where(choice < 0.9, random_tokens, ids[positions])
    )
    return hidden
