"""Scores against scikit-learn, SciPy and hand counts; the sums behind resampling against the scores themselves."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from bertjax.errors import UserError
from bertjax.metrics import neighbours, scores
from bertjax.metrics.scores import example_sums, score, score_of_sums
from bertjax.metrics.spans import entities, normalize_answer
from tests.tolerances import SAME_MATHS

RNG = np.random.default_rng(0)
BINARY = RNG.integers(0, 2, (2, 97))
CLASSES = RNG.integers(0, 5, (2, 97)) % [[4], [5]]  # class 4 is never predicted
REAL = np.round(RNG.normal(size=(2, 97)) + RNG.normal(size=97), 1)  # rounded: with ties
TABLE = (RNG.random((2, 97, 6)) < 0.3).astype(int)
TAGS = [["O", "B-A", "I-A", "I-B", "O"], ["I-A", "I-A", "B-A", "O", "O"]]
ANSWERS = ["the cat", "in 1990", "", "Paris, France"]
GOLDS = [["a cat!", "dog"], ["1990", "the year 1990"], ["x"], ["Paris"]]

CASES = [
    ("accuracy", *CLASSES, sk.accuracy_score),
    ("f1", *BINARY, sk.f1_score),
    ("f1_macro", *CLASSES, lambda y, p: sk.f1_score(y, p, average="macro")),
    ("matthews", *CLASSES, sk.matthews_corrcoef),
    ("matthews", *BINARY, sk.matthews_corrcoef),
    ("pearson", *REAL, lambda y, p: stats.pearsonr(y, p)[0]),
    ("spearman", *REAL, lambda y, p: stats.spearmanr(y, p)[0]),
    ("f1_micro", *TABLE, lambda y, p: sk.f1_score(y, p, average="micro")),
]


@pytest.mark.parametrize(("metric", "predictions", "labels", "oracle"), CASES)
def test_score_is_the_one_of_the_library(metric, predictions, labels, oracle):
    assert score(metric, predictions, labels) == pytest.approx(oracle(labels, predictions), abs=1e-12)
    assert score(metric, predictions.tolist(), labels.tolist()) == pytest.approx(oracle(labels, predictions), abs=1e-12)


@pytest.mark.parametrize(("metric", "predictions", "labels", "oracle"), [c for c in CASES if c[0] != "spearman"])
def test_sums_over_any_resample_give_the_score_of_that_resample(metric, predictions, labels, oracle):
    (sums,) = example_sums(metric, labels, predictions)
    for size in (97, 11):
        drawn = RNG.integers(97, size=(5, size))
        wanted = [score(metric, predictions[rows], labels[rows]) for rows in drawn]
        np.testing.assert_allclose(score_of_sums(metric, sums[drawn].sum(1)), wanted, **SAME_MATHS)


def test_a_model_with_one_answer_correlates_with_nothing():
    constant = np.full(97, 1.1)
    assert score("pearson", constant, REAL[1]) == score("spearman", constant, REAL[1]) == 0
    (sums,) = example_sums("pearson", REAL[1], constant)
    assert score_of_sums("pearson", sums.sum(0, keepdims=True)) == 0
    assert score("matthews", np.ones(97, int), BINARY[1]) == 0
    assert score("f1", np.zeros(97, int), BINARY[1]) == 0


def entities_by_conlleval(tags):
    """Restates conlleval: chunk starts and ends are decided separately from neighbouring tags."""
    split = [("O", "") if t == "O" else tuple(t.split("-", 1)) for t in tags]
    found = set()
    for i, (prefix, kind) in enumerate(split):
        before = split[i - 1] if i else ("O", "")
        starts = prefix == "B" or (prefix == "I" and (before[0] == "O" or before[1] != kind))
        if not starts:
            continue
        last = i
        while last + 1 < len(split) and split[last + 1] == ("I", kind):
            last += 1
        found.add((kind, i, last))
    return found


def test_entities_are_those_of_conlleval_for_any_sequence_of_tags():
    vocabulary = np.array(["O", "B-A", "I-A", "B-B", "I-B", "I-B-2"])
    for _ in range(300):
        tags = RNG.choice(vocabulary, size=RNG.integers(0, 9)).tolist()
        found = list(entities(tags))
        assert set(found) == entities_by_conlleval(tags)
        assert len(found) == len(set(found))


def test_iob1_and_iob2_spell_the_same_entities():
    iob1 = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]
    iob2 = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-PER"]
    assert list(entities(iob1)) == list(entities(iob2)) == [("PER", 0, 1), ("LOC", 3, 3), ("LOC", 4, 4), ("PER", 5, 5)]


def test_entities_of_every_notation_are_those_of_seqeval():
    """Also of sequences that no notation allows."""
    from seqeval.metrics import accuracy_score, f1_score
    from seqeval.metrics.sequence_labeling import get_entities

    bilou = str.maketrans("ES", "LU")
    vocabulary = np.array(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "XY")])
    draw = lambda: RNG.choice(vocabulary, size=8).tolist()  # noqa: E731
    for _ in range(300):
        tags = draw()
        assert sorted(entities(tags)) == sorted(get_entities(tags))
        assert list(entities([tag[0].translate(bilou) + tag[1:] for tag in tags])) == list(entities(tags))
    gold, predicted = [draw() for _ in range(50)], [draw() for _ in range(50)]
    assert score("entity_f1", predicted, gold) == pytest.approx(f1_score(gold, predicted))
    assert score("tag_accuracy", predicted, gold) == pytest.approx(accuracy_score(gold, predicted))


def test_entity_f1_wants_the_exact_span_and_type():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG", "O", "O"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC", "O", "O"]]  # one of three right: one too short, one mistyped
    assert score("entity_f1", found, gold) == pytest.approx(1 / 3)
    assert score("entity_f1", gold, gold) == 1
    assert score("entity_f1", [["O"]], [["O"]]) == 0


def test_squad_answers_are_compared_without_case_punctuation_articles_and_spacing():  # in this order
    assert normalize_answer("  The  U.S. (a nation),\tan Island,a-b ") == "us nation islandab"
    assert score("squad_em", ["The Cat."], [["cat"]]) == 1
    assert score("squad_em", ANSWERS, GOLDS) == pytest.approx(1 / 4)


def f1_by_crossing_out(answer, gold):
    """Restates SQuAD's F1 letter by letter: cross out every word of the gold answer that the answer has too."""
    kept = ["".join(c for c in side.lower() if c.isalnum() or c.isspace()).split() for side in (answer, gold)]
    answer, gold = ([word for word in words if word not in ("a", "an", "the")] for words in kept)
    left, shared = list(gold), 0
    for word in answer:
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def test_squad_f1_crosses_out_shared_words():
    words = np.array(["the", "The", "a", "an", "cat", "Cat!", "sat", "on", "(mat)", "--"])
    for _ in range(200):
        answer, gold = (" ".join(RNG.choice(words, RNG.integers(0, 6))) for _ in range(2))
        assert score("squad_f1", [answer], [[gold]]) == pytest.approx(f1_by_crossing_out(answer, gold))


def test_squad_f1_shares_words_with_the_best_gold_answer():
    by_hand = [1.0, 2 / 3, 0.0, 2 / 3]  # "in 1990" shares 1 of 2 and 1 of 1; "year 1990" would give 1/2
    assert score("squad_f1", ANSWERS, GOLDS) == pytest.approx(np.mean(by_hand))
    assert score("squad_f1", ANSWERS, [{"text": g, "answer_start": []} for g in GOLDS]) == pytest.approx(
        np.mean(by_hand)
    )
    assert score("squad_f1", ["b b c"], [["b b b"]]) == pytest.approx(2 / 3)  # repeated words count as often as shared


def squad2_by_the_rules(answer, golds):
    """Exact match and F1 as SQuAD 2.0 defines them, word by word: gold answers without words do not count, and a
    question that has no other wants the empty answer."""
    golds = [gold for gold in golds if normalize_answer(gold)]
    if not golds:
        return (float(normalize_answer(answer) == ""),) * 2
    equal = [float(normalize_answer(answer) == normalize_answer(gold)) for gold in golds]
    return max(equal), max(f1_by_crossing_out(answer, gold) for gold in golds)


def test_questions_without_an_answer_are_scored_as_in_squad_2():
    words = np.array(["the", "a", "cat", "Cat!", "sat", "--"])
    phrase = lambda: " ".join(RNG.choice(words, RNG.integers(0, 4)))  # noqa: E731
    answers = [phrase() for _ in range(300)]
    golds = [[], *([phrase() for _ in range(RNG.integers(0, 4))] for _ in range(299))]
    wanted = [squad2_by_the_rules(*pair) for pair in zip(answers, golds, strict=True)]
    for column, metric in enumerate(("squad_em", "squad_f1")):
        assert score(metric, answers, golds) == pytest.approx(np.mean([row[column] for row in wanted]))
    assert score("squad_f1", ["", "cat"], [[], []]) == 1 / 2
    assert score("squad_f1", ["an"], [["the"]]) == 0  # as in SQuAD 1.1, where every question has an answer
    assert score("squad_em", ["an"], [["the"]]) == 1


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "says"),
    [
        ("acuracy", [1], [1], "Known: accuracy"),
        ("accuracy", [1, 0], [1], "2 predictions for 1 labels"),
        ("accuracy", [], [], "equally many, and some"),
        ("accuracy", ["fresh"], ["fresh"], "finite numbers"),
        ("accuracy", [[1]], [[1]], "1 dimension:|1 dimension\\."),
        ("accuracy", [1, 0], [1, -100], "not class ids"),
        ("f1", [1, 0], [2, 0], "f1_macro"),
        ("pearson", [1.0, np.nan], [1.0, 2.0], "finite"),
        ("entity_f1", [["NNP"]], [["O"]], "not IOB"),
        ("entity_f1", [["O"]], [["O", "O"]], "Sentence 0 has 2 gold tags"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(metric, predictions, labels, says):
    with pytest.raises(UserError, match=says):
        score(metric, predictions, labels)


def test_every_metric_is_scored_in_these_tests():
    assert {case[0] for case in CASES} | {
        "entity_f1",
        "tag_accuracy",
        "squad_f1",
        "squad_em",
        *neighbours.METRICS,
    } == set(scores.METRICS)
