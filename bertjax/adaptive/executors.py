"""Who walks: three ways to run a model that examples may leave, with the same answers.

`full` runs everybody to the end and looks afterwards; it is the definition, and gives no speed. `looped` is one program
with a `lax.while_loop`: no look at the host between segments, but it goes on while anybody has to, so it is for single
examples. `Segmented` runs a program per segment, looks who left, and goes on with the survivors in the next smaller of
a few batch sizes. Programs are compiled for (segment's shape, batch size, length); after `warm_up` there are no new
ones.

Rows without a single real piece are filler. They hold nobody up, and their depth is 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bertjax.adaptive.walk import After, Rows, Segment, Walk
from bertjax.errors import UserError
from bertjax.params import Tree
from bertjax.xla import Forward

Ids = Int[np.ndarray, "b l"]
SIZES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32)
"""Batch sizes of `Segmented`. Sizes in between are filled up; a finer choice saves little and compiles longer."""


class Left(NamedTuple):
    """What each example left with, and the number of depth steps it took."""

    logits: Float[np.ndarray, "b c"]
    depths: Int[np.ndarray, "b"]


def full(walk: Walk, params: Tree, ids: Ids, mask: Ids, types: Ids) -> Left:
    """Runs every segment for everybody, then gives each example what it would have left with."""
    return Left(*map(np.asarray, _full(walk, params, ids, mask, types, walk.start(len(ids)))))


def looped(walk: Walk, params: Tree, ids: Ids, mask: Ids, types: Ids) -> Left:
    """One program that ends when all have left."""
    return Left(*map(np.asarray, _looped(walk, params, ids, mask, types, walk.start(len(ids)))))


def settle(state: tuple[Bool[Array, "b"], Array, Array], after: After, depth: Array) -> tuple[Array, Array, Array]:
    """Who has left, with what, and how deep: those who leave now are added."""
    left, logits, depths = state
    now = after.leave & ~left
    return left | now, jnp.where(now[:, None], after.logits, logits), jnp.where(now, depth, depths)


def nobody(mask: Int[Array, "b l"], classes: int) -> tuple[Array, Array, Array]:
    """Before anybody left, fillers apart."""
    filler = ~jnp.any(mask > 0, axis=1)
    return filler, jnp.zeros((len(mask), classes), jnp.float32), jnp.zeros(len(mask), jnp.int32)


@Forward
def _full(model: Walk, params: Tree, ids: Array, mask: Array, types: Array, memory: Any) -> tuple[Array, Array]:
    rows, state = model.begin(params, ids, mask, types, memory), nobody(mask, len(model.model.config.labels))
    for number, (segment, own) in enumerate(zip(model.segments, model.params_of(params), strict=True)):
        after = segment(own, number, rows)
        rows, state = after.rows, settle(state, after, jnp.asarray(model.depths[number]))
    return state[1], state[2]


@Forward
def _looped(model: Walk, params: Tree, ids: Array, mask: Array, types: Array, memory: Any) -> tuple[Array, Array]:
    own, depths = model.params_of(params), jnp.asarray(model.depths)
    alike: dict[tuple[Segment, tuple[int, ...]], int] = {}  # segments that share parameters are one branch
    branch_of = [
        alike.setdefault((segment, tuple(map(id, jax.tree.leaves(theirs)))), len(alike))
        for segment, theirs in zip(model.segments, own, strict=True)
    ]
    first_of = [branch_of.index(branch) for branch in range(len(alike))]
    branches = [lambda number, rows, i=i: model.segments[i](own[i], number, rows) for i in first_of]

    def going_on(looped: tuple) -> Array:
        number, _rows, (left, _logits, _depths) = looped
        return (number < len(model.segments)) & ~jnp.all(left)

    def once_more(looped: tuple) -> tuple:
        number, rows, state = looped
        after = jax.lax.switch(jnp.asarray(branch_of)[number], branches, number, rows)
        return number + 1, after.rows, settle(state, after, depths[number])

    begun = model.begin(params, ids, mask, types, memory), nobody(mask, len(model.model.config.labels))
    _, _, (_, logits, taken) = jax.lax.while_loop(going_on, once_more, (jnp.asarray(0), *begun))
    return logits, taken


@Forward
def _begin(model: Walk, params: Tree, ids: Array, mask: Array, types: Array, memory: Any) -> Rows:
    return model.begin(params, ids, mask, types, memory)


@Forward
def _advance(model: Segment, params: Tree, mask: Array, number: Array, hidden: Any, memory: Any) -> After:
    return model(params, number, Rows(mask, hidden, memory))


@jax.jit
def _gather(rows: Rows, chosen: Int[Array, "s"]) -> Rows:
    return jax.tree.map(lambda leaf: leaf[chosen], rows)


class Segmented:
    """Runs a walk segment by segment, with the survivors alone.

    `Segmented(walk, params)(ids, mask, types)` for up to `max(sizes)` examples at once.
    """

    def __init__(self, walk: Walk, params: Tree, sizes: Sequence[int] = SIZES):
        self.walk, self.params, self.sizes = walk, jax.device_put(params), tuple(sorted(sizes))
        self.own = walk.params_of(self.params)
        self.numbers = [jnp.asarray(number) for number in range(len(walk.segments))]

    def __call__(self, ids: Ids, mask: Ids, types: Ids) -> Left:
        logits = np.zeros((len(ids), len(self.walk.model.config.labels)), np.float32)
        depths, who = np.zeros(len(ids), np.int64), np.flatnonzero(np.asarray(mask).any(axis=1))
        if not len(who):
            return Left(logits, depths)
        size = self.size_for(len(who))
        padded = np.resize(who, size)  # rows that fill the size up are copies of real ones
        arrays = (np.asarray(array)[padded] for array in (ids, mask, types))
        rows = _begin(self.walk, self.params, *arrays, self.walk.start(size))
        for segment, own, number, depth in zip(
            self.walk.segments, self.own, self.numbers, self.walk.depths, strict=True
        ):
            after = _advance(segment, own, rows.mask, number, rows.hidden, rows.memory)
            leave = np.asarray(after.leave)[: len(who)]
            if leave.any():
                logits[who[leave]] = np.asarray(after.logits)[: len(who)][leave]
                depths[who[leave]] = depth
            going = np.flatnonzero(~leave)
            if not len(going):
                break
            rows, who = after.rows, who[going]
            if len(going) < len(leave):
                # Also where the size stays: survivors stand first, as `who` has them.
                rows = _gather(rows, np.resize(going, self.size_for(len(going))))
        return Left(logits, depths)

    def size_for(self, count: int) -> int:
        """The smallest batch size that holds so many."""
        if count > self.sizes[-1]:
            raise UserError(f"{count} examples at once; this executor takes up to {self.sizes[-1]}.")
        return next(size for size in self.sizes if size >= count)

    def warm_up(self, lengths: Sequence[int]) -> None:
        """Compiles every program that batches of these lengths can need."""
        for length in lengths:
            states = {}
            for size in self.sizes:
                row = np.ones((size, length), np.int32)
                rows = states[size] = _begin(self.walk, self.params, row, row, row * 0, self.walk.start(size))
                for segment, own, number in zip(self.walk.segments, self.own, self.numbers, strict=True):
                    _advance(segment, own, rows.mask, number, rows.hidden, rows.memory)
            for size, rows in states.items():
                for smaller in self.sizes:
                    if smaller <= size:
                        _gather(rows, np.zeros(smaller, np.int64))


class Walker:
    """The executor that pays: the loop for one example, segments for several, any number of them."""

    def __init__(self, walk: Walk, params: Tree):
        self.walk, self.params = walk, jax.device_put(params)
        self.segmented = Segmented(walk, self.params)

    def __call__(self, ids: Ids, mask: Ids, types: Ids) -> Left:
        if len(ids) == 1:
            return looped(self.walk, self.params, ids, mask, types)
        most = self.segmented.sizes[-1]
        parts = [
            self.segmented(*(array[start : start + most] for array in (ids, mask, types)))
            for start in range(0, len(ids), most)
        ]
        return Left(*map(np.concatenate, zip(*parts, strict=True)))
