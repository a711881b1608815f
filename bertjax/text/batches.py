"""Encoded rows -> batches of static shapes, in an order that can be resumed anywhere.

Rows of similar length share a batch, padded to one of a few lengths ("buckets"). Padding everything to the maximum
would mostly compute padding, while every further length costs one more compilation of the step. The order is a pure
function of (seed, epoch), so batch k is computed without the batches before it: resuming means setting a number, any
number of processes sees the same global batches, and Grain's threads may run ahead of the accelerator. The price of
buckets is that a batch is no uniform sample: its rows are alike in length, though which rows share it changes every
epoch.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from bertjax.errors import UserError
from bertjax.text.buckets import bucket_of
from bertjax.text.draws import Draws
from bertjax.text.encode import NO_LABEL, Encoded

Batch = dict[str, np.ndarray]
Inputs = tuple[Int[np.ndarray, "_ _"], Int[np.ndarray, "_ _"], Int[np.ndarray, "_ _"]]
"""Ids, attention mask and token types of one batch, as a model takes them; each of shape (rows, length)."""
PLACES = ("position_ids", "segment_ids", "cls_positions", "masked_positions")
_ENDLESS = 2**62


class EpochPlan(NamedTuple):
    """The batches of one epoch: the rows of each (-1 = filler), and the length it is padded to. Packed batches have
    several rows in each line."""

    rows: Int[np.ndarray, "batches batch ..."]
    lengths: Int[np.ndarray, "batches"]


def inputs_of(batch: Mapping[str, Any]) -> Any:
    """The `Inputs` of a batch, as NumPy arrays, or as traced arrays inside a step."""
    return batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]


def places_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The further model inputs of a batch that is packed or has masked tokens (`PLACES`); empty for a plain batch."""
    return {name: batch[name] for name in PLACES if name in batch}


def steps_per_epoch(encoded: Encoded, batch_size: int) -> int:
    """Batches per epoch, in which every row appears once; the same in every epoch."""
    return -(-len(encoded) // batch_size)


class BatchIterator(Iterator[Batch]):
    """Batches by number, made ahead of time in threads; its position is a small dict of plain values.

    `plan(epoch)` gives the batches of an epoch, the same number in each, and `lay_out(rows, length, epoch)` the arrays
    of one batch. Both must depend on their arguments alone, because batch k is made without the batches before it.
    `identity` is what the order depends on (data, seed, sizes). It is part of the state, and a state with another
    identity is refused.

    Batches are endless, or for `epochs` (a fraction of one is rounded to whole batches), and begin with number `start`.
    `batch_size` counts the rows of all processes together; this process gets its contiguous share of every batch.
    """

    def __init__(
        self,
        plan: Callable[[int], EpochPlan],
        lay_out: Callable[[np.ndarray, int, int], Batch],
        identity: dict[str, Any],
        *,
        batch_size: int,
        steps_per_epoch: int,
        epochs: int | float | None = None,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 2,
    ):
        import grain  # takes two seconds, because it imports jax

        self.steps_per_epoch = steps_per_epoch
        self._plan = lru_cache(maxsize=2)(plan)  # around the end of an epoch, threads make batches of both
        self._lay_out, self._identity = lay_out, identity
        self._share = process_share(batch_size, process_index, process_count)
        total = _ENDLESS if epochs is None else max(1, round(epochs * steps_per_epoch))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
        self._batches = iter(grain.MapDataset.range(total).map(self._make).to_iter_dataset(options))
        self._batches.set_state({"next_index": start})

    def _make(self, number: int) -> Batch:
        epoch, step = divmod(number, self.steps_per_epoch)
        rows, lengths = self._plan(epoch)
        return self._lay_out(rows[step, self._share], int(lengths[step]), epoch)

    def __next__(self) -> Batch:
        return next(self._batches)

    def longest(self) -> Batch:
        """A batch of the greatest length; the position of the iterator does not change."""
        return self._make(int(self._plan(0).lengths.argmax()))

    def get_state(self) -> dict[str, Any]:
        """The position of the iterator, serialisable as JSON: `next_batch` and the identity of the order."""
        return {"next_batch": self._batches.get_state()["next_index"], **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position from `get_state`. Raises `UserError` if it belongs to another order, and says what
        differs."""
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise UserError(
                    f"The saved position in the data belongs to another {name}: {state.get(name)}; here it is {ours}.\n"
                    "Use the data and settings of the saved run, or start a new one."
                )
        self._batches.set_state({"next_index": state["next_batch"]})


def batches(
    encoded: Encoded, batch_size: int, *, seed: int, buckets: tuple[int, ...], **position: Any
) -> BatchIterator:
    """Batches for training; `position` are the options of `BatchIterator`.

    Every row appears once per epoch; filler rows (weight 0, example id -1) complete the last batch of an epoch. The two
    rows of a pair to embed are in one batch.
    """
    together = 1 + encoded.paired
    if batch_size % together:
        raise UserError(f"batch_size is {batch_size}; expected an even number, because pairs of texts stay together.")
    edges = bucket_of(encoded.lengths.reshape(-1, together).max(axis=1), buckets)
    identity = {
        "data_fingerprint": encoded.fingerprint,
        "seed": seed,
        "batch_size": batch_size,
        "buckets": list(buckets),
    }
    return BatchIterator(
        lambda epoch: expanded(epoch_plan(edges, batch_size // together, seed, epoch), together),
        lambda rows, length, epoch: gather(encoded, rows, length),
        identity,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(encoded, batch_size),
        **position,
    )


def eval_batches(
    encoded: Encoded, batch_size: int, buckets: tuple[int, ...], process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """The batches of `shortest_first`.

    `example_ids` map the rows of a batch to those of `encoded`. Nothing is prefetched: the work is fast, and without
    prefetching a prediction needs no Grain.
    """
    share = process_share(batch_size, process_index, process_count)
    for rows, length in shortest_first(encoded.lengths, buckets, batch_size):
        yield gather(encoded, rows[share], length)


def shortest_first(
    lengths: Int[np.ndarray, "rows"], buckets: tuple[int, ...], batch_size: int
) -> Iterator[tuple[Int[np.ndarray, "batch"], int]]:
    """Every row once, shortest first, with filler (-1) in the last batch of each bucket; and the bucket."""
    order = np.argsort(lengths, kind="stable")
    edges = bucket_of(lengths, buckets)[order]
    for edge in np.unique(edges):
        rows = order[edges == edge]
        for start in range(0, len(rows), batch_size):
            yield _filled(rows[start : start + batch_size], batch_size), int(edge)


def epoch_plan(edges: Int[np.ndarray, "rows"], batch_size: int, seed: int, epoch: int) -> EpochPlan:
    """All rows shuffled, cut into batches within their bucket, and the batches shuffled; `edges` is each row's bucket.

    Rows that do not fill a batch of their bucket move up into the next longer one. So only the last batch of the epoch
    is not full, and the number of batches depends on nothing but the number of rows.
    """
    draws = Draws(seed, epoch)
    order = draws.order(len(edges))
    left, full, padded_to = order[:0], [], []
    for edge in np.unique(edges):
        rows = np.concatenate([left, order[edges[order] == edge]])
        whole = len(rows) // batch_size
        full.append(rows[: whole * batch_size].reshape(whole, batch_size))
        padded_to.append(np.full(whole, edge))
        left = rows[whole * batch_size :]
    rows, lengths = np.concatenate(full), np.concatenate(padded_to)
    mixed = draws.order(len(rows))
    rows, lengths = rows[mixed], lengths[mixed]
    if len(left):
        rows = np.concatenate([rows, _filled(left, batch_size)[None]])
        lengths = np.append(lengths, edges[left].max())
    return EpochPlan(rows, lengths)


def expanded(plan: EpochPlan, together: int) -> EpochPlan:
    """A plan of groups of so many consecutive rows as one of rows: the first of every group, then the second. Where a
    batch is split into micro-batches of every n-th row, those of a group stay together."""
    rows = np.where(plan.rows < 0, -1, plan.rows * together + np.arange(together)[:, None, None])
    return plan._replace(rows=np.concatenate(rows, axis=1))


def process_share(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that belong to this process."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size is {batch_size}; expected a multiple of the number of processes, {process_count}.")
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def gather(encoded: Encoded, rows: Int[np.ndarray, "b"], length: int) -> Batch:
    """These rows (-1 = filler) as one batch, padded to `length`."""
    kept = rows >= 0
    starts = np.where(kept, encoded.offsets[rows], 0)
    used = np.where(kept, encoded.offsets[rows + 1] - starts, 0)
    column = np.arange(length)
    inside = column < used[:, None]
    where = np.where(inside, starts[:, None] + column, 0)
    batch = {
        "input_ids": np.where(inside, encoded.ids[where], np.int32(encoded.pad_id)),
        "attention_mask": inside.astype(np.int32),
        "token_type_ids": np.where(inside, encoded.type_ids[where], np.int32(0)),
        "weights": kept.astype(np.float32),
        "example_ids": rows.astype(np.int32),
    }
    if encoded.labels is not None:
        batch["labels"] = _labels(encoded, rows, where, inside)
    return batch


def _labels(
    encoded: Encoded, rows: Int[np.ndarray, "b"], where: Int[np.ndarray, "b l"], inside: Bool[np.ndarray, "b l"]
) -> np.ndarray:
    assert encoded.labels is not None
    if encoded.task.kind == "tokens":
        return np.where(inside, encoded.labels[where], np.int32(NO_LABEL))
    labels = encoded.labels[rows]  # a copy, in which filler rows (-1 read the last label) are set to 0
    labels[rows < 0] = 0
    return labels


def _filled(rows: Int[np.ndarray, "n"], batch_size: int) -> Int[np.ndarray, "batch"]:
    return np.concatenate([rows, np.full(batch_size - len(rows), -1)])
