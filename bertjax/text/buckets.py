"""The lengths that batches are padded to.

Every array of a compiled step must have one of a few shapes. With a single one, the maximum, most of it is padding: on
SST-2 at 64 tokens, 3.8 padding positions per token. Four lengths leave 0.42, eight 0.25. Each length costs a
compilation of every step, so there are at most four, and none that saves little.
"""

import numpy as np
from jaxtyping import Int

from bertjax.errors import UserError

BUCKET_COST = 0.1
"""The cost of one more length, in padding positions per token: a length that saves less is not used."""


def length_buckets(lengths: Int[np.ndarray, "rows"], max_length: int, count: int = 4) -> tuple[int, ...]:
    """At most `count` lengths, multiples of 8, that minimise padding when each row goes to the shortest one that holds
    it; every length costs `BUCKET_COST` times the number of tokens.

    The exact optimum, by dynamic programming over the histogram of lengths. The longest bucket is the longest row,
    rounded up, and never more than `max_length`.
    """
    longest = int(lengths.max())
    if longest > max_length:
        raise UserError(f"A row has {longest} tokens; expected at most max_length = {max_length}.")
    edges = [*range(8, longest, 8), min(-(-longest // 8) * 8, max_length)]
    below = [0, *(int((lengths <= edge).sum()) for edge in edges)]  # rows that fit, for 0 and for every edge
    price = BUCKET_COST * int(lengths.sum())
    # best[j] = (cost, number of buckets, buckets) for the rows that fit edge j, the last bucket being that edge.
    best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]
    best += [(edge * rows + price, 1, (edge,)) for edge, rows in zip(edges, below[1:], strict=True)]
    for _ in range(count - 1):
        best = best[:1] + [
            min(
                (cost + edge * (below[j] - below[i]) + price, n + 1, (*shorter, edge))
                for i, (cost, n, shorter) in enumerate(best[:j])
            )
            for j, edge in enumerate(edges, start=1)
        ]
    return best[-1][2]


def padding_overhead(lengths: Int[np.ndarray, "rows"], buckets: tuple[int, ...]) -> float:
    """Padding positions per token: 0.25 means that a quarter more positions are computed than there are tokens."""
    return float(bucket_of(lengths, buckets).sum() / lengths.sum() - 1)


def bucket_of(lengths: Int[np.ndarray, "rows"], buckets: tuple[int, ...]) -> Int[np.ndarray, "rows"]:
    """The shortest bucket that holds each row."""
    if list(buckets) != sorted(set(buckets)) or lengths.max() > buckets[-1]:
        raise UserError(
            f"The buckets are {buckets}; expected increasing lengths up to the longest row, {lengths.max()}."
        )
    return np.asarray(buckets)[np.searchsorted(buckets, lengths)]
