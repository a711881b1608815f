"""The search for shares of tokens within a budget: an evolution of the best found so far.

A candidate is a share for each layer. Its cost is computed, its loss is measured by running the model. Parents are the
candidates with the smallest losses; they are mutated and crossed, as in the Length-Adaptive Transformer (Kim & Cho
2021). There one search of thousands of evaluations finds the best candidate for every cost. Here each candidate is
scaled to the one cost that was asked for, so that a hundred evaluations are enough. Nothing is trained, but every
evaluation is a pass over the text.

For a ladder of costs, each search begins from the best shares of the one before, whose cost differs by a twentieth.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.errors import UserError

Shares = tuple[float, ...]
MUTATED = 0.5
"""The probability that a mutation draws a layer's share anew, as published."""
PARENTS = 8
"""The best candidates, which are mutated and crossed."""
SMALLEST = 0.02
"""The smallest share of a layer."""
LADDER = tuple(percent / 100 for percent in range(10, 95, 5))
"""The fractions of the cost to remove for which `ladder` searches."""
HANDED_ON = 3
"""The best candidates of a cost, with which the search for the next one begins."""


class Candidate(NamedTuple):
    shares: Shares
    cost: float
    loss: float


def search(
    cost: Callable[[Shares], float],
    loss: Callable[[Shares], float],
    layers: int,
    most: float,
    *,
    evaluations: int,
    seed: int,
    begin: Sequence[Shares] = (),
    notify: Callable[[int, Candidate], None] = lambda number, best: None,
) -> list[Candidate]:
    """All candidates that were tried, the one with the smallest loss first.

    Args:
      cost: Falls with every share.
      layers: Length of a candidate.
      most: The cost of a candidate, at most.
      evaluations: Calls of `loss`, at most.
      begin: The first candidates, before they are scaled. Default: each keeps all tokens in its first layers.
      notify: Called after each with their number and the best candidate so far.

    Raises:
      UserError: No candidate costs so little.
    """
    least = cost((SMALLEST,) * layers)
    if least > most:
        raise UserError(
            f"with {SMALLEST:.0%} of the tokens after the first layer {least:.1%} of the cost is left, and at most "
            f"{most:.1%} was asked; remove less, or remove layers too (bertjax prune)."
        )
    random, found = np.random.default_rng(seed), dict[Shares, Candidate]()

    def evaluate(shape: Sequence[float]) -> None:
        shares = scaled(shape, cost, most)
        if shares not in found and len(found) < evaluations:
            found[shares] = Candidate(shares, cost(shares), loss(shares))
            notify(len(found), best()[0])

    def best() -> list[Candidate]:
        return sorted(found.values(), key=lambda one: one.loss)

    depth = np.arange(1, layers + 1)
    for shape in begin or [tuple(0.5 ** np.maximum(0, depth - first)) for first in range(min(PARENTS, layers))]:
        evaluate(shape)
    for _ in range(100 * evaluations):  # a toy has fewer candidates than evaluations
        if len(found) >= evaluations:
            break
        parents = best()[:PARENTS]
        one, other = (parents[i].shares for i in random.integers(0, len(parents), 2))
        crossed = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        evaluate(mutated(one, random) if random.random() < 0.5 or one == other else crossed)
    return best()


def ladder(
    cost: Callable[[Shares], float],
    loss: Callable[[Shares], float],
    layers: int,
    *,
    evaluations: int,
    seed: int,
    notify: Callable[[int, Candidate], None] = lambda number, best: None,
) -> Iterator[Candidate]:
    """The best candidate for each fraction of `LADDER` that can be removed, from the smallest. Each is searched when it
    is asked for. Arguments as of `search`, with `evaluations` for all together, at least one for each fraction; the
    first search, which begins from nothing, has twice as many as any other, or more.

    Raises:
      UserError: Not even the first fraction can be removed.
    """
    least = cost((SMALLEST,) * layers)
    within_reach = [removed for removed in LADDER if least <= 1 - removed] or [LADDER[0]]
    each, begin, done = max(1, evaluations // (len(within_reach) + 1)), list[Shares](), 0
    for number, removed in enumerate(within_reach):
        count = each if number else max(1, evaluations - each * (len(within_reach) - 1))
        found = search(
            cost,
            loss,
            layers,
            1 - removed,
            evaluations=count,
            seed=seed + number,
            begin=begin,
            notify=lambda tried, best, before=done: notify(before + tried, best),
        )
        begin, done = [one.shares for one in found[:HANDED_ON]], done + len(found)
        yield found[0]


def scaled(shape: Sequence[float], cost: Callable[[Shares], float], most: float) -> Shares:
    """The shares to the power at which they cost `most`, or a little less because they have three digits."""
    low, high = 0.0, 64.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(tidy(np.power(shape, middle))) <= most else (middle, high)
    shares = tidy(np.power(shape, high))
    # No power brings down layers that keep all their tokens.
    return shares if cost(shares) <= most else scaled([0.9 * share for share in shape], cost, most)


def tidy(shares: Sequence[float] | np.ndarray) -> Shares:
    """The shares with three digits, none above the one before it."""
    return tuple(float(share) for share in np.minimum.accumulate(np.clip(np.round(shares, 3), SMALLEST, 1.0)))


def mutated(shares: Shares, random: np.random.Generator) -> list[float]:
    """Some layers get a new share, between the new one of the layer before and the old one of the layer after."""
    new: list[float] = []
    for number, share in enumerate(shares):
        before = new[-1] if new else 1.0
        after = shares[number + 1] if number + 1 < len(shares) else SMALLEST
        drawn = random.uniform(min(after, before), before)
        new.append(min(before, drawn if random.random() < MUTATED else share))
    return new
