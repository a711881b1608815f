"""Lists to be copied in which some cells refer to others: generated inputs that differ in difficulty.

A cell holds a digit, or the number of another cell whose digit is meant. That one may refer further, never in a circle;
the answer of every cell is the digit at the end of its chain. The length of the longest chain is the difficulty of a
list: an attention step follows one reference, or from then on what the cells have found out so far, so that long chains
need several steps, one after the other. Length and number of references say nothing about it: every list has as many
references, and its longest chain is drawn evenly.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from bertjax.errors import UserError
from bertjax.text.batches import Batch, BatchIterator, EpochPlan

DIGITS = tuple("0123456789")
"""The labels."""
PAD, FIRST_DIGIT, FIRST_CELL = 0, 1, 11
"""Ids: padding, the digits, and from `FIRST_CELL` the references to cell 0, 1, ..."""


@dataclass(frozen=True)
class Lists:
    """Which lists are made."""

    shortest: int = 12
    """Cells of a list, at least."""
    longest: int = 16
    """Cells of a list, at most."""
    references: int = 8
    """Cells that refer to another; the longest chain has 1 to this many of them."""

    def __post_init__(self) -> None:
        if not 1 <= self.references < self.shortest <= self.longest:
            raise UserError(
                f"{self.references} references in lists of {self.shortest} to {self.longest} cells; expected at least "
                "1, fewer than the shortest list has cells, and the shorter length first."
            )

    @property
    def vocab_size(self) -> int:
        return FIRST_CELL + self.longest


class Rows(NamedTuple):
    """Lists, padded to the same length."""

    input_ids: Int[np.ndarray, "b l"]
    attention_mask: Int[np.ndarray, "b l"]
    labels: Int[np.ndarray, "b l"]
    """The digit at the end of a cell's chain; -100 for padding."""
    difficulty: Int[np.ndarray, "b"]
    """References in the longest chain."""


def rows(lists: Lists, seed: int, numbers: Int[np.ndarray, "b"]) -> Rows:
    """The lists of these numbers. Each depends on the seed and its own number alone.

    Cells are made in an order of their own and then shuffled: digits first, then the longest chain, then references to
    any cell that lets no chain grow longer.
    """
    width, references = lists.longest, lists.references
    # Raw bits, which NumPy promises across versions; what `% n` favours is below one in 10^17.
    raw = np.stack([np.random.Philox(key=[seed % 2**64, int(n)]).random_raw(2 + 3 * width) for n in numbers])
    length = lists.shortest + (raw[:, :1] % (width - lists.shortest + 1)).astype(np.int64)
    chain = 1 + (raw[:, 1:2] % references).astype(np.int64)
    digits, targets, order = raw[:, 2:].reshape(-1, 3, width).swapaxes(0, 1)
    made = np.arange(width)[None]
    rank = made - (length - references)  # of a reference among the references
    targets = (targets % (length - references + chain - 1).astype(np.uint64)).astype(np.int64)
    targets = np.where(rank < chain, made - 1, targets)
    answers = (digits % 10).astype(np.int64)
    for cell in range(1, width):
        meant = np.take_along_axis(answers, targets[:, cell : cell + 1], axis=1)[:, 0]
        answers[:, cell] = np.where(rank[:, cell] >= 0, meant, answers[:, cell])
    real = made < length
    places = np.argsort(np.where(real, order >> 1, 2**63), axis=1, kind="stable")
    meant = FIRST_CELL + np.take_along_axis(places, np.maximum(targets, 0), axis=1)
    ids = np.where(real, np.where(rank >= 0, meant, FIRST_DIGIT + answers), PAD)
    labels = np.where(real, answers, -100)
    shuffled = np.argsort(places, axis=1)
    ids, labels = (np.take_along_axis(array, shuffled, axis=1).astype(np.int32) for array in (ids, labels))
    return Rows(ids, (ids != PAD).astype(np.int32), labels, chain[:, 0].astype(np.int32))


def list_batches(lists: Lists, batch_size: int, *, seed: int, **position: int) -> BatchIterator:
    """Endless batches of new lists; this process gets its contiguous share of every batch."""

    def plan(number: int) -> EpochPlan:
        return EpochPlan(np.arange(number * batch_size, (number + 1) * batch_size)[None], np.zeros(1, np.int64))

    return BatchIterator(
        plan,
        lambda numbers, length, epoch: as_batch(lists, seed, numbers),
        {"lists": dataclasses.asdict(lists), "seed": seed, "batch_size": batch_size},
        batch_size=batch_size,
        steps_per_epoch=1,
        **position,
    )


def as_batch(lists: Lists, seed: int, numbers: Int[np.ndarray, "b"]) -> Batch:
    """Lists as `bertjax.text.batches` would give them."""
    made = rows(lists, seed, numbers)
    return {
        "input_ids": made.input_ids,
        "attention_mask": made.attention_mask,
        "token_type_ids": np.zeros_like(made.input_ids),
        "weights": np.ones(len(numbers), np.float32),
        "example_ids": numbers,
        "labels": made.labels,
    }
