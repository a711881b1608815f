"""Segment pairs for the sentence objectives of pre-training.

    next            next-sentence prediction: is the second segment the continuation, or from another document? (Devlin
                    et al. 2018)
    order           sentence-order prediction: the segments are consecutive; are they swapped? (Lan et al. 2020)
    order-official  as order, but where a chunk is a single sentence, the published code takes the second segment from
                    another document and labels the pair as swapped: part of the task is `next` after all
    none            no sentence objective, and one segment

`order` follows the paper: a chunk of one sentence has no order, so it stays one segment and does not count in that
loss. The border between the segments is drawn anew in every epoch, from all borders between sentences.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from bertjax.text.corpus import Chunk
from bertjax.text.draws import Draws

Sentences = Literal["none", "next", "order", "order-official"]


class Pair(NamedTuple):
    """Two segments without special tokens. `label` is 0 for consecutive segments in their order, 1 where the second
    segment is from another document or the two are swapped, and None where there is no sentence objective."""

    first: Int32[np.ndarray, "a"]
    second: Int32[np.ndarray, "b"] | None
    label: int | None


def make_pair(
    chunk: Chunk, sentences: Sentences, room: int, draws: Draws, other_chunk: Callable[[Draws], Chunk]
) -> Pair:
    """The segments of one chunk, together at most `room` tokens; `other_chunk` draws a chunk of another document."""
    single = len(chunk.ends) == 1
    if sentences == "none" or (single and sentences == "order"):
        return Pair(chunk.ids, None, None)
    border = int(chunk.ends[-1 if single else draws.below(len(chunk.ends) - 1)])
    first, second = chunk.ids[:border], chunk.ids[border:]
    wrong = draws.chance(0.5)
    if single or (wrong and sentences == "next"):
        other = other_chunk(draws)
        # As in BERT's script: enough sentences to fill the row, at least one.
        enough = max(room - border, int(other.ends[0]))
        return Pair(*cut_to_fit(first, other.ids[:enough], room, draws), 1)
    return Pair(second, first, 1) if wrong and sentences != "next" else Pair(first, second, 0)


def cut_to_fit(
    first: Int32[np.ndarray, "_"], second: Int32[np.ndarray, "_"], room: int, draws: Draws
) -> tuple[Int32[np.ndarray, "_"], Int32[np.ndarray, "_"]]:
    """The longer of the two loses tokens, at its beginning or its end at random, until both fit."""
    spare = max(0, len(first) + len(second) - room)
    longer = max(0, len(first) - len(second)), max(0, len(second) - len(first))
    loses = [min(spare, ahead) + (spare - min(spare, max(longer)) + side) // 2 for side, ahead in enumerate(longer)]
    kept = []
    for part, lost in zip((first, second), loses, strict=True):
        front = int((draws(lost) < 0.5).sum())
        kept.append(part[front : len(part) - lost + front])
    return kept[0], kept[1]


def row_lengths(
    lengths: Int32[np.ndarray, "chunks"], counts: Int32[np.ndarray, "chunks"], sentences: Sentences, max_length: int
) -> Int32[np.ndarray, "chunks"]:
    """The most tokens that the row of each chunk can have, with [CLS] and [SEP]; `counts` are the sentences of each
    chunk."""
    single = counts == 1
    if sentences == "next":
        return np.full_like(lengths, max_length)
    if sentences == "order-official":
        return np.where(single, np.int32(max_length), lengths + np.int32(3))
    return lengths + np.where(single | (sentences == "none"), np.int32(2), np.int32(3))
