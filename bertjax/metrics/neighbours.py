"""Scores of embeddings: how well they order texts by similarity.

Every score here is a mean over queries of one number, so intervals and paired tests are those of a mean. They say how
much it would vary with other queries and the same documents. Predictions are the similarities of every query to every
document, and labels are their relevance, both [queries, documents]:

    form of the text         queries and documents                   relevance
    texts without scores     every text, and all the others          the similarities by the reference model
    pairs with scores        first texts, and all second texts       the score of the pair, 0 if there is none

Against a reference model, recall and nDCG count its ten nearest texts as relevant.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from bertjax.errors import UserError

TOP = 10
METRICS = ("similarity_spearman", f"recall_at_{TOP}", f"ndcg_at_{TOP}")
"""similarity_spearman: rank correlation with the relevance of all documents. recall: the share of the relevant
documents (of at most ten) among the first ten. ndcg: the relevance of the first ten, discounted by the logarithm of the
rank, as a share of the highest possible (Järvelin and Kekäläinen 2002)."""
OF_PAIRS = ("spearman", "pearson")
"""Metrics of the cosine of each pair against its score."""


def query_scores(
    metric: str, similarities: Float[np.ndarray, "q d"], relevance: Float[np.ndarray, "q d"]
) -> Float[np.ndarray, "q"]:
    """The score of every query; 0 for one without a relevant document, or with equal similarities."""
    if metric == "similarity_spearman":
        from scipy.stats import rankdata

        ranks = [rankdata(one, axis=1) for one in (similarities, relevance)]
        x, y = (one - one.mean(axis=1, keepdims=True) for one in ranks)
        return _share((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))
    first = np.argsort(-similarities, axis=1, kind="stable")[:, :TOP]
    found, best = np.take_along_axis(relevance, first, axis=1), -np.sort(-relevance, axis=1)[:, :TOP]
    if metric.startswith("recall"):
        return _share((found > 0).sum(axis=1), np.minimum((relevance > 0).sum(axis=1), TOP))
    discounts = 1 / np.log2(np.arange(2, best.shape[1] + 2))
    return _share(found @ discounts, best @ discounts)


def compared(
    metric: str,
    vectors: Any,
    gold: np.ndarray | None,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, in the form that `bertjax.metrics.scores.score` compares.

    Args:
      vectors: Embeddings [rows, e], perhaps sparse. With `pairs`, the rows of each pair follow each other.
      gold: The score of the pair of each row [rows], or the reference's embedding of each row [rows, e].

    Raises:
      UserError: The metric does not fit the text.
    """
    assert gold is not None
    if gold.ndim == 2:
        if metric not in METRICS:
            raise UserError(f"metric {metric} needs pairs with scores, and this text has none: {advice(METRICS)}")
        return similarities(vectors), relevance_by(metric, gold)
    assert pairs is not None
    if metric in OF_PAIRS:
        unit = unit_rows(vectors)
        products = unit[::2].multiply(unit[1::2]) if hasattr(unit, "multiply") else unit[::2] * unit[1::2]
        return np.asarray(products.sum(axis=1)).ravel().astype(np.float64), gold[::2].astype(np.float64)
    if metric == "similarity_spearman":
        others = *OF_PAIRS, *METRICS[1:]
        raise UserError(f"metric {metric} compares with a model, and these pairs have scores: {advice(others)}")
    return retrieved(unit_rows(vectors), gold, texts, pairs)


def advice(metrics: Sequence[str]) -> str:
    return f"use one of {', '.join(metrics)}."


def retrieved(unit: Any, gold: np.ndarray, texts: Sequence[str], pairs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and relevance of every first text to every second text; equal texts are one."""
    sides = [dict[str, int](), dict[str, int]()]
    both = zip(sides, (texts, pairs), strict=True)
    places = [[seen.setdefault(text, len(seen)) for text in side] for seen, side in both]
    relevance = np.zeros([len(seen) for seen in sides])
    np.maximum.at(relevance, tuple(map(np.array, places)), gold[::2])
    rows = [2 * np.unique(place, return_index=True)[1] + side for side, place in enumerate(places)]
    return dense(unit[rows[0]] @ unit[rows[1]].T), relevance


def relevance_by(metric: str, reference: np.ndarray) -> Float[np.ndarray, "n m"]:
    """The similarities of a reference model; for recall and nDCG, only those of the nearest texts."""
    found = similarities(reference)
    if metric == "similarity_spearman":
        return found
    nearest = np.argsort(-found, axis=1, kind="stable")[:, :TOP]
    kept = np.zeros_like(found)
    values = np.maximum(np.take_along_axis(found, nearest, axis=1), 1e-6)  # relevant, even if the cosine is negative
    np.put_along_axis(kept, nearest, values, axis=1)
    return kept


def similarities(vectors: Any) -> Float[np.ndarray, "n m"]:
    """The cosine of every text with each of the others, in their order."""
    unit = unit_rows(vectors)
    whole, count = dense(unit @ unit.T), unit.shape[0]
    if count < 2:
        raise UserError("one text has no others to be compared with: give at least two.")
    return whole[~np.eye(count, dtype=bool)].reshape(count, count - 1)


def unit_rows(vectors: Any) -> Any:
    """Rows of length 1; a row of zeros stays so."""
    if hasattr(vectors, "multiply"):  # a sparse matrix
        from sklearn.preprocessing import normalize

        return normalize(vectors)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, np.float64)


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
