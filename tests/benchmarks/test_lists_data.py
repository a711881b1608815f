import numpy as np
import pytest
from scipy.stats import spearmanr

from bertjax.errors import UserError
from tests.benchmarks.lists_data import FIRST_CELL, FIRST_DIGIT, PAD, Lists, list_batches, rows

LISTS = Lists()
MANY = rows(LISTS, 0, np.arange(4000))


def copied(ids: list[int]) -> tuple[list[int], int]:
    """Every cell's digit by following its references, and the length of the longest chain."""
    digits, longest = [], 0
    for cell in range(len(ids)):
        followed = 0
        while ids[cell] >= FIRST_CELL:
            cell, followed = ids[cell] - FIRST_CELL, followed + 1
        digits.append(ids[cell] - FIRST_DIGIT)
        longest = max(longest, followed)
    return digits, longest


def test_labels_and_difficulty_are_what_following_the_references_gives():
    for number in range(300):
        length = MANY.attention_mask[number].sum()
        digits, longest = copied(MANY.input_ids[number, :length].tolist())
        assert MANY.labels[number, :length].tolist() == digits
        assert MANY.difficulty[number] == longest
        assert (MANY.labels[number, length:] == -100).all()
        assert (MANY.input_ids[number, length:] == PAD).all()


def test_neither_length_nor_the_number_of_references_tells_the_difficulty():
    lengths = MANY.attention_mask.sum(1)
    assert set(lengths) == set(range(LISTS.shortest, LISTS.longest + 1))
    assert ((MANY.input_ids >= FIRST_CELL).sum(1) == LISTS.references).all()
    counts = np.bincount(MANY.difficulty)[1:]
    assert len(counts) == LISTS.references
    assert counts.min() > 0.85 * counts.mean()
    assert spearmanr(lengths, MANY.difficulty).pvalue > 0.01  # pyright: ignore[reportAttributeAccessIssue]


def test_a_list_depends_on_the_seed_and_its_own_number_alone():
    chosen = np.array([2**62, 17, 3])
    some, others = rows(LISTS, 0, chosen), rows(LISTS, 1, chosen)
    for array, whole in zip(some, MANY, strict=True):
        np.testing.assert_array_equal(array[1:], whole[[17, 3]])
    assert (some.input_ids != others.input_ids).any(axis=1).all()
    assert len(np.unique(MANY.input_ids, axis=0)) == len(MANY.input_ids)


def test_batches_are_the_same_for_any_number_of_processes_and_go_on_where_they_were():
    whole = list_batches(LISTS, 8, seed=3)
    shares = [list_batches(LISTS, 8, seed=3, process_index=i, process_count=4) for i in range(4)]
    for _ in range(2):
        batch, parts = next(whole), [next(share) for share in shares]
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))
    again = list_batches(LISTS, 8, seed=3)
    again.set_state(whole.get_state())
    np.testing.assert_array_equal(next(again)["input_ids"], next(whole)["input_ids"])
    with pytest.raises(UserError, match="belongs to another lists"):
        list_batches(Lists(references=4), 8, seed=3).set_state(whole.get_state())


@pytest.mark.parametrize("sizes", [(12, 16, 0), (8, 16, 8), (16, 12, 8)])
def test_lists_that_cannot_be_are_refused(sizes):
    with pytest.raises(UserError, match="expected at least 1, fewer than the shortest list has cells"):
        Lists(*sizes)
