"""Executors for early exit: three ways to run a model, with the same logits and exits.

`full` runs all examples through all layers and picks the exits afterwards. It is the reference and saves no time.
`looped` is one program with a `lax.while_loop`, or with nested branches where tokens are dropped. Nothing is sent to
the host between segments, but it runs until the last example has exited, so it is for single examples.
`SegmentExecutor` runs a program per segment and reads which examples exited. The others, from several batches of one
length, wait until they fill a batch again. After the last batch the waiting examples run too, in the smallest batch
size that holds them. Programs are compiled for (segment's shape, batch size, length); after `warm_up` there are no new
ones.

Rows without a single real token are filler: they count as exited, at depth 0.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bertjax.adaptive.segments import Carry, Segment, SegmentedModel, SegmentOutput
from bertjax.machine.xla import Forward
from bertjax.params import Tree
from bertjax.text.batches import Inputs

Ids = Int[np.ndarray, "b l"]
SIZES = (1, *range(2, 33, 2))
"""Batch sizes of `SegmentExecutor`. Batches of other sizes are padded to the next size: by one row in 64 on average.
Steps of four would halve compilation and pad one row in 21."""


class ExitOutput(NamedTuple):
    """The logits with which each example exited, and the number of depth steps it took."""

    logits: Float[np.ndarray, "b c"]
    depths: Int[np.ndarray, "b"]


def full(segmented: SegmentedModel, params: Tree, ids: Ids, mask: Ids, types: Ids) -> ExitOutput:
    """Runs every segment for all examples, then picks the exit of each."""
    return ExitOutput(*map(np.asarray, _full(segmented, params, ids, mask, types, segmented.start(len(ids)))))


def looped(segmented: SegmentedModel, params: Tree, ids: Ids, mask: Ids, types: Ids) -> ExitOutput:
    """One program that ends when all examples have exited."""
    return ExitOutput(*map(np.asarray, run_loop(segmented, params, ids, mask, types, segmented.start(len(ids)))))


def record_exits(
    state: tuple[Bool[Array, "b"], Array, Array], after: SegmentOutput, depth: Array
) -> tuple[Array, Array, Array]:
    """Records the examples that exit at this segment: flag, logits, depth."""
    exited, logits, depths = state
    now = after.exits & ~exited
    return exited | now, jnp.where(now[:, None], after.logits, logits), jnp.where(now, depth, depths)


def none_exited(mask: Int[Array, "b l"], classes: int) -> tuple[Array, Array, Array]:
    """The record before the first segment: only filler rows count as exited."""
    filler = ~jnp.any(mask > 0, axis=1)
    rows = mask.shape[0]  # in an exported program a variable, for which `len` has no number
    return filler, jnp.zeros((rows, classes), jnp.float32), jnp.zeros(rows, jnp.int32)


@Forward
def _full(
    model: SegmentedModel, params: Tree, ids: Array, mask: Array, types: Array, memory: Any
) -> tuple[Array, Array]:
    rows, state = model.begin(params, ids, mask, types, memory), none_exited(mask, len(model.model.config.labels))
    for number, (segment, own) in enumerate(zip(model.segments, model.params_of(params), strict=True)):
        after = segment(own, number, rows)
        rows, state = after.rows, record_exits(state, after, jnp.asarray(model.depths[number]))
    return state[1], state[2]


@Forward
def run_loop(
    model: SegmentedModel, params: Tree, ids: Array, mask: Array, types: Array, memory: Any
) -> tuple[Array, Array]:
    own, depths = model.params_of(params), jnp.asarray(model.depths)
    distinct: dict[tuple[Segment, tuple[int, ...]], int] = {}  # segments that share parameters are one branch
    branch_of = [
        distinct.setdefault((segment, tuple(map(id, jax.tree.leaves(tree)))), len(distinct))
        for segment, tree in zip(model.segments, own, strict=True)
    ]
    first_of = [branch_of.index(branch) for branch in range(len(distinct))]
    branches = [lambda number, rows, i=i: model.segments[i](own[i], number, rows) for i in first_of]

    def unfinished(carry: tuple) -> Array:
        number, _rows, (exited, _logits, _depths) = carry
        return (number < len(model.segments)) & ~jnp.all(exited)

    def run_segment(carry: tuple) -> tuple:
        number, rows, state = carry
        after = jax.lax.switch(jnp.asarray(branch_of)[number], branches, number, rows)
        return number + 1, after.rows, record_exits(state, after, depths[number])

    initial = model.begin(params, ids, mask, types, memory), none_exited(mask, len(model.model.config.labels))
    if model.model.config.retention:
        _, logits, exit_depths = nested(model, own, *initial)
    else:
        _, _, (_, logits, exit_depths) = jax.lax.while_loop(unfinished, run_segment, (jnp.asarray(0), *initial))
    return logits, exit_depths


def nested(model: SegmentedModel, own: tuple[Tree, ...], rows: Carry, state: Any, number: int = 0) -> Any:
    """The record after the segments from `number` on, each inside a branch that is not entered once all have exited.
    For a model that drops tokens: the arrays of a loop cannot become smaller."""
    if number == len(model.segments):
        return state

    def run_segment() -> Any:
        after = model.segments[number](own[number], number, rows)
        recorded = record_exits(state, after, jnp.asarray(model.depths[number]))
        return nested(model, own, after.rows, recorded, number + 1)

    return jax.lax.cond(jnp.all(state[0]), lambda: state, run_segment)


@Forward
def _begin(model: SegmentedModel, params: Tree, ids: Array, mask: Array, types: Array, memory: Any) -> Carry:
    return model.begin(params, ids, mask, types, memory)


@Forward
def _advance(
    model: Segment, params: Tree, mask: Array, number: Array, hidden: Any, memory: Any, places: Any
) -> SegmentOutput:
    return model(params, number, Carry(mask, hidden, memory, places))


@jax.jit
def _gather(rows: Carry, chosen: Int[Array, "s"]) -> Carry:
    return jax.tree.map(lambda leaf: leaf[chosen], rows)


@partial(jax.jit, donate_argnums=0)
def _join(waiting: Carry, rows: Carry, places: Int[Array, "b"]) -> Carry:
    """Rows whose place is beyond the end are dropped."""
    return jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), waiting, rows)


class Queue:
    """Examples that wait for the next segment: fewer than two full batches, in arrays whose size never changes. A batch
    from which no example exited is kept uncopied while it waits alone."""

    def __init__(self, most: int):
        self.capacity, self.indices = 2 * most, np.zeros(0, np.int64)
        self._rows: Any = None
        self._uncopied = False

    def join(self, rows: Carry, remain: Bool[np.ndarray, "b"], indices: Int[np.ndarray, "n"]) -> None:
        """Adds those of a batch's first rows that `remain`; `indices` are their numbers among all examples."""
        places, alone = np.flatnonzero(remain), not len(self.indices)
        if alone and remain.all():
            self._rows, self._uncopied = rows, True
        elif alone and (self._rows is None or self._uncopied):
            self._rows, self._uncopied = _gather(rows, np.resize(places, self.capacity)), False
        else:
            if self._uncopied:
                filled = np.resize(np.arange(len(self.indices)), self.capacity)
                self._rows, self._uncopied = _gather(self._rows, filled), False
            target = np.full(len(jax.tree.leaves(rows)[0]), self.capacity)
            target[places] = len(self.indices) + np.arange(len(places))
            self._rows = _join(self._rows, rows, target)
        self.indices = np.concatenate([self.indices, indices])

    def take(self, count: int, size: int) -> tuple[Carry, Int[np.ndarray, "n"]]:
        """The last `count` examples, padded to `size` rows by repeating them, and their numbers among all examples."""
        start = len(self.indices) - count
        self.indices, indices = self.indices[:start], self.indices[start:]
        if self._uncopied:
            return self._rows, indices
        return _gather(self._rows, start + np.resize(np.arange(count), size)), indices


class SegmentExecutor:
    """Runs a model segment by segment, each with the examples that have not exited yet.

    `SegmentExecutor(segmented, params)(batches)` takes any number of (ids, mask, types), of any number of rows and any
    lengths, and returns the exits of each batch, in their order.
    """

    def __init__(self, segmented: SegmentedModel, params: Tree, sizes: Sequence[int] = SIZES):
        self.segmented, self.sizes, params = segmented, tuple(sorted(sizes)), jax.device_put(params)
        self.begin = _begin.bound(segmented, params)
        self.segments = [
            _advance.bound(*pair) for pair in zip(segmented.segments, segmented.params_of(params), strict=True)
        ]
        self.numbers = [jnp.asarray(number) for number in range(len(segmented.segments))]

    def __call__(self, batches: Sequence[Inputs]) -> list[ExitOutput]:
        ends = np.cumsum([0, *(len(ids) for ids, _, _ in batches)])
        outputs = ExitOutput(
            np.zeros((ends[-1], len(self.segmented.model.config.labels)), np.float32), np.zeros(ends[-1], np.int64)
        )
        of_length: dict[int, list[int]] = {}
        for number, (ids, _, _) in enumerate(batches):
            of_length.setdefault(ids.shape[1], []).append(number)
        for numbers in of_length.values():
            together = [np.concatenate(arrays) for arrays in zip(*(batches[n] for n in numbers), strict=True)]
            indices = np.concatenate([np.arange(ends[n], ends[n + 1]) for n in numbers])
            real = np.flatnonzero(together[1].any(axis=1))
            self._run([array[real] for array in together], indices[real], outputs)
        return [ExitOutput(*(array[start:end] for array in outputs)) for start, end in pairwise(ends)]

    def _run(self, arrays: Sequence[np.ndarray], indices: Int[np.ndarray, "n"], outputs: ExitOutput) -> None:
        """Runs all examples of one length and writes the result of each into its row of `outputs`."""
        most, queues = self.sizes[-1], [Queue(self.sizes[-1]) for _ in self.segmented.segments]
        for start in range(0, len(indices), most):
            part = indices[start : start + most]
            filled = start + np.resize(np.arange(len(part)), self._size_for(len(part)))
            rows = self.begin(*(array[filled] for array in arrays), self.segmented.start(len(filled)))
            self._advance(0, rows, part, queues, outputs)
            for number, queue in enumerate(queues):
                if len(queue.indices) >= most:
                    self._advance(number, *queue.take(most, most), queues, outputs)
        for number, queue in enumerate(queues):
            while count := min(len(queue.indices), most):
                self._advance(number, *queue.take(count, self._size_for(count)), queues, outputs)

    def _advance(
        self, number: int, rows: Carry, indices: Int[np.ndarray, "n"], queues: Sequence[Queue], outputs: ExitOutput
    ) -> None:
        """Runs one segment for one batch: records the exits, and queues the other examples for the next segment."""
        after = self.segments[number](rows.mask, self.numbers[number], rows.hidden, rows.memory, rows.places)
        exits = np.asarray(after.exits)[: len(indices)]
        if exits.any():
            outputs.logits[indices[exits]] = np.asarray(after.logits)[: len(indices)][exits]
            outputs.depths[indices[exits]] = self.segmented.depths[number]
        if not exits.all():
            queues[number + 1].join(after.rows, ~exits, indices[~exits])

    def _size_for(self, count: int) -> int:
        """The smallest batch size that holds so many."""
        return next(size for size in self.sizes if size >= count)

    def warm_up(self, lengths: Sequence[int]) -> None:
        """Compiles every program that batches of these lengths can need."""
        for length in lengths:
            for size in self.sizes:
                row, first = np.ones((size, length), np.int32), np.array([True, False])
                rows = self.begin(row, row, row * 0, self.segmented.start(size))
                for segment, number in zip(self.segments, self.numbers, strict=True):
                    rows = segment(rows.mask, number, rows.hidden, rows.memory, rows.places).rows
                    queue = Queue(self.sizes[-1])
                    queue.join(rows, first, np.arange(1))
                    queue.join(rows, first, np.arange(1))
                    queue.take(1, size)


class EarlyExitExecutor:
    """The faster executor of the two: the loop for one example, segments for several. Called like `SegmentExecutor`."""

    def __init__(self, segmented: SegmentedModel, params: Tree):
        params = jax.device_put(params)
        self.segmented, self.by_segment, self.looped = (
            segmented,
            SegmentExecutor(segmented, params),
            run_loop.bound(segmented, params),
        )

    def __call__(self, batches: Sequence[Inputs]) -> list[ExitOutput]:
        if [len(ids) for ids, _, _ in batches] == [1]:
            return [ExitOutput(*map(np.asarray, self.looped(*batches[0], self.segmented.start(1))))]
        return self.by_segment(batches)
