"""Masks by the numbers: what is chosen, how often, and what stands in its place, over 1e5 tokens."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from bertjax.errors import UserError
from bertjax.text.draws import MASKS, Draws
from bertjax.text.masking import (
    LONGEST,
    Masking,
    MaskVocabulary,
    choose_runs,
    mask,
    mask_vocabulary,
    run_length,
    word_ranges,
)
from bertjax.text.tokenizer import Tokenizer
from tests.text.tiny import SPECIAL, tiny_tokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
V = 200
# Ids from 150 on continue a word.
TOKENS = MaskVocabulary(np.arange(V) < 5, np.arange(V) >= 150, np.arange(5, V), MASK)
UNITS = ("tokens", "words", "ngrams")


def row(rng: np.random.Generator, length: int) -> np.ndarray:
    """[CLS] a [SEP] b [SEP], with an [UNK] in it; one token in four continues a word."""
    ids = rng.integers(5, V, length).astype(np.int32)
    ids[0], ids[length // 2], ids[-1], ids[3] = CLS, SEP, SEP, UNK
    return ids


def rows(tokens: int = 100_000, length: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [row(rng, length) for _ in range(tokens // length + 1)]


def masked_rows(unit, texts: list[np.ndarray], seed: int = 0):
    return [mask(ids, TOKENS, Masking(unit), Draws(seed, 0, MASKS, number)) for number, ids in enumerate(texts)]


def within(share: float, expected: float, count: float, errors: float = 4.5) -> bool:
    """Whether a share of `count` independent draws is as expected, up to so many standard errors."""
    return abs(share - expected) < errors * (expected * (1 - expected) / count) ** 0.5


@pytest.mark.parametrize("unit", UNITS)
def test_special_tokens_are_never_chosen_and_never_put_in(unit):
    texts = rows()
    for ids, found in zip(texts, masked_rows(unit, texts), strict=True):
        assert not TOKENS.special[found.labels].any()
        np.testing.assert_array_equal(found.labels, ids[found.positions])
        assert set(found.ids[found.positions][TOKENS.special[found.ids[found.positions]]]) <= {MASK}
        untouched = np.delete(np.arange(len(ids)), found.positions)
        np.testing.assert_array_equal(found.ids[untouched], ids[untouched])
        assert (np.diff(found.positions) > 0).all()
        assert len(found.positions) <= Masking(unit).most(len(ids))


def test_single_tokens_are_chosen_at_the_rate_whatever_the_length():
    for length in (8, 23, 128):
        texts = rows(40_000, length)
        real = sum(int((~TOKENS.special[ids]).sum()) for ids in texts)
        chosen = sum(len(found.positions) for found in masked_rows("tokens", texts))
        assert within(chosen / real, 0.15, real)


def test_every_real_position_is_chosen_equally_often():
    texts = rows(200_000)
    hits = np.zeros(128)
    for found in masked_rows("tokens", texts):
        hits[found.positions] += 1
    real = np.delete(np.arange(128), [0, 3, 64, 127])
    assert all(within(hits[position] / len(texts), 0.15, len(texts)) for position in real)


@pytest.mark.parametrize("unit", UNITS)
def test_eighty_of_a_hundred_become_mask_ten_a_random_token_ten_stay(unit):
    texts = rows(100_000)
    fates, strangers = Counter(), Counter()
    for found in masked_rows(unit, texts):
        now = found.ids[found.positions]
        fates["mask"] += int((now == MASK).sum())
        fates["same"] += int((now == found.labels).sum())
        other = now[(now != MASK) & (now != found.labels)]
        fates["other"] += len(other)
        strangers.update(other.tolist())
    total, hit = sum(fates.values()), 0.1 / len(TOKENS.ordinary)  # a random token may be the right one
    assert total > 14_000
    assert within(fates["mask"] / total, 0.8, total)
    assert within(fates["same"] / total, 0.1 + hit, total)
    assert within(fates["other"] / total, 0.1 - hit, total)
    assert strangers.keys() == set(TOKENS.ordinary.tolist())


@pytest.mark.parametrize("unit", ["words", "ngrams"])
def test_words_are_chosen_whole_and_use_nearly_all_of_the_rate(unit):
    texts = rows()
    chosen = real = 0
    for ids, found in zip(texts, masked_rows(unit, texts), strict=True):
        taken = np.isin(np.arange(len(ids)), found.positions)
        for first, end in word_ranges(TOKENS.special[ids], TOKENS.continues[ids]):
            assert taken[first:end].all() or not taken[first:end].any()
        chosen, real = chosen + taken.sum(), real + (~TOKENS.special[ids]).sum()
    assert 0.147 < chosen / real <= 0.1515


def test_words_are_what_whitespace_made_and_end_at_special_tokens():
    ids = np.array([CLS, 150, 10, 151, 152, 11, SEP, 160, 161, SEP])
    ranges = word_ranges(TOKENS.special[ids], TOKENS.continues[ids])
    assert ranges.tolist() == [[1, 2], [2, 5], [5, 6], [7, 9]]


def test_lengths_of_runs_have_probabilities_like_one_over_n():
    u = ((np.arange(11_000) + 0.5) / 11_000).tolist()
    assert Counter(run_length(3, x) for x in u) == {1: 6_000, 2: 3_000, 3: 2_000}
    assert Counter(run_length(1, x) for x in u) == {1: 11_000}
    # The first run of a row meets no other run and, with this budget, no limit.
    words, parts = np.stack([np.arange(40), np.arange(40) + 1], axis=1), np.zeros(40, np.int64)
    first = [choose_runs(words, parts, 3, 3, Draws(7, 0, MASKS, number))[0] for number in range(5_000)]
    inner = [last - start + 1 for start, last in first if start < 38]
    lengths = Counter(inner)
    assert all(within(lengths[n] / len(inner), p / 11, len(inner)) for n, p in ((1, 6), (2, 3), (3, 2)))


def reference_runs(words: list[tuple[int, int]], parts: list[int], budget: int, rng: random.Random) -> list[int]:
    """Masking as section 3.2 of Lan et al. (2020) and the authors' script describe it, read once more and written in
    plain Python: the number of words of every run that is masked."""
    covered: set[int] = set()
    lengths, used = [], 0
    for start in rng.sample(range(len(words)), len(words)):
        possible = [n for n in (1, 2, 3) if start + n <= len(words) and parts[start + n - 1] == parts[start]]
        n = rng.choices(possible, [1 / n for n in possible])[0]
        while n > 0:
            tokens = words[start + n - 1][1] - words[start][0]
            if used + tokens <= budget:
                break
            n -= 1
        span = set(range(start, start + n))
        if n > 0 and not span & covered:
            covered |= span
            used += tokens
            lengths.append(n)
    return lengths


def test_masked_runs_are_distributed_as_in_a_plain_reading_of_the_paper():
    rng, ours, theirs = random.Random(0), Counter(), Counter()
    for number, ids in enumerate(rows()):
        special = TOKENS.special[ids]
        words = word_ranges(special, TOKENS.continues[ids])
        parts = np.cumsum(special)[words[:, 0]]
        budget = round(0.15 * int((~special).sum()))
        runs = choose_runs(words, parts, budget, LONGEST["ngrams"], Draws(1, 0, MASKS, number))
        ours.update(last - first + 1 for first, last in runs)
        theirs.update(reference_runs([(a, b) for a, b in words.tolist()], parts.tolist(), budget, rng))
    for n in (1, 2, 3):
        shares = ours[n] / ours.total(), theirs[n] / theirs.total()
        assert within(shares[0], shares[1], min(ours.total(), theirs.total()) / 2)
    assert abs(ours.total() / theirs.total() - 1) < 0.01


def test_masks_depend_on_seed_epoch_and_example_alone():
    ids = row(np.random.default_rng(1), 64)

    def drawn(*key):
        return mask(ids, TOKENS, Masking(), Draws(*key)).ids.tolist()

    assert drawn(0, 1, MASKS, 2) == drawn(0, 1, MASKS, 2)
    assert (
        len({str(drawn(*key)) for key in ((0, 1, MASKS, 2), (1, 1, MASKS, 2), (0, 2, MASKS, 2), (0, 1, MASKS, 3))}) == 4
    )


def test_the_masks_of_a_seed_are_the_same_everywhere():
    """Written down once: a change would silently alter the rest of every interrupted run."""
    found = mask(np.array([CLS, *range(10, 30), SEP]), TOKENS, Masking(rate=0.3), Draws(5, 1, MASKS, 9))
    assert (found.positions.tolist(), found.ids[found.positions].tolist()) == ([1, 2, 3, 6, 7, 13], [4, 4, 4, 4, 4, 22])


def test_a_row_of_special_tokens_alone_has_nothing_to_predict():
    for unit in UNITS:
        assert len(mask(np.array([CLS, SEP]), TOKENS, Masking(unit), Draws(0)).positions) == 0


def test_the_vocabulary_says_what_is_special_and_what_goes_on():
    tokenizer = tiny_tokenizer()
    vocabulary = mask_vocabulary(tokenizer, Masking())
    assert np.flatnonzero(vocabulary.special).tolist() == list(range(len(SPECIAL)))
    assert {token for token, number in tokenizer.vocabulary.items() if vocabulary.continues[number]} == {
        "##ing",
        "##ed",
        "##s",
    }


def test_words_of_sentencepiece_begin_where_it_says():
    """A published ALBERT marks the first token of a word, and punctuation has no mark."""
    names = [*SPECIAL, "\u2581the", "\u2581un", "believ", "able", "\u2581", "1980", "s", ".", "'"]
    backend = tokenizers.Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=1))
    backend.add_special_tokens(SPECIAL)
    vocabulary = mask_vocabulary(Tokenizer.wrap(backend), Masking("words"))
    assert [names[i] for i in np.flatnonzero(vocabulary.continues)] == ["believ", "able", "1980", "s"]


def test_of_other_vocabularies_single_tokens_are_hidden_alone():
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate([*SPECIAL, "a", "b"])}, []))
    backend.add_special_tokens(SPECIAL)
    tokenizer = Tokenizer.wrap(backend)
    with pytest.raises(UserError, match=r"--masking\.unit=ngrams: the tokenizer is of type BPE"):
        mask_vocabulary(tokenizer, Masking())
    assert mask_vocabulary(tokenizer, Masking("tokens")).ordinary.tolist() == [5, 6]


def test_an_id_without_a_token_is_never_put_in(tmp_path: Path):
    """vocab.txt with a line that stands twice: the later one counts, and the earlier id has no token."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "the", "film", "the", "##s"]) + "\n")
    vocabulary = mask_vocabulary(Tokenizer.from_folder(tmp_path), Masking())
    assert vocabulary.ordinary.tolist() == [6, 7, 8]
    assert np.flatnonzero(vocabulary.continues).tolist() == [8]


def test_an_impossible_rate_is_refused():
    with pytest.raises(UserError, match=r"masking\.rate=15"):
        Masking(rate=15.0)
