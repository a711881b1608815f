"""How far a score would move on other examples of the same kind, and whether two models really differ.

*Interval*: the 95 % percentile bootstrap over examples (Efron and Tibshirani 1993, ch. 13). It needs no formula per
metric, and says nothing about other seeds of the training: two runs of one recipe may differ by more.
*Paired test*: both models answer the same examples, so only those examples where they differ carry information. Where
an example is right or wrong, McNemar's exact test asks if a fair coin would split the disagreements so unevenly. For
other scores the permutation test does the same by force: if the models were equal, swapping their answers to any
example would change nothing, so it swaps at random and counts how often the scores then differ as much.
The interval of the difference resamples the examples once for both models, so what is hard for both cancels out.
*Several seeds*: the score of a method is the mean over its runs, and an example carries the answers of all of them, to
be resampled or swapped together. Runs of one method are alike in what they find hard, so three runs on n examples are
far from 3 n examples. The interval is that of these runs on other examples.
*Many tests*: the more rows are held against one, the sooner one of them differs by chance; `holm` makes up for it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bertjax.errors import UserError
from bertjax.measure.scores import checked, example_sums, score_of_sums

_CELLS = 2**22  # resamples are drawn in chunks of about this many numbers (32 MB)


def bootstrap_interval(
    metric: str,
    predictions: Sequence | np.ndarray,
    labels: Sequence | np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval (low, high) of `score(metric, predictions, labels)`."""
    return mean_interval(metric, [predictions], labels, resamples=resamples, seed=seed)


def mean_interval(
    metric: str, runs: Sequence, labels: Sequence | np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean score of several runs, whose predictions are `runs`."""
    checked_runs, labels = _checked(metric, runs, labels)
    return _middle(np.mean(_bootstrap(metric, labels, checked_runs, resamples, seed), axis=0))


def paired_difference_interval(
    metric: str,
    a: Sequence | np.ndarray,
    b: Sequence | np.ndarray,
    labels: Sequence | np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of score(a) - score(b), both on the same resampled examples. Clear of 0: they differ."""
    return mean_difference_interval(metric, [a], [b], labels, resamples=resamples, seed=seed)


def mean_difference_interval(
    metric: str, a: Sequence, b: Sequence, labels: Sequence | np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean score of the runs `a` less that of the runs `b`, which may be more or fewer."""
    runs, labels = _checked(metric, [*a, *b], labels)
    scores = _bootstrap(metric, labels, runs, resamples, seed)
    return _middle(np.mean(scores[: len(a)], axis=0) - np.mean(scores[len(a) :], axis=0))


def paired_p_value(
    metric: str,
    a: Sequence | np.ndarray,
    b: Sequence | np.ndarray,
    labels: Sequence | np.ndarray,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value for "a and b are equally good": exact McNemar where answers are right or wrong.

    The smallest p-value that a permutation test can give is 1 / (permutations + 1).
    """
    return mean_p_value(metric, [a], [b], labels, permutations=permutations, seed=seed)


def mean_p_value(
    metric: str, a: Sequence, b: Sequence, labels: Sequence | np.ndarray, *, permutations: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value for "the runs a and the runs b are equally good in the mean", as many of one as of the other.

    An example's answers are swapped in all pairs of runs or in none, because they are not independent of each other.
    """
    if len(a) != len(b):
        raise UserError(f"a paired test got {len(a)} runs on one side and {len(b)} on the other: expected as many.")
    runs, labels = _checked(metric, [*a, *b], labels)
    pairs = list(zip(runs[: len(a)], runs[len(a) :], strict=True))
    if metric in ("accuracy", "squad_em") and len(pairs) == 1:
        right_a, right_b = (sums[:, 0] > 0 for sums in example_sums(metric, labels, *pairs[0]))
        return mcnemar(right_a, right_b)
    swaps = [_swaps(metric, labels, *pair) for pair in pairs]

    def difference(swap: Bool[np.ndarray, "r n"]) -> Float[np.ndarray, "r"]:
        return np.abs(np.mean([np.subtract(*swapped(swap)) for swapped in swaps], axis=0))

    observed = difference(np.zeros((1, len(labels)), bool)).item()
    rng, as_extreme = np.random.default_rng(seed), 0
    for size in _chunks(permutations, len(labels)):
        swap = rng.random((size, len(labels))) < 0.5
        as_extreme += int((difference(swap) >= observed - 1e-12).sum())  # equal but for rounding counts as equal
    return (as_extreme + 1) / (permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value as if it were the only one (Holm 1979): to reject where it is below 5 % errs in 5 % of all tables.

    The k-th smallest of m (k from 0) is multiplied by m - k; none becomes smaller than one before it, nor more than 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.asarray(p_values, np.float64)
    corrected[order] = np.maximum.accumulate(corrected[order] * np.arange(len(order), 0, -1))
    return np.minimum(corrected, 1.0).tolist()


def mcnemar(right_a: Bool[np.ndarray, "n"], right_b: Bool[np.ndarray, "n"]) -> float:
    """Exact two-sided McNemar test (McNemar 1947, with the binomial in place of chi-square): fit for any count."""
    from scipy.stats import binomtest

    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def _checked(metric: str, runs: Sequence, labels: Any) -> tuple[list, Any]:
    pairs = [checked(metric, run, labels) for run in runs]
    return [predictions for predictions, _ in pairs], pairs[0][1]


def _bootstrap(metric: str, labels, models: list, resamples: int, seed: int) -> list[Float[np.ndarray, "r"]]:
    """The score of every model on `resamples` samples of the examples with replacement, the same for all the models."""
    rng, n = np.random.default_rng(seed), len(labels)
    sums = [] if metric == "spearman" else example_sums(metric, labels, *models)
    chunks = []
    for size in _chunks(resamples, n):
        drawn = rng.integers(n, size=(size, n))
        if metric == "spearman":
            gold = _ranks(labels[drawn])
            chunks.append([_correlations(_ranks(model[drawn]), gold) for model in models])
        else:
            times = _multiplicity(drawn)
            chunks.append([score_of_sums(metric, times @ table) for table in sums])
    return [np.concatenate(scores) for scores in zip(*chunks, strict=True)]


def _swaps(metric: str, labels, a, b) -> Callable[[Bool[np.ndarray, "r n"]], tuple[np.ndarray, np.ndarray]]:
    """A function of `swap`: the two scores after the models' answers are exchanged where it is true."""
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


def _multiplicity(drawn: Int[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
    """How often each example was drawn into each resample."""
    r, n = drawn.shape
    flat = drawn + n * np.arange(r)[:, None]
    return np.bincount(flat.ravel(), minlength=r * n).reshape(r, n).astype(np.float64)


def _ranks(values: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
    from scipy.stats import rankdata

    return rankdata(values, axis=1)


def _correlations(x: Float[np.ndarray, "r n"], y: Float[np.ndarray, "#r n"]) -> Float[np.ndarray, "r"]:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    spread = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.divide((x * y).sum(1), spread, out=np.zeros(len(x)), where=spread > 0)


def _middle(scores: Float[np.ndarray, "r"]) -> tuple[float, float]:
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)
