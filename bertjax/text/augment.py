"""Data augmentation for distillation: copies of an example in which some words are replaced by likely substitutes
(TinyBERT, Jiao et al. 2020, algorithm 1).

A word of one token is replaced by a prediction of a masked language model, which reads the masked text and the original
as a pair. A word of several tokens is replaced by one of its nearest neighbours in embedding space. Copies keep the
label, which may become wrong ("dull" may become "great"); they are useful because the teacher labels each copy itself.
Differences from the published code:

  * Its neighbours come from GloVe, a download of a gigabyte. Here they come from the model's own word embeddings: the
    vector of a word is the mean of its tokens' vectors. Candidates are the tokens that are whole words, and the words
    of several tokens that occur at least twice in the data. A word's own tokens are excluded: they are always among the
    nearest, and are fragments without a meaning ("und" for "undemanding").
  * Words are replaced within the original text, so that its spaces, capitals and punctuation survive.
  * Special tokens are not candidates. In a pair, only the text being copied changes. (In the published code, copies of
    the second text are paired with the last copy of the first one.)
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from bertjax.errors import UserError
from bertjax.text.draws import Draws
from bertjax.text.tokenizer import Tokenizer

GlueTask = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
COPIES: dict[str, int] = {
    "cola": 30,
    "sst2": 20,
    "mrpc": 30,
    "stsb": 30,
    "qqp": 10,
    "mnli": 10,
    "qnli": 20,
    "rte": 30,
}
"""Copies that TinyBERT's code makes of each text, by task."""
STOPS = """
a about above after again against ain all am an and any are aren as at be because been before being below
between both but by can couldn d did didn do does doesn doing don down during each few for from further had hadn
has hasn have haven having he her here hers herself him himself his i if in into is isn it its itself just ll m
ma me mightn more most mustn my myself needn no nor not now o of off on once only or other our ours ourselves
out over own re s same shan she should shouldn so some such t than that the their theirs them themselves then
there these they this those through to too under until up ve very was wasn we were weren while will with won
wouldn y you your yours yourself yourselves
"""
STOP_WORDS = frozenset(STOPS.split())
"""English function words, which are never replaced."""
LETTERS = re.compile(r"[a-z]+", re.IGNORECASE)
MIN_COUNT = 2
"""Occurrences from which a word of several tokens is a candidate."""
BLOCK = 256
"""Words whose neighbours are computed together."""


class Word(NamedTuple):
    """A word that may be replaced: its spelling by the tokenizer, its characters in the text, the column of its first
    token ([CLS] has column 0), and its tokens."""

    name: str
    start: int
    end: int
    place: int
    tokens: tuple[int, ...]


class TokenizedText(NamedTuple):
    """A text as tokens, with [CLS] and [SEP], and its words that may be replaced."""

    ids: list[int]
    words: list[Word]


def token_strings(tokenizer: Tokenizer) -> list[str]:
    """Every token, by id."""
    names = [""] * (max(tokenizer.vocabulary.values()) + 1)
    for token, number in tokenizer.vocabulary.items():
        names[number] = token
    if json.loads(tokenizer.to_json())["model"].get("type") != "WordPiece":
        raise UserError(
            "the model's tokenizer is not WordPiece, which marks tokens inside a word with ##. Word substitution needs "
            "such a tokenizer: use a BERT or DistilBERT."
        )
    return names


def read_texts(texts: Sequence[str], tokenizer: Tokenizer, names: Sequence[str]) -> list[TokenizedText]:
    """Texts with their words that may be replaced: those of the letters a to z alone that are not stop words."""
    tokens = tokenizer.encode(texts)
    assert tokens.offsets is not None
    assert tokens.word_ids is not None
    return [
        TokenizedText(ids, words_of(ids, offsets, word_ids, names))
        for ids, offsets, word_ids in zip(tokens.ids, tokens.offsets, tokens.word_ids, strict=True)
    ]


def words_of(
    ids: list[int], offsets: list[tuple[int, int]], word_ids: list[int | None], names: Sequence[str]
) -> list[Word]:
    """The words of a text that may be replaced."""
    words = []
    for number, columns in groupby(range(len(ids)), key=word_ids.__getitem__):
        if number is None:
            continue
        columns = list(columns)
        name = "".join(names[ids[column]].removeprefix("##") for column in columns)
        if LETTERS.fullmatch(name) and name.lower() not in STOP_WORDS:
            tokens = tuple(ids[column] for column in columns)
            words.append(Word(name, offsets[columns[0]][0], offsets[columns[-1]][1], columns[0], tokens))
    return words


def masked_pair(ids: list[int], place: int, mask_id: int, limit: int) -> tuple[list[int], list[int]]:
    """Ids and token types of the masked language model's input: the text with one word masked, then the original text
    as the second segment. The end beyond `limit` tokens is cut."""
    row = [*ids[:place], mask_id, *ids[place + 1 :], *ids[1:]]
    return row[:limit], ([0] * len(ids) + [1] * (len(ids) - 1))[:limit]


def substituted(
    text: str,
    words: Sequence[Word],
    candidates: Sequence[Sequence[str]],
    copies: int,
    probability: float,
    draws: Draws,
) -> list[str]:
    """At most `copies` texts that differ from the original and from each other. In each copy, every word is replaced
    with this probability by one of its candidates, drawn uniformly; a candidate may be the word itself."""
    numbers = draws(2 * copies * len(words)).reshape(copies, len(words), 2)
    variants = {text: None}
    for chances in numbers.tolist():
        parts, end = [], 0
        for word, choices, (chance, which) in zip(words, candidates, chances, strict=True):
            if chance < probability and choices:
                new = choices[int(which * len(choices))]
                if new != word.name:
                    parts += [text[end : word.start], cased_like(text[word.start : word.end], new)]
                    end = word.end
        variants.setdefault("".join([*parts, text[end:]]))
    return list(variants)[1:]


def cased_like(old: str, new: str) -> str:
    """The new word, in title case if the old one is."""
    return new.title() if old.istitle() else new


def neighbours(
    queries: Mapping[str, tuple[int, ...]],
    seen: Mapping[str, int],
    table: Float[np.ndarray, "v d"],
    names: Sequence[str],
    count: int,
) -> dict[str, list[str]]:
    """For every word in `queries`, given with its tokens, the `count` nearest words by cosine similarity, the nearest
    first.

    `seen` counts the occurrences of each word. Words of several tokens that occur only once are not candidates, because
    they are mostly misspelt.
    """
    known = {name: (number,) for number, name in enumerate(names) if LETTERS.fullmatch(name) and len(name) > 1}
    known |= {word: tokens for word, tokens in queries.items() if len(tokens) > 1 and seen[word] >= MIN_COUNT}
    candidates, place = list(known), {name: i for i, name in enumerate(known)}
    targets = vectors(list(known.values()), table)
    nearest: dict[str, list[str]] = {}
    words = list(queries)
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        alike = vectors([queries[word] for word in block], table) @ targets.T
        for row, word in zip(alike, block, strict=True):
            own = (word, *(names[token] for token in queries[word]))
            row[[place[name] for name in own if name in place]] = -np.inf
            best = np.argpartition(-row, min(count, len(row) - 1))[:count]
            order = best[np.lexsort((best, -row[best]))]
            nearest[word] = [candidates[i] for i in order if row[i] > -np.inf]
    return nearest


def vectors(words: Sequence[tuple[int, ...]], table: Float[np.ndarray, "v d"]) -> Float[np.ndarray, "words d"]:
    """The mean embedding of each word's tokens, normalised to length 1."""
    sizes = np.array([len(tokens) for tokens in words])
    rows = table[np.concatenate(words).astype(np.int64)]
    sums = np.add.reduceat(rows, np.concatenate([[0], np.cumsum(sizes)[:-1]]), axis=0)
    return sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12)
