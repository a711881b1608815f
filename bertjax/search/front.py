"""The arithmetic of the search on plain arrays: fronts, promotion, hypervolume, and a plan that fits a time.

All numbers are costs: milliseconds, points that the score dropped. Smaller is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bertjax.errors import UserError

ETA = 3
"""Of so many trials one goes on, for so many times the steps."""
FIRST = (27, 18, 9, 6, 3)
"""Numbers of trials to begin with."""
LAST = 3
"""Trials that are trained to the end, if that many began."""
LEAST_STEPS = 60
"""Fewer steps say little about a trial. With them, fewer trials are tried instead."""


def fronts(points: Float[np.ndarray, "n costs"]) -> Int[np.ndarray, "n"]:
    """The number of each point's front, from 0: front 0 are the points that no other point dominates, front 1 those
    that only points of front 0 dominate (non-dominated sorting, Deb et al. 2002). Equal points share a front."""
    one, other = points[:, None], points[None]
    below = np.all(one <= other, axis=-1) & np.any(one < other, axis=-1)  # [i, j]: i dominates j
    ranks, rank = np.full(len(points), -1), 0
    while (left := ranks < 0).any():
        ranks[left & ~below[left].any(axis=0)] = rank
        rank += 1
    return ranks


def promoted(
    costs: Float[np.ndarray, "n"], drops: Float[np.ndarray, "n"], keep: int, allowed: float | None
) -> list[int]:
    """The `keep` trials that go on, the most promising first.

    All drops will shrink with training, by an unknown amount that is about the same for all. Whatever it is, the goal
    is the cheapest trial whose drop is then within the allowed one. So, front by front: the cheapest that is within it
    already, then the others by their drop, and last those that are within it and not the cheapest. If no drop is given
    as allowed, the goal is the smallest drop.
    """
    ranks = fronts(np.stack([costs, drops], axis=1))
    within = drops <= (-np.inf if allowed is None else allowed)

    def order(i: int) -> tuple[float, ...]:
        rank, cost, drop = float(ranks[i]), float(costs[i]), float(drops[i])
        if not within[i]:
            return rank, 1.0, drop, cost
        cheapest = cost <= costs[within & (ranks == ranks[i])].min()
        return rank, 0.0 if cheapest else 2.0, cost, drop

    return sorted(range(len(costs)), key=order)[:keep]


def hypervolume(points: Float[np.ndarray, "n 2"], reference: tuple[float, float]) -> float:
    """The area that points dominate, up to a reference that is worse than they are; points beyond it add nothing."""
    total, lowest = 0.0, reference[1]
    for x, y in sorted(map(tuple, points.tolist())):
        if x < reference[0] and y < lowest:
            total += (reference[0] - x) * (lowest - y)
            lowest = y
    return total


@dataclass(frozen=True)
class Plan:
    """How many trials are trained in each rung, and how long."""

    trials: tuple[int, ...]
    steps: tuple[int, ...]
    """Further steps of each trial in each rung."""
    minutes: tuple[float, ...] | None = None
    """Expected minutes of each rung; None without a time to keep to."""


def rungs(first: int) -> tuple[int, ...]:
    """The number of trials in each rung: a third of those before, at least `LAST` at the end, and never one rung of
    many trials alone."""
    counts = [first]
    while counts[-1] > LAST:
        counts.append(max(LAST, counts[-1] // ETA))
    return tuple(counts)


def planned_by_steps(trials: int, steps: int) -> Plan:
    """Nine trials, or as many as there are; one that reaches the end was trained for about `steps` in all."""
    counts = rungs(min(trials, FIRST[2]))
    parts = [ETA**rung for rung in range(len(counts))]
    return Plan(counts, tuple(max(1, round(steps * part / sum(parts))) for part in parts))


def planned_by_time(trials: int, seconds: float, setup: float, step: float) -> Plan:
    """As many trials as the time is enough for, if each takes `setup` seconds before its first step in every rung, and
    a step `step` seconds. Half of the time at most is spent on setting up.

    Raises:
      UserError: The time is not enough for the fewest trials.
    """
    for first in sorted({min(trials, count) for count in FIRST}, reverse=True):
        counts = rungs(first)
        parts = [ETA**rung for rung in range(len(counts))]
        left = seconds - setup * sum(counts)
        steps = int(left / (step * sum(np.multiply(counts, parts))))
        if left >= seconds / 2 and steps >= LEAST_STEPS:
            each = tuple(steps * part for part in parts)
            minutes = tuple(n * (setup + step * of) / 60 for n, of in zip(counts, each, strict=True))
            return Plan(counts, each, minutes)
    needed = sum(rungs(min(trials, LAST))) * max(2 * setup, setup + step * LEAST_STEPS)
    raise UserError(
        f"{seconds / 60:.1f} minutes are left for training, and {min(trials, LAST)} trials need {needed / 60:.1f}: "
        "give more --minutes."
    )


def even_sample(costs: Sequence[float], count: int, rng: np.random.Generator) -> list[int]:
    """`count` trials, one drawn at random from each of as many equal parts of the order by cost."""
    order = np.argsort(costs, kind="stable")
    return [int(rng.choice(part)) for part in np.array_split(order, min(count, len(order)))]
