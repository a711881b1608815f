"""How much a score would vary on other examples of the same kind, and whether the difference of two models is
significant.

Intervals are 95 % intervals that hold for small samples and near-perfect scores. If an example is either right or wrong
(accuracy), the interval is the exact one of Clopper and Pearson (1934), which covers the true value in at least 95 % of
all samples. Wilson's is narrower by 2 to 10 %, but covers it in only 92 % for 20 examples and a share of 0.95. For the
difference of two models, the exact limits of the two shares of examples that only one model gets right are combined by
the square of their distances. This follows Newcombe's method 10 (1998, Statistics in Medicine 17, p. 2635), which
combines Wilson's limits of the two scores instead. It also covers at least 95 %, and from ten examples on it errs to
either side in at most 2.5 %: `python -m tests.benchmarks.coverage`.

All other scores (F1, correlations, scores with fractions, means over seeds) use the percentile bootstrap over examples
(Efron and Tibshirani 1993, ch. 13), which needs no formula. It cannot draw an error that is not in the sample: 20 of 20
correct would be certain. So each end of the interval comes from the sample and one more example, predicted wrongly for
the lower end and correctly for the upper end. That covers about 95 % if every class has about ten examples; for fewer,
no interval is reliable. No interval covers other random seeds: two runs of one recipe may differ by more.

Paired tests: both models predict the same examples, so only examples where they differ carry information. If an example
is either right or wrong, McNemar's exact test computes how likely a fair coin splits the disagreements as unevenly. For
other scores there is the permutation test. If the models were equal, exchanging their predictions for an example would
change nothing, so it exchanges at random and counts how often the scores differ as much.

Several seeds: the score of a method is the mean over its runs. The predictions of all runs for an example are resampled
or exchanged together, because runs of one method find the same examples hard: three runs on n examples are far from 3 n
examples. The interval is that of these runs on other examples.

Many tests: the more models are compared with one baseline, the more likely one differs by chance; `holm` corrects for
it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bertjax.errors import UserError
from bertjax.metrics.scores import MEANS, RIGHT_OR_WRONG, Answers, answered, checked, example_sums, score_of_sums

TAIL = 0.025
"""The allowed probability that the whole interval lies above the true value; the same for below."""
Counts = int | Int[np.ndarray, "..."]
_CELLS = 2**22  # resamples are drawn in chunks of about this many numbers (32 MB)


def score_interval(metric: str, predictions: Answers, labels: Answers, **draws: int) -> tuple[float, float]:
    """The 95 % interval (low, high) of `score(metric, predictions, labels)`; `draws` as in `mean_interval`."""
    return mean_interval(metric, [predictions], labels, **draws)


def mean_interval(
    metric: str, runs: Sequence, labels: Answers, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean score of several runs, whose predictions are `runs`."""
    runs, labels = _checked(metric, runs, labels)
    if metric in MEANS:
        values = _by_example(metric, labels, runs)
        if np.isin(values, (0, 1)).all():
            return _floats(*proportion_interval(int(values.sum()), len(values)))
    wrong, right = _bootstrap(metric, labels, runs, resamples, seed)
    return _ends(wrong.mean(axis=0), right.mean(axis=0))


def paired_difference_interval(
    metric: str, a: Answers, b: Answers, labels: Answers, **draws: int
) -> tuple[float, float]:
    """The 95 % interval of score(a) - score(b), both on the same examples. If it does not contain 0, they differ.

    Examples that are hard for both cancel out. Equal predictions for all n examples give an interval of +-3.7 / n.
    """
    return mean_difference_interval(metric, [a], [b], labels, **draws)


def mean_difference_interval(
    metric: str, a: Sequence, b: Sequence, labels: Answers, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean score of the runs `a` minus that of the runs `b`. Their numbers of runs may
    differ."""
    runs, labels = _checked(metric, [*a, *b], labels)
    if metric in MEANS:
        values = _by_example(metric, labels, runs[: len(a)]) - _by_example(metric, labels, runs[len(a) :])
        if np.isin(values, (-1, 0, 1)).all():
            only_a, only_b = int((values > 0).sum()), int((values < 0).sum())
            return _floats(*proportion_difference_interval(only_a, only_b, len(values)))
    wrong, right = _bootstrap(metric, labels, runs, resamples, seed)
    ours, theirs = slice(len(a)), slice(len(a), None)
    least, most = ((x[ours].mean(axis=0) - y[theirs].mean(axis=0)) for x, y in ((wrong, right), (right, wrong)))
    return _ends(least, most)


def proportion_interval(count: Counts, of: int) -> tuple[Any, Any]:
    """Clopper and Pearson's interval of a share, of which `count` in `of` examples were observed."""
    from scipy.stats import beta

    count = np.asarray(count)
    low = beta.ppf(TAIL, np.maximum(count, 1), of - count + 1)
    high = beta.ppf(1 - TAIL, count + 1, np.maximum(of - count, 1))
    return np.where(count > 0, low, 0.0), np.where(count < of, high, 1.0)


def proportion_difference_interval(only_a: Counts, only_b: Counts, of: int) -> tuple[Any, Any]:
    """The interval of P(only a is right) - P(only b is right), observed in `only_a` and `only_b` of `of` examples.

    With the shares p and q, their exact limits l, u and l', u', and the correlation r of their counts (negative,
    because an example cannot be in both), the lower end is p - q - sqrt((p - l)^2 + (u' - q)^2 - 2 r (p - l) (u' - q)).
    The upper end is its mirror image.
    """
    p, q = np.asarray(only_a) / of, np.asarray(only_b) / of
    (low, high), (low_q, high_q) = proportion_interval(only_a, of), proportion_interval(only_b, of)
    scale = np.maximum((1 - p) * (1 - q), 0.5 / of**2)  # where (1 - p) (1 - q) is 0, so is p q
    r = -np.sqrt(p * q / scale)

    def distance(x: Any, y: Any) -> Any:
        return np.sqrt(x * x + y * y - 2 * r * x * y)

    below, above = distance(p - low, high_q - q), distance(high - p, q - low_q)
    return np.maximum(p - q - below, -1.0), np.minimum(p - q + above, 1.0)


def examples_needed(bound: float) -> int:
    """The number of examples that bounds the loss by `bound` if two models are right on the same examples."""
    return math.ceil(math.log(TAIL) / math.log1p(-bound))


def paired_p_value(metric: str, a: Answers, b: Answers, labels: Answers, **draws: int) -> float:
    """Two-sided p-value for "a and b are equally good". McNemar's exact test for metrics that are a share of right
    examples, the permutation test for the others.

    The smallest p-value that a permutation test can give is 1 / (permutations + 1).
    """
    return mean_p_value(metric, [a], [b], labels, **draws)


def mean_p_value(
    metric: str, a: Sequence, b: Sequence, labels: Answers, *, permutations: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value for "the runs a and the runs b are equally good on average". There must be equally many.

    An example's predictions are exchanged in all pairs of runs or in none, because they depend on each other.
    """
    if len(a) != len(b):
        raise UserError(
            f"a paired test got {len(a)} runs on one side and {len(b)} on the other: expected equally many."
        )
    runs, labels = _checked(metric, [*a, *b], labels)
    pairs = list(zip(runs[: len(a)], runs[len(a) :], strict=True))
    if metric in RIGHT_OR_WRONG and len(pairs) == 1:
        right_a, right_b = (sums[:, 0] > 0 for sums in example_sums(metric, labels, *pairs[0]))
        return mcnemar(right_a, right_b)
    swaps = [_swaps(metric, labels, *pair) for pair in pairs]

    def difference(swap: Bool[np.ndarray, "r n"]) -> Float[np.ndarray, "r"]:
        return np.abs(np.mean([np.subtract(*swapped(swap)) for swapped in swaps], axis=0))

    observed = difference(np.zeros((1, len(labels)), bool)).item()
    rng, as_extreme = np.random.default_rng(seed), 0
    for size in _chunks(permutations, len(labels)):
        swap = rng.random((size, len(labels))) < 0.5
        as_extreme += int((difference(swap) >= observed - 1e-12).sum())  # differences within rounding count as equal
    return (as_extreme + 1) / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple tests (Holm 1979). Rejecting those below 5 % makes an error in at most 5 % of all
    tables.

    The k-th smallest of m (k from 0) is multiplied by m - k. No corrected value is smaller than the one before it, or
    above 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.asarray(p_values, np.float64)
    corrected[order] = np.maximum.accumulate(corrected[order] * np.arange(len(order), 0, -1))
    return np.minimum(corrected, 1.0).tolist()


def mcnemar(right_a: Bool[np.ndarray, "n"], right_b: Bool[np.ndarray, "n"]) -> float:
    """Exact two-sided McNemar test (McNemar 1947, with the binomial instead of chi-square), valid for any count."""
    from scipy.stats import binomtest

    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def _checked(metric: str, runs: Sequence, labels: Any) -> tuple[list, Any]:
    pairs = [checked(metric, run, labels) for run in runs]
    return [predictions for predictions, _ in pairs], pairs[0][1]


def _by_example(metric: str, labels: Any, runs: list) -> Float[np.ndarray, "n"]:
    """The contribution of each example to a score that is a mean, averaged over the runs."""
    return np.mean([sums[:, 0] for sums in example_sums(metric, labels, *runs)], axis=0)


def _bootstrap(
    metric: str, labels: Any, models: list, resamples: int, seed: int
) -> tuple[Float[np.ndarray, "m r"], Float[np.ndarray, "m r"]]:
    """The scores of every model on `resamples` samples with replacement, which are the same for all models. Each sample
    is drawn from the examples and one more: any of them with a wrong prediction (first result), or with a correct one
    (second)."""
    rng, n = np.random.default_rng(seed), len(labels)
    correlation, ranked = metric in ("pearson", "spearman"), _ranks if metric == "spearman" else np.asarray
    tables = _correlation_tables(labels, models, rng) if correlation else _sum_tables(metric, labels, models)
    chunks = []
    for size in _chunks(resamples, 2 * n):
        drawn = rng.integers(n * (n + 1), size=(size, n + 1))  # n times the examples, once the altered ones
        drawn = np.where(drawn < n * n, drawn // n, n + drawn - n * n)
        if correlation:
            gold = ranked(np.tile(labels, 2)[drawn])
            chunks.append([_correlations(ranked(table[drawn]), gold) for table in tables])
        else:
            times = _multiplicity(drawn, 2 * n)
            chunks.append([score_of_sums(metric, times @ table) for table in tables])
    wrong, right = np.split(np.concatenate(chunks, axis=1), 2)
    return wrong, right


def _sum_tables(metric: str, labels: Any, models: list) -> list[Float[np.ndarray, "two_n k"]]:
    """For each model, the contributions of every example, followed by those with wrong predictions; then the same for
    all models with correct predictions."""
    sums = example_sums(metric, labels, *models)
    return [np.vstack([own, answered(metric, own, right)]) for right in (False, True) for own in sums]


def _correlation_tables(
    labels: Float[np.ndarray, "n"], models: list, rng: np.random.Generator
) -> list[Float[np.ndarray, "two_n"]]:
    """The same for predicted numbers. A wrong prediction is the model's prediction for another example. Correct ones
    are its predictions sorted in the order of the labels."""
    other, place = rng.permutation(len(labels)), labels.argsort(kind="stable").argsort(kind="stable")
    wrong = [np.concatenate([own, own[other]]) for own in models]
    return wrong + [np.concatenate([own, np.sort(own)[place]]) for own in models]


def _swaps(metric: str, labels, a, b) -> Callable[[Bool[np.ndarray, "r n"]], tuple[np.ndarray, np.ndarray]]:
    """A function of `swap` that returns the two scores after the models' predictions are exchanged where it is true."""
    if metric == "spearman":
        gold = _ranks(labels[None])
        return lambda swap: (
            _correlations(_ranks(np.where(swap, b, a)), gold),
            _correlations(_ranks(np.where(swap, a, b)), gold),
        )
    sums_a, sums_b = example_sums(metric, labels, a, b)
    moved, total_a, total_b = sums_b - sums_a, sums_a.sum(0), sums_b.sum(0)

    def swapped(swap):
        change = swap.astype(np.float64) @ moved
        return score_of_sums(metric, total_a + change), score_of_sums(metric, total_b - change)

    return swapped


def _chunks(total: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS // width)
    return (min(step, total - start) for start in range(0, total, step))


def _multiplicity(drawn: Int[np.ndarray, "r m"], n: int) -> Float[np.ndarray, "r n"]:
    """How often each of n examples was drawn into each resample."""
    r = len(drawn)
    flat = drawn + n * np.arange(r)[:, None]
    return np.bincount(flat.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def _ranks(values: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
    from scipy.stats import rankdata

    return rankdata(values, axis=1)


def _correlations(x: Float[np.ndarray, "r n"], y: Float[np.ndarray, "#r n"]) -> Float[np.ndarray, "r"]:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    spread = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.zeros(len(x)), where=spread > 0)


def _ends(low: Float[np.ndarray, "r"], high: Float[np.ndarray, "r"]) -> tuple[float, float]:
    return _floats(np.percentile(low, 100 * TAIL), np.percentile(high, 100 * (1 - TAIL)))


def _floats(low: Any, high: Any) -> tuple[float, float]:
    return float(low), float(high)
