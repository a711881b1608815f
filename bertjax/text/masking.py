"""Which tokens a model has to guess, and what stands in their place.

A share of the real tokens of a row is chosen; of these, 80 % become [MASK], 10 % a random token and 10 % stay what they
are (Devlin et al. 2018, section 3.1). They are chosen one by one, by whole words, or by runs of up to three whole words
whose length n has probability proportional to 1/n (Lan et al. 2020, section 3.2): the larger the unit, the less a
token is given away by its neighbours, and the harder the task. Masks are drawn anew in every epoch, by a generator that
belongs to (seed, epoch, example).
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
"""Most words in a run."""


@dataclass(frozen=True)
class Masking:
    """What is hidden."""

    unit: Literal["tokens", "words", "ngrams"] = "ngrams"
    """Single tokens, whole words, or runs of up to three whole words."""
    rate: float = 0.15
    """Share of the real tokens that is to be guessed. 0 leaves the text as it is, for a teacher to speak of."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UserError(f"--masking.rate={self.rate}: expected a share of the tokens, 0.15 for one")

    def most(self, tokens: int) -> int:
        """The most that can be chosen of so many tokens."""
        return int(self.rate * tokens) + 1


class MaskVocabulary(NamedTuple):
    """What masking has to know of a vocabulary, by id."""

    special: Bool[np.ndarray, "v"]
    """[CLS], [SEP], [PAD], [UNK], [MASK]: never chosen, never put in the place of others."""
    continues: Bool[np.ndarray, "v"]
    """Belongs to the word before it (##ing)."""
    ordinary: Int[np.ndarray, "n"]
    """All others that there are."""
    mask_id: int


class Masked(NamedTuple):
    """A row with the places to guess, from left to right, and what stood there."""

    ids: Int[np.ndarray, "l"]
    positions: Int[np.ndarray, "m"]
    labels: Int[np.ndarray, "m"]


def mask_vocabulary(tokenizer: Tokenizer, masking: Masking) -> MaskVocabulary:
    """A tokenizer's vocabulary, as this masking sees it.

    Raises:
      UserError: It has no [MASK], or does not say where words begin and whole words are to be hidden.
    """
    if tokenizer.mask_id is None:
        raise UserError("this model's vocabulary has no [MASK], so its words cannot be hidden; take another model.")
    vocabulary = tokenizer.vocabulary
    special, continues, there = np.zeros((3, tokenizer.vocab_size), bool)
    special[[tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]] = True
    there[list(vocabulary.values())] = True
    if masking.unit != "tokens":
        goes_on = inside_words(tokenizer, masking.unit)
        continues[[number for token, number in vocabulary.items() if goes_on(token)]] = True
        continues &= ~special
    return MaskVocabulary(special, continues, np.flatnonzero(there & ~special), tokenizer.mask_id)


def inside_words(tokenizer: Tokenizer, unit: str) -> Callable[[str], bool]:
    """Whether a token belongs to the word before it. WordPiece marks those, SentencePiece all others; there, a token
    without a letter or figure is a word of its own, as punctuation is in WordPiece (the authors of ALBERT do the same).
    """
    model = json.loads(tokenizer.to_json())["model"]
    if model.get("type") == "WordPiece":
        return lambda token: token.startswith(model["continuing_subword_prefix"])
    if model.get("type") == "Unigram":
        return lambda token: not token.startswith("\u2581") and any(letter.isalnum() for letter in token)
    raise UserError(
        f"--masking.unit={unit}: the tokenizer is of type {model.get('type')}, of which it is not known where words "
        "begin; give --masking.unit=tokens."
    )


def mask(ids: Int[np.ndarray, "l"], vocabulary: MaskVocabulary, masking: Masking, draws: Draws) -> Masked:
    """A row with some of its tokens hidden.

    Their number is `rate` times the real tokens, rounded up or down at random so that it is right on average. Larger
    units may leave the last few of it unused, because a unit that would exceed it is made smaller or passed over.
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
    """First token and end of every word. Where text was cut within a word, its rest counts as one."""
    after_special = np.concatenate([[True], special[:-1]])
    starts = ~special & (~continues | after_special)
    edges = np.append(np.flatnonzero(starts | special), len(special))
    firsts = np.flatnonzero(starts)
    return np.stack([firsts, edges[np.searchsorted(edges, firsts) + 1]], axis=1)


def choose_runs(
    words: Int[np.ndarray, "words 2"], parts: Int[np.ndarray, "words"], budget: int, longest: int, draws: Draws
) -> list[tuple[int, int]]:
    """Runs of words (first, last) in the order in which they were drawn, of at most `budget` tokens together.

    A run begins at a random word and does not leave its part of the row. Its length is drawn from p(n) ~ 1/n over what
    is possible there; it loses words at its end until it is within the budget, and is dropped where it would overlap
    another.
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
    """A length from 1 to `longest` with p(n) ~ 1/n, from a uniform number."""
    weights = [1 / n for n in range(1, longest + 1)]
    return 1 + sum(u * sum(weights) >= below for below in accumulate(weights[:-1]))


def replaced(
    ids: Int[np.ndarray, "l"], positions: Int[np.ndarray, "m"], vocabulary: MaskVocabulary, draws: Draws
) -> Int[np.ndarray, "l"]:
    """The row with [MASK] (80 %), a random token (10 %) or the token itself (10 %) at these positions."""
    fate, which = draws(len(positions)), draws(len(positions))
    strangers = vocabulary.ordinary[(which * len(vocabulary.ordinary)).astype(np.int64)]
    hidden = ids.copy()
    hidden[positions] = np.where(fate < 0.8, vocabulary.mask_id, np.where(fate < 0.9, strangers, ids[positions]))
    return hidden
