"""Pairs of segments by the numbers: who follows whom, how often, and within which length."""

from typing import Any

import numpy as np
import pytest

from bertjax.text.corpus import Chunk
from bertjax.text.draws import PAIRS, Draws
from bertjax.text.pairs import cut_to_fit, make_pair, row_lengths

TEXT = Chunk(np.arange(100, 120, dtype=np.int32), np.array([5, 9, 20], np.int32))
SINGLE = Chunk(np.arange(100, 120, dtype=np.int32), np.array([20], np.int32))
OTHER = Chunk(np.arange(500, 540, dtype=np.int32), np.array([6, 40], np.int32))


def pairs(sentences, chunk=TEXT, room=40, count=3000) -> list[Any]:
    return [make_pair(chunk, sentences, room, Draws(0, 0, PAIRS, i), lambda draws: OTHER) for i in range(count)]


def half(labels: list) -> bool:
    return abs(np.mean(labels) - 0.5) < 4 * 0.5 / len(labels) ** 0.5


def joined(*parts) -> list[int]:
    return np.concatenate(parts).tolist()


@pytest.mark.parametrize("sentences", ["order", "order-official"])
def test_half_of_the_pairs_stand_in_the_wrong_order_and_hold_the_whole_chunk(sentences):
    found = pairs(sentences)
    assert half([pair.label for pair in found])
    for pair in found:
        parts = (pair.first, pair.second) if pair.label == 0 else (pair.second, pair.first)
        assert joined(*parts) == TEXT.ids.tolist()
    borders = [len(pair.first if pair.label == 0 else pair.second) for pair in found]
    assert set(borders) == {5, 9}
    assert half([border == 5 for border in borders])


def test_half_of_the_next_sentences_are_of_another_document():
    found = pairs("next")
    assert half([pair.label for pair in found])
    for pair in found:
        assert len(pair.first) in (5, 9)
        if pair.label == 0:
            assert joined(pair.first, pair.second) == TEXT.ids.tolist()
        else:
            assert set(pair.second.tolist()) <= set(OTHER.ids.tolist())
            assert len(pair.first) + len(pair.second) == 40


def test_a_single_sentence_has_no_order_in_the_paper_and_a_stranger_in_the_official_code():
    for pair in pairs("order", SINGLE, count=20):
        assert (pair.first.tolist(), pair.second, pair.label) == (SINGLE.ids.tolist(), None, None)
    for sentences in ("order-official", "next"):
        for pair in pairs(sentences, SINGLE, count=20):
            assert pair.label == 1
            assert pair.first.tolist() == SINGLE.ids.tolist()
            assert pair.second.tolist() == OTHER.ids[:20].tolist()


def test_without_a_question_there_is_one_segment():
    for pair in pairs("none", count=20):
        assert (pair.first.tolist(), pair.second, pair.label) == (TEXT.ids.tolist(), None, None)


@pytest.mark.parametrize("sentences", ["none", "next", "order", "order-official"])
@pytest.mark.parametrize("chunk", [TEXT, SINGLE])
def test_no_row_is_longer_than_was_said(sentences, chunk):
    lengths, counts = np.array([len(chunk.ids)], np.int32), np.array([len(chunk.ends)], np.int32)
    for room in (20, 21, 40):
        (limit,) = row_lengths(lengths, counts, sentences, room + 3).tolist()
        for pair in pairs(sentences, chunk, room, count=200):
            rest = 0 if pair.second is None else len(pair.second) + 1
            assert 0 < len(pair.first) + rest + 2 <= limit <= room + 3


@pytest.mark.parametrize(("a", "b"), [(9, 3), (3, 9), (10, 10), (2, 3), (4, 0)])
def test_the_longer_part_is_cut_first_at_either_end(a: int, b: int):
    first, second = np.arange(a, dtype=np.int32), np.arange(100, 100 + b, dtype=np.int32)
    starts = set()
    for room in range(2, a + b + 2):
        for i in range(30):
            one, two = cut_to_fit(first, second, room, Draws(i))
            assert len(one) + len(two) == min(room, a + b)
            lost = a - len(one), b - len(two)
            assert not (lost[0] and len(one) + 1 < len(two))
            assert not (lost[1] and len(two) + 1 < len(one))
            assert (np.diff(one) == 1).all()
            assert (np.diff(two) == 1).all()
            starts |= {int(part[0] - whole[0]) for part, whole in ((one, first), (two, second)) if len(part)}
    assert len(starts) > 1
