"""How often an interval that says 95 % holds the truth: counted, not simulated, where an answer is right or wrong.

    python -m tests.benchmarks.coverage [--samples=300]

Of one accuracy and of the difference of two on the same examples, for every number that may be seen, with its
probability. Beside the intervals of `bertjax.metrics.uncertainty` stand Wilson's and Tango's (1998), which fall short
for small n, and the percentile bootstrap over the examples alone. Coverage of a difference is the least over pairs of
models, the better of which has the accuracy of the row: such as agree nearly always, and such as disagree often. F1 has
no such count: it is simulated, on data of which a quarter is positive.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from bertjax.metrics.uncertainty import proportion_difference_interval, proportion_interval, score_interval

SIZES = (20, 60, 277, 872)
ACCURACIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
ALONE = (1e-4, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)
"""Shares of examples that one of two models alone gets right."""
Z = 1.959963984540054
Ends = tuple[Any, Any]


def wilson(count: Any, of: int) -> Ends:
    middle, size = count / of + Z * Z / 2 / of, 1 + Z * Z / of
    half = Z * np.sqrt(count / of * (1 - count / of) / of + (Z / 2 / of) ** 2)
    return (middle - half) / size, (middle + half) / size


def bootstrap(count: Any, of: int) -> Ends:
    """What the percentiles become with ever more resamples."""
    from scipy.stats import binom

    return binom.ppf(0.025, of, count / of) / of, binom.ppf(0.975, of, count / of) / of


def tango(only_a: Any, only_b: Any, of: int) -> Ends:
    """The differences that the score test does not reject."""

    def statistic(d: Any) -> Any:
        b, c = (2 * of - only_a + only_b) * d - only_a - only_b, -only_b * d * (1 - d)
        share = (np.sqrt(np.maximum(b * b - 8 * of * c, 0)) - b) / (4 * of)
        return (only_a - only_b - of * d) / np.sqrt(np.maximum(of * (2 * share + d * (1 - d)), 1e-300))

    def solved(low: Any, high: Any, value: float) -> Any:
        for _ in range(50):
            middle = (low + high) / 2
            above = statistic(middle) > value
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    d = (only_a - only_b) / of
    return solved(-np.ones_like(d), d, Z), solved(d, np.ones_like(d), -Z)


def of_one(interval: Callable[[Any, int], Ends], n: int, accuracy: float) -> float:
    """Coverage of an interval of one accuracy."""
    from scipy.stats import binom

    seen = np.arange(n + 1)
    low, high = interval(seen, n)
    return float(binom.pmf(seen, n, accuracy)[(low <= accuracy) & (accuracy <= high)].sum())


def outcomes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every way in which some examples are right for one model alone, and some for the other."""
    a, b = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    return a[a + b <= n], b[a + b <= n]


def misses(ends: Ends, n: int, p: float, q: float) -> tuple[float, float]:
    """How often an interval of the difference p - q lies above it, and how often below."""
    from scipy.special import gammaln, xlogy

    a, b = outcomes(n)
    c = n - a - b
    ways = gammaln(n + 1) - gammaln(a + 1) - gammaln(b + 1) - gammaln(c + 1)
    probability = np.exp(ways + xlogy(a, p) + xlogy(b, q) + xlogy(c, 1 - p - q))
    low, high = ends
    return float(probability[low > p - q + 1e-12].sum()), float(probability[high < p - q - 1e-12].sum())


def of_difference(ends: Ends, n: int, accuracy: float) -> float:
    """The least coverage over pairs of models, the better of which has this accuracy."""
    pairs = [(p, q) for p in ALONE for q in ALONE if q <= p <= accuracy and q <= 1 - accuracy]
    return min(1 - sum(misses(ends, n, p, q)) for p, q in pairs)


def of_f1(n: int, accuracy: float, samples: int) -> float:
    """Share of samples whose interval holds F1."""
    right, positive = accuracy, 0.25
    truth = 2 * right * positive / (2 * right * positive + 1 - right)
    rng, held = np.random.default_rng(0), 0
    for _ in range(samples):
        gold = (rng.random(n) < positive).astype(int)
        low, high = score_interval("f1", np.where(rng.random(n) < right, gold, 1 - gold), gold, resamples=500)
        held += low <= truth <= high
    return held / samples


def table(title: str, ways: tuple[str, ...], cell: Callable[[str, int, float], float]) -> str:
    """Coverage in per cent, a row for each accuracy."""
    heads = [f"{way}, {n}" for n in SIZES for way in ways]
    rows = [[f"{100 * cell(way, n, p):.1f}" for n in SIZES for way in ways] for p in ACCURACIES]
    lines = [f"| {title} | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    return "\n".join([*lines, *(f"| {p:g} | {' | '.join(row)} |" for p, row in zip(ACCURACIES, rows, strict=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    samples = parser.parse_args().samples
    one = {"ours": proportion_interval, "Wilson": wilson, "bootstrap": bootstrap}
    print(table("accuracy", tuple(one), lambda way, n, p: of_one(one[way], n, p)), end="\n\n", flush=True)
    two = {"ours": proportion_difference_interval, "Tango": tango}
    ends = {(way, n): interval(*outcomes(n), n) for way, interval in two.items() for n in SIZES}
    print(table("difference", tuple(two), lambda way, n, p: of_difference(ends[way, n], n, p)), end="\n\n", flush=True)
    print(table("F1, simulated", ("ours",), lambda way, n, p: of_f1(n, p, samples)))


if __name__ == "__main__":
    main()
