"""Buckets cost as little as any choice of so few lengths can."""

from itertools import combinations

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text.buckets import BUCKET_COST, length_buckets, padding_overhead
from tests.text.tiny import random_lengths


def cost(lengths, edges) -> float:
    positions = sum(min(edge for edge in edges if edge >= length) for length in lengths)
    return positions + BUCKET_COST * len(edges) * sum(lengths)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_of_so_few_lengths_costs_less(count, seed):
    lengths = random_lengths(60, 60, seed)
    choices = [(*edges, 64) for n in range(count) for edges in combinations(range(8, 64, 8), n)]
    chosen = length_buckets(np.array(lengths), 64, count)
    assert len(chosen) <= count
    assert cost(lengths, chosen) == pytest.approx(min(cost(lengths, choice) for choice in choices))


def test_buckets_are_multiples_of_eight_up_to_the_longest_row():
    chosen = length_buckets(np.array(random_lengths(100, 90)), 512)
    assert chosen[-1] == 96
    assert all(edge % 8 == 0 for edge in chosen)


def test_no_bucket_is_longer_than_the_limit_even_when_that_is_odd():
    assert length_buckets(np.array([50, 49, 3]), 50)[-1] == 50


def test_a_length_that_saves_little_is_not_a_bucket():
    assert length_buckets(np.array([8] * 5 + [64] * 95), 64) == (64,)
    assert length_buckets(np.array([8] * 20 + [64] * 80), 64) == (8, 64)
    assert length_buckets(np.array([30, 31, 32]), 512) == (32,)


def test_overhead_counts_padding_per_token():
    lengths = np.array([4, 6, 12, 18])  # 8 + 8 + 24 + 24 positions for 40 tokens
    assert padding_overhead(lengths, (8, 24)) == pytest.approx(64 / 40 - 1)


def test_rows_longer_than_every_bucket_are_refused():
    with pytest.raises(UserError, match="longest row, 18"):
        padding_overhead(np.array([4, 18]), (8, 16))
    with pytest.raises(UserError, match="at most max_length = 16"):
        length_buckets(np.array([4, 18]), 16)
