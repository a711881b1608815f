"""From logits back to tags and answers: what training was told, put through as logits, comes out again."""

import dataclasses

import numpy as np
import pytest

from bertjax.predict import labels_from_logits, score_inputs
from bertjax.text.answers import best_answers, best_span, best_threshold, predicted_tags, tags_or_answers
from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from tests.text.test_encode import QA, questions
from tests.text.tiny import tiny_tokenizer


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all(longest):
    random = np.random.default_rng(0)
    for tokens in (1, 2, 7, 40):
        start, end = random.normal(size=(2, tokens))
        score, first, last = best_span(start, end, longest)
        spans = [(start[i] + end[j], i, j) for i in range(tokens) for j in range(i, min(i + longest, tokens))]
        assert (score, first, last) == max(spans)


def certain(labels, width: int, column: int) -> list[np.ndarray]:
    """Logits that single out the labelled token: little for the [CLS], much for an answer."""
    return [np.where(np.arange(width) == row[column], 5.0 if row.any() else 1.0, 0.0) for row in labels]


def test_logits_at_the_labels_give_the_answers_back_whatever_window_they_are_in():
    examples = questions(40)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 26)
    assert examples.labels is not None
    assert encoded.labels is not None
    starts, ends = (certain(encoded.labels, 30, column) for column in (0, 1))  # wider than a row: padding
    found = best_answers(starts, ends, encoded, examples)
    assert [one.text for one in found] == [answer["text"][0] for answer in examples.labels]


def test_padding_and_question_are_never_the_answer():
    examples = questions(10)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 26)
    logits = np.full((len(encoded), 30), 9.0)
    assert encoded.spans is not None
    for row in range(len(encoded)):
        inside = encoded.spans[encoded.offsets[row] : encoded.offsets[row + 1], 0] >= 0
        logits[row, : len(inside)][inside] = 0.0
    assert examples.pairs is not None
    first_words = [context.split()[0] for context in examples.pairs]
    assert [one.text for one in best_answers(logits, logits, encoded, examples)] == first_words


def test_an_answer_may_be_empty_where_every_window_prefers_cls():
    examples = Examples(["who?", "who?"], ["the cat sat on the mat. " * 6] * 2)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 20)
    logits = np.zeros((len(encoded), 20))
    logits[encoded.example == 0, 0] = 1.0  # all windows of the first, one window of the second
    logits[np.flatnonzero(encoded.example == 1)[0], 0] = 1.0
    assert best_answers(logits, logits, encoded, examples) == [("the", 2.0), ("the", 0.0)]
    both = [np.stack([row, row], axis=1) for row in logits]
    assert tags_or_answers(both, encoded, examples) == ["", "the"]
    lenient = dataclasses.replace(encoded, task=dataclasses.replace(encoded.task, no_answer_threshold=2.0))
    assert tags_or_answers(both, lenient, examples) == ["the", "the"]


def test_the_best_threshold_is_that_of_trying_all():
    random = np.random.default_rng(5)
    for count in (1, 2, 9, 30):
        empty = random.integers(-4, 5, count) / 2  # with ties
        as_answer, as_none = random.integers(0, 3, (2, count)) / 2
        mean = lambda threshold: np.where(empty > threshold, as_none, as_answer).mean()  # noqa: B023, E731
        tried = max(mean(threshold) for threshold in np.arange(-3, 3, 0.25))
        assert mean(best_threshold(empty, as_answer, as_none)) == pytest.approx(tried)
    assert best_threshold(np.array([1.0, 3.0, np.inf]), np.zeros(3), np.array([0.0, 1.0, 1.0])) == 2.0


def test_a_word_has_the_tag_of_its_first_token_and_o_where_it_has_none():
    names = ("B", "I", "O")
    words = [["New", "York", "played", "\u200b", "cats"], ["mat"] * 9]
    tags = [["B", "I", "I", "B", "B"], ["B"] * 9]
    examples = Examples([" ".join(row) for row in words], labels=tags, words=words)
    encoded = encode_examples(examples, Task(kind="tokens", labels=names), tiny_tokenizer(), 8)
    assert encoded.labels is not None
    logits = np.zeros((2, 12, 3))
    logits[:, :, 2] = 0.5  # every token says O, but the first of each word what its label says
    for row in range(2):
        labels = encoded.labels[encoded.offsets[row] : encoded.offsets[row + 1]]
        for token in np.flatnonzero(labels >= 0):
            logits[row, token, labels[token]] = 1.0
    assert predicted_tags(logits, encoded, examples) == [["B", "I", "I", "O", "B"], ["B"] * 6 + ["O"] * 3]


def test_a_model_that_finds_no_answer_says_so_where_none_was_promised():
    """A [CLS] that wins by far is a model's way of saying it; in data like SQuAD 1.1 every question has an answer."""
    examples = Examples(["who?"], ["the cat sat on the mat."])
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 20)
    logits = [np.where(np.arange(length) == 0, 38.0, 0.0)[:, None].repeat(2, axis=1) for length in encoded.lengths]
    assert labels_from_logits("qa", (), logits, encoded, examples)[0] == [""]
    known = dataclasses.replace(examples, labels=[{"text": ["cat"], "answer_start": [4]}])
    assert score_inputs(encoded, known, logits) == (["the"], [["cat"]])
    impossible = dataclasses.replace(examples, labels=[{"text": [], "answer_start": []}])
    assert score_inputs(encoded, impossible, logits) == ([""], [[]])
