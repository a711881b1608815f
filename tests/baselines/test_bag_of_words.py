"""The baseline against scikit-learn's own pipeline, and what is stored of it."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from bertjax.baselines import bag_of_words as room
from bertjax.baselines.bag_of_words import bag_of_words_bytes, fit_bag_of_words, load_bag_of_words
from bertjax.errors import UserError
from bertjax.metrics.scores import score

RNG = np.random.default_rng(3)
MOODS = ["good fine warm lovely", "bad dull cold awful", "odd strange weird queer"]


def texts_of(moods):
    filler = ["a", "film", "the", "actor", "plot", "in", "which", "of"]
    words = [[*RNG.choice(MOODS[m].split(), 2), *RNG.choice(filler, 5)] for m in moods]
    return [" ".join(RNG.permutation(row)) for row in words]


TWO, THREE = RNG.integers(0, 2, 120), RNG.integers(0, 3, 120)
TABLE = np.stack([TWO, 1 - TWO, np.ones(120, int)], axis=1)
LABELS = {"two": ("classification", TWO), "three": ("classification", THREE), "multi_label": ("multi_label", TABLE)}


@pytest.mark.parametrize("name", LABELS)
def test_it_learns_what_the_words_say(name):
    kind, labels = LABELS[name]
    texts = texts_of(THREE if name == "three" else TWO)
    model = fit_bag_of_words(kind, texts[:90], labels[:90])
    metric = "f1_micro" if kind == "multi_label" else "accuracy"
    assert score(metric, model.predict(texts[90:]), labels[90:]) > 0.9


def test_two_classes_are_a_tfidf_and_logistic_regression_pipeline(monkeypatch):
    monkeypatch.setattr(room, "STRENGTHS", (2.0,))
    texts = texts_of(TWO)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", sublinear_tf=True)
    features = vectorizer.fit_transform(texts)
    oracle = LogisticRegression(C=2.0, solver="liblinear").fit(features, TWO)
    model = fit_bag_of_words("classification", texts, TWO)
    np.testing.assert_allclose(model.coef, oracle.coef_, rtol=0, atol=0.02)  # both solvers stop early, elsewhere
    np.testing.assert_array_equal(model.predict(texts), oracle.predict(features))


def test_numbers_are_a_ridge_regression(monkeypatch):
    monkeypatch.setattr(room, "STRENGTHS", (2.0,))
    texts, targets = texts_of(TWO), TWO + 0.1 * RNG.normal(size=120)
    model = fit_bag_of_words("regression", texts, targets)
    oracle = Ridge(alpha=0.5).fit(model.features(texts), targets)
    np.testing.assert_allclose(model.predict(texts), oracle.predict(model.features(texts)), rtol=0, atol=1e-3)


def test_class_ids_may_have_gaps():
    texts = texts_of(THREE)
    predicted = fit_bag_of_words("classification", texts, np.array([1, 5, 9])[THREE]).predict(texts)
    assert set(predicted.tolist()) == {1, 5, 9}


def test_letters_and_pairs_count_as_words():
    model = fit_bag_of_words("classification", ["it isn't"] * 5 + ["it is"] * 5, [0] * 5 + [1] * 5, ["now"] * 10)
    assert {"isn t", "t", "t now"} <= set(model.vectorizer.get_feature_names_out())


@pytest.mark.parametrize("name", LABELS)
def test_stored_baseline_gives_the_same_answers(name, tmp_path):
    kind, labels = LABELS[name]
    texts = texts_of(TWO)
    model = fit_bag_of_words(kind, texts, labels)
    model.save(tmp_path)
    again = load_bag_of_words(tmp_path)
    np.testing.assert_array_equal(again.predict(texts), model.predict(texts))
    np.testing.assert_allclose(again.features(texts).toarray(), model.features(texts).toarray(), rtol=0, atol=1e-6)
    assert again.parameters == model.parameters == model.coef.size + len(model.coef) + model.coef.shape[1]
    assert bag_of_words_bytes(tmp_path) == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_what_a_bag_of_words_cannot_do_is_said():
    with pytest.raises(UserError, match="no bag of words for 'qa'"):
        fit_bag_of_words("qa", ["a"], ["b"])
    with pytest.raises(UserError, match="all of one class"):
        fit_bag_of_words("classification", ["a", "b"], [1, 1])
