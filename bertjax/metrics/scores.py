"""Every score, and the same scores computed from sums over examples.

`score` is the number in a report. Intervals and tests need the score of thousands of resampled data sets. Calling a
library for each is slow, and importing scikit-learn adds a second to every command. All scores but one are functions of
sums over examples (of the confusion table, of products, of entity counts). So `example_sums` gives the contribution of
every example and `score_of_sums` the score of any sum of contributions: a bootstrap is one matrix product. The
exception is Spearman, whose ranks depend on the whole sample.

    metric         predictions             labels                  score
    accuracy       int [n]                 int [n]                 share of correct ones
    f1             0/1 [n]                 0/1 [n]                 F1 of the class with id 1
    f1_macro       int [n]                 int [n]                 mean F1 of the classes that occur
    matthews       int [n]                 int [n]                 Matthews correlation, any number of classes
    pearson        float [n]               float [n]               linear correlation
    spearman       float [n]               float [n]               rank correlation, ties at their mean rank
    f1_micro       0/1 [n, c]              0/1 [n, c]              F1 over all (example, label) cells
    entity_f1      n lists of tags         n lists of tags         F1 of exact spans with their type (IOB, BIOES, BILOU)
    tag_accuracy   n lists of tags         n lists of tags         share of words with the right tag
    squad_em/_f1   n strings               n lists of strings      exact match / word F1 against the best gold answer
    similarity_spearman, recall_at_10, ndcg_at_10: float [n, d], similarities and relevance (bertjax.metrics.neighbours)

The correlations of a model whose predictions are all equal are defined as 0.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from bertjax.errors import UserError
from bertjax.metrics import neighbours
from bertjax.metrics.spans import answer_scores, entity_counts, tag_counts
from bertjax.text import tasks

Answers = Sequence | np.ndarray
"""A prediction, or a label, for each example: a class, a number, several labels, the tags of its words, or a string."""
METRICS = tuple(chain.from_iterable(tasks.METRICS.values()))
RIGHT_OR_WRONG = ("accuracy", "squad_em")  # the score is the share of examples that are right
MEANS = ("accuracy", "squad_em", "squad_f1", *neighbours.METRICS)  # the score is the mean of one number per example


def score(metric: str, predictions: Answers, labels: Answers) -> float:
    """The score in [0, 1] ([-1, 1] for the three correlations). The table above lists the form of `predictions` and
    `labels`."""
    predictions, labels = checked(metric, predictions, labels)
    if metric in ("pearson", "spearman"):
        from scipy import stats

        if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0
        correlation: Any = stats.pearsonr if metric == "pearson" else stats.spearmanr
        return float(correlation(predictions, labels).statistic)
    (sums,) = example_sums(metric, labels, predictions)
    return float(score_of_sums(metric, sums.sum(0, keepdims=True))[0])


def answers(kind: str, logits: Float[np.ndarray, "n c"]) -> np.ndarray:
    """Predictions from logits with one row per text, in the form that `score` takes: a class id, a number, or 0 and 1
    per label."""
    if kind == "classification":
        return logits.argmax(axis=-1)
    return logits[:, 0] if kind == "regression" else (logits > 0).astype(np.int64)


def checked(metric: str, predictions: Answers, labels: Answers) -> tuple[Any, Any]:
    """Both sides as the arrays (or lists, for tags and answers) that the metric needs.

    Raises:
      UserError: An unknown metric, or values that do not fit it.
    """
    if metric not in METRICS:
        raise UserError(f"Unknown metric {metric!r}.\nKnown: {', '.join(METRICS)}.")
    if len(predictions) != len(labels) or len(labels) == 0:
        raise UserError(
            f"{metric} got {len(predictions)} predictions for {len(labels)} labels: expected equally many, and some."
        )
    if metric in ("entity_f1", "tag_accuracy", "squad_f1", "squad_em"):
        return predictions, labels
    return _numbers(metric, "predictions", predictions), _numbers(metric, "labels", labels)


def _numbers(metric: str, name: str, values: Answers) -> np.ndarray:
    """Finite numbers of the metric's rank; class ids as int64."""
    array, rank = np.asarray(values), 2 if metric in ("f1_micro", *neighbours.METRICS) else 1
    real = metric in ("pearson", "spearman", *neighbours.METRICS)
    if array.dtype.kind not in "biuf" or array.ndim != rank or not np.isfinite(array).all():
        actual = f"{array.dtype} {list(array.shape)}"
        raise UserError(f"{metric} got {name} {actual}: expected finite numbers in {rank} dimension{'s' * (rank > 1)}.")
    if metric in ("f1", "f1_micro") and not np.isin(array, (0, 1)).all():
        raise UserError(f"{metric} got {name} other than 0 and 1.\nFor more than two classes use 'f1_macro'.")
    if not real and ((array < 0).any() or (array % 1).any()):
        raise UserError(f"{metric} got {name} that are not class ids: expected whole numbers from 0.")
    return array.astype(np.float64 if real else np.int64)


def example_sums(metric: str, labels: Any, *predictions: Any) -> list[Float[np.ndarray, "n k"]]:
    """For each model's predictions, the contribution of every example to the sums that `score_of_sums` reads.

    The columns mean the same for all models, so a row may be exchanged between them. Not for Spearman.
    """
    if metric == "pearson":
        y, centred = labels - labels.mean(), [x - labels.mean() for x in predictions]  # the same shift for all
        return [np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1) for x in centred]
    if metric == "tag_accuracy":
        return [tag_counts(tags, labels) for tags in predictions]
    if metric == "entity_f1":
        return [entity_counts(tags, labels) for tags in predictions]
    if metric in ("f1", "f1_micro"):
        cells, tables = labels.reshape(len(labels), -1), [p.reshape(len(labels), -1) for p in predictions]
        return [_counts(table, cells).sum(axis=2) for table in tables]
    if metric in ("f1_macro", "matthews"):
        classes = np.unique(np.concatenate([labels, *predictions]))
        return [_counts(p[:, None] == classes, labels[:, None] == classes).reshape(len(p), -1) for p in predictions]
    if metric in neighbours.METRICS:
        values = [neighbours.query_scores(metric, similarities, labels) for similarities in predictions]
        return [np.stack([value, np.ones(len(value))], axis=1) for value in values]
    column = {"squad_em": 0, "squad_f1": 1}
    values = [answer_scores(p, labels)[:, column[metric]] if metric in column else p == labels for p in predictions]
    return [np.stack([value, np.ones(len(value))], axis=1).astype(np.float64) for value in values]


def _counts(predicted: Shaped[np.ndarray, "n c"], gold: Shaped[np.ndarray, "n c"]) -> Float[np.ndarray, "n 3 c"]:
    """Per cell: true positives, predicted positives, gold positives."""
    return np.stack([predicted * gold, predicted, gold], axis=1).astype(np.float64)


def answered(metric: str, sums: Float[np.ndarray, "n k"], right: bool) -> Float[np.ndarray, "n k"]:
    """`example_sums` as if the predictions for all examples were correct (`right`), or all wrong.

    A wrong prediction is the next class, or as many labels or entities as in the gold labels, none of them correct. An
    example without any label or entity, which does not count in F1, gets one here.
    """
    if metric in MEANS:
        return np.stack([np.full(len(sums), float(right)), np.ones(len(sums))], axis=1)
    if metric == "tag_accuracy":
        return sums[:, 1:] * [float(right), 1.0]
    gold = sums.reshape(len(sums), 3, -1)[:, 2]
    if metric in ("f1", "f1_micro", "entity_f1"):
        gold = np.maximum(gold, 1)
        predicted = 0 * gold if metric == "f1" else gold
    else:
        predicted = np.roll(gold, 1, axis=1) if gold.shape[1] > 1 else 0 * gold
    return np.stack([gold, gold, gold] if right else [0 * gold, predicted, gold], axis=1).reshape(len(sums), -1)


def score_of_sums(metric: str, sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "r"]:
    """The score of each of r data sets. A row of `sums` is the sum of the `example_sums` of one data set."""
    if metric in MEANS or metric == "tag_accuracy":
        return sums[..., 0] / sums[..., 1]
    if metric == "pearson":
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        return _ratio(n * xy - x * y, np.sqrt(_positive(n * xx - x * x, n * xx) * _positive(n * yy - y * y, n * yy)))
    hits, predicted, gold = np.moveaxis(sums.reshape(len(sums), 3, -1), 1, 0)
    if metric == "matthews":  # Gorodkin 2004, eq. 8, from the margins of the confusion table
        n, right = gold.sum(-1), hits.sum(-1)
        spread = (n * n - (predicted * predicted).sum(-1)) * (n * n - (gold * gold).sum(-1))
        return _ratio(right * n - (predicted * gold).sum(-1), np.sqrt(spread))
    f1 = _ratio(2 * hits, predicted + gold)
    return f1.sum(-1) / np.maximum((predicted + gold > 0).sum(-1), 1)  # a class that does not occur has no F1


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def _positive(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The difference, or 0 if it is only the rounding error of two equal numbers."""
    return np.where(difference > 1e-12 * scale, difference, 0.0)
