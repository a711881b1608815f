"""Scores of embeddings against scipy and scikit-learn."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.metrics import ndcg_score
from sklearn.metrics.pairwise import cosine_similarity

from bertjax.errors import UserError
from bertjax.metrics import neighbours
from bertjax.metrics.neighbours import compared
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value, score_interval

SPEARMAN: Any = stats.spearmanr
RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=(40, 6))
OURS = REFERENCE @ RNG.normal(size=(6, 9)) + RNG.normal(size=(40, 9))
TEXTS = [f"text {i}" for i in range(40)]


def others(vectors: np.ndarray, row: int) -> np.ndarray:
    return np.delete(cosine_similarity(vectors)[row], row)


def by_loop(metric: str) -> float:
    values = []
    for row in range(40):
        ours, theirs = others(OURS, row), others(REFERENCE, row)
        nearest = set(np.argsort(-theirs)[:10])
        if metric == "similarity_spearman":
            values.append(SPEARMAN(ours, theirs).statistic)
        elif metric == "recall_at_10":
            values.append(len(nearest & set(np.argsort(-ours)[:10])) / 10)
        else:
            gains = np.array([theirs[i] if i in nearest else 0 for i in range(39)])
            values.append(ndcg_score(gains[None], ours[None], k=10))
    return float(np.mean(values))


@pytest.mark.parametrize("metric", neighbours.METRICS)
def test_agreement_with_a_reference_is_the_mean_over_texts(metric):
    predictions, labels = compared(metric, OURS, REFERENCE, TEXTS)
    assert score(metric, predictions, labels) == pytest.approx(by_loop(metric), abs=1e-9)
    assert score(metric, labels, labels) == pytest.approx(1.0)
    sparse, _ = compared(metric, csr_matrix(OURS), REFERENCE, TEXTS)
    np.testing.assert_allclose(sparse, predictions, atol=1e-12)
    low, high = score_interval(metric, predictions, labels)
    assert low < score(metric, predictions, labels) < high
    assert paired_p_value(metric, predictions, predictions, labels, permutations=99) == 1.0
    least, most = paired_difference_interval(metric, predictions, labels, labels)
    assert least < score(metric, predictions, labels) - 1 < most < 0


def pairs() -> tuple[list[str], list[str], np.ndarray]:
    """Nine pairs of three queries with graded scores; two documents occur twice."""
    first = ["q0", "q1", "q0", "q2", "q1", "q0", "q2", "q1", "q2"]
    second = ["d0", "d1", "d2", "d0", "d3", "d4", "d5", "d2", "d6"]
    return first, second, np.array([1.0, 0.0, 0.5, 0.2, 0.9, 0.0, 0.0, 0.3, 0.7], np.float32)


def test_pairs_are_scored_by_their_cosines_or_as_a_retrieval():
    first, second, scores = pairs()
    vector = {text: RNG.normal(size=5) for text in sorted({*first, *second})}
    rows = np.array([vector[text] for pair in zip(first, second, strict=True) for text in pair])
    gold = np.repeat(scores, 2)
    cosines = [cosine_similarity(vector[a][None], vector[b][None]).item() for a, b in zip(first, second, strict=True)]
    found = score("spearman", *compared("spearman", rows, gold, first, second))
    assert found == pytest.approx(SPEARMAN(cosines, scores).statistic)

    queries, documents = ["q0", "q1", "q2"], [f"d{i}" for i in (0, 1, 2, 3, 4, 5, 6)]
    relevance = np.zeros((3, 7))
    for a, b, given in zip(first, second, scores, strict=True):
        relevance[queries.index(a), documents.index(b)] = given
    similar = cosine_similarity([vector[q] for q in queries], [vector[d] for d in documents])
    assert score("ndcg_at_10", *compared("ndcg_at_10", rows, gold, first, second)) == pytest.approx(
        ndcg_score(relevance, similar, k=10)
    )
    assert score("recall_at_10", *compared("recall_at_10", rows, gold, first, second)) == 1.0


def test_recall_counts_what_is_among_the_first_ten():
    similar, relevance = -np.arange(30.0)[None], np.zeros((2, 30))
    relevance[0, [0, 9, 10, 29]] = 1
    relevance[1, :] = 1
    found = neighbours.query_scores("recall_at_10", np.repeat(similar, 2, axis=0), relevance)
    assert found.tolist() == [0.5, 1.0]


def test_a_metric_that_does_not_fit_the_text_is_an_error():
    with pytest.raises(UserError, match="needs pairs with scores"):
        compared("spearman", OURS, REFERENCE, TEXTS)
    with pytest.raises(UserError, match="compares with a model"):
        compared("similarity_spearman", OURS, np.zeros(40), TEXTS[:20], TEXTS[20:])
    with pytest.raises(UserError, match="one text has no others"):
        compared("similarity_spearman", OURS[:1], REFERENCE[:1], TEXTS[:1])
