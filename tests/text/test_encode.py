"""Encoding: the ids of the tokenizers library, labels where they belong, contexts covered by their windows."""

import dataclasses

import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Task
from tests.text.tiny import WHOLE, raw_tokenizer, tiny_tokenizer

SENTIMENT = Task(kind="classification", labels=("bad", "good"))
TEXTS = ["the cat sat on the mat", "playing played", "the dog", "a cat in new york, sat."]
WORDS = ["the", "cats", "New", "York.", "played", "dog", "playing,cat", "a", "\u200b", "mat"]
QA = Task(kind="qa")


def rows(encoded, values) -> list:
    return [values[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


def test_ids_are_those_of_the_tokenizers_library_with_the_rest_cut_and_counted():
    encoded = encode_examples(Examples(TEXTS, labels=["good", "bad", "bad", "good"]), SENTIMENT, tiny_tokenizer(), 7)
    raw = raw_tokenizer()
    whole = [row.ids for row in raw.encode_batch(TEXTS)]
    raw.enable_truncation(7)
    assert rows(encoded, encoded.ids) == [row.ids for row in raw.encode_batch(TEXTS)]
    assert encoded.truncated == sum(len(row) > 7 for row in whole) == 2
    assert encoded.lengths.tolist() == [min(len(row), 7) for row in whole]
    assert encoded.example.tolist() == [0, 1, 2, 3]


def test_pairs_keep_their_types():
    pairs = list(reversed(TEXTS))
    encoded = encode_examples(Examples(TEXTS, pairs), Task(kind="regression"), tiny_tokenizer(), 64)
    raw = raw_tokenizer().encode_batch(list(zip(TEXTS, pairs, strict=True)))
    assert rows(encoded, encoded.ids) == [row.ids for row in raw]
    assert rows(encoded, encoded.type_ids) == [row.type_ids for row in raw]
    assert encoded.labels is None


@pytest.mark.parametrize(
    ("kind", "names", "labels", "expected"),
    [
        ("classification", ("bad", "good"), ["good", "bad", "bad", "good"], [1, 0, 0, 1]),
        ("regression", (), [0.5, 2.0, -1.0, 3.25], [0.5, 2.0, -1.0, 3.25]),
        ("multi_label", ("x", "y", "z"), [["z", "x"], [], ["y"], ["x"]], [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]),
    ],
)
def test_labels_become_numbers_in_the_order_of_the_task(kind, names, labels, expected):
    encoded = encode_examples(Examples(TEXTS, labels=labels), Task(kind=kind, labels=names), tiny_tokenizer(), 64)
    assert encoded.labels is not None
    assert encoded.labels.tolist() == expected
    assert encoded.labels.dtype == ("int32" if kind == "classification" else "float32")


def test_more_examples_than_are_tokenised_at_a_time_stay_in_order(monkeypatch):
    examples = Examples(TEXTS * 3, labels=["good", "bad", "bad", "good"] * 3)
    whole = encode_examples(examples, SENTIMENT, tiny_tokenizer(), 7)
    monkeypatch.setattr("bertjax.text.encode._CHUNK", 5)
    assert encode_examples(examples, SENTIMENT, tiny_tokenizer(), 7).fingerprint == whole.fingerprint
    questions = Examples(["who sat?"] * 12, ["the cat sat on the mat. " * 4] * 12)
    assert (np.diff(encode_examples(questions, QA, tiny_tokenizer(), 16).example) >= 0).all()


def test_a_label_stands_at_the_first_token_of_its_word_as_when_every_word_is_tokenised_by_itself():
    random = np.random.default_rng(0)
    names = ("O", "B-PLACE", "I-PLACE")
    words = [random.choice(WORDS, size=count).tolist() for count in random.integers(1, 12, 30)]
    tags = [random.choice(names, size=len(row)).tolist() for row in words]
    examples = Examples([" ".join(row) for row in words], labels=tags, words=words)
    encoded = encode_examples(examples, Task(kind="tokens", labels=names), tiny_tokenizer(), 16)
    raw = raw_tokenizer()
    raw.enable_truncation(16)
    assert encoded.labels is not None
    assert encoded.words is not None
    for row, ids, labels, owners in zip(
        range(len(words)),
        rows(encoded, encoded.ids),
        rows(encoded, encoded.labels),
        rows(encoded, encoded.words),
        strict=True,
    ):
        oracle = raw.encode(words[row], is_pretokenized=True)
        assert ids == oracle.ids
        expected: list[int] = []
        seen: set[int | None] = {None}
        for word in oracle.word_ids:
            expected.append(-100 if word in seen else names.index(tags[row][word]))
            seen.add(word)
        assert labels == expected
        assert [tags[row][word] for word in owners if word >= 0] == [names[label] for label in labels if label >= 0]
    assert encoded.truncated == sum(len(raw_tokenizer().encode(text).ids) > 16 for text in examples.texts) > 0


def questions(count: int, seed: int = 0) -> Examples:
    """Contexts of random tokens; an answer is a run of words, stood where its text is."""
    random = np.random.default_rng(seed)
    contexts, labels = [], []
    for _ in range(count):
        context = random.choice(WHOLE, size=random.integers(3, 60)).tolist()
        first = int(random.integers(len(context)))
        answer = " ".join(context[first : first + int(random.integers(1, 9))])
        contexts.append(" ".join(context))
        labels.append({"text": [answer], "answer_start": [len(" ".join(context[:first])) + (first > 0)]})
    return Examples(["who sat on the mat?"] * count, contexts, labels)


def answer_in_row(encoded, examples, row: int) -> str:
    spans = encoded.spans[encoded.offsets[row] : encoded.offsets[row + 1]]
    first, last = encoded.labels[row]
    return examples.pairs[encoded.example[row]][spans[first, 0] : spans[last, 1]]


@pytest.mark.parametrize("stride", [1, 5, 128])
def test_every_answer_of_up_to_half_a_window_is_whole_in_one_and_every_label_points_at_it(stride):
    examples = questions(40)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 26, stride)  # a question of 8 tokens leaves 16
    assert encoded.labels is not None
    assert encoded.lengths.max() == 26
    assert examples.labels is not None
    for example, answer in enumerate(examples.labels):
        mine = np.flatnonzero(encoded.example == example)
        found = [answer_in_row(encoded, examples, row) for row in mine.tolist() if encoded.labels[row].any()]
        assert found
        assert set(found) == {answer["text"][0]}


def test_a_window_that_does_not_hold_the_whole_answer_points_at_cls():
    examples = questions(40)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 26, 5)
    assert encoded.spans is not None
    assert encoded.labels is not None
    assert examples.labels is not None
    for row, example in enumerate(encoded.example):
        start = examples.labels[example]["answer_start"][0]
        end = start + len(examples.labels[example]["text"][0])
        covered = [span for span in rows(encoded, encoded.spans)[row] if span[0] >= 0]
        holds_it = covered[0][0] <= start and end <= covered[-1][1]
        assert encoded.labels[row].any() == holds_it


def test_windows_are_those_of_the_tokenizers_library():
    context = " ".join(WHOLE[i % 5] for i in range(70))
    encoded = encode_examples(Examples(["who sat?"], [context]), QA, tiny_tokenizer(), 24, 7)
    raw = raw_tokenizer()
    room = 24 - 6  # [CLS] who sat ? [SEP] .. [SEP]
    raw.enable_truncation(24, stride=room - 7, strategy="only_second")
    first = raw.encode("who sat?", context)
    oracle = [first, *first.overflowing]
    assert rows(encoded, encoded.ids) == [row.ids for row in oracle]
    assert rows(encoded, encoded.type_ids) == [row.type_ids for row in oracle]
    assert encoded.spans is not None
    spans = [[o if s == 1 else (-1, -1) for o, s in zip(r.offsets, r.sequence_ids, strict=True)] for r in oracle]
    assert rows(encoded, encoded.spans) == [[list(span) for span in row] for row in spans]


def test_a_question_keeps_at_most_half_of_a_row_and_is_counted():
    examples = Examples(["who sat on the mat in new york?" * 3, "who?"], ["the cat sat. " * 9] * 2)
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 19)
    assert encoded.truncated == 1
    assert encoded.lengths.max() == 19
    assert encoded.spans is not None
    context = [sum(span[0] >= 0 for span in row) for row in rows(encoded, encoded.spans)]
    assert max(context) == 19 - 5
    assert context[0] == 8


def test_a_question_without_an_answer_points_at_cls_everywhere():
    examples = Examples(["who?"], ["the cat sat. " * 9], [{"text": [], "answer_start": []}])
    encoded = encode_examples(examples, QA, tiny_tokenizer(), 16)
    assert encoded.labels is not None
    assert not encoded.labels.any()


def test_the_fingerprint_names_ids_rows_and_labels():
    def fingerprint(texts, labels=None, limit=64):
        return encode_examples(Examples(texts, labels=labels), SENTIMENT, tiny_tokenizer(), limit).fingerprint

    same = fingerprint(TEXTS, ["good", "bad", "bad", "good"])
    assert same == fingerprint([text.upper() for text in TEXTS], ["good", "bad", "bad", "good"])
    others = [
        fingerprint(TEXTS),
        fingerprint(TEXTS, ["bad", "bad", "bad", "good"]),
        fingerprint(TEXTS, ["good", "bad", "bad", "good"], 6),
        fingerprint([*TEXTS[:3], "a cat"], ["good", "bad", "bad", "good"]),
    ]
    assert len({same, *others}) == 5


@pytest.mark.parametrize(
    ("examples", "task", "limit", "message"),
    [
        (Examples([], source="empty.tsv"), SENTIMENT, 64, "empty.tsv: no examples"),
        (Examples(["a"], labels=["ugly"]), SENTIMENT, 64, "'ugly' is not a label of .* expected one of: bad, good"),
        (Examples(["a"]), QA, 64, "needs a context for every question"),
        (Examples(["a"], ["a"]), QA, 7, "max_length is 7; expected at least 8"),
        (Examples(["a"]), Task(kind="tokens", labels=("O",)), 64, "needs the words of every sentence"),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_the_reason(examples, task, limit, message):
    with pytest.raises(UserError, match=message):
        encode_examples(examples, task, tiny_tokenizer(), limit)


def test_encoded_rows_are_not_changed_by_accident():
    encoded = encode_examples(Examples(TEXTS), SENTIMENT, tiny_tokenizer(), 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoded.truncated = 3  # pyright: ignore[reportAttributeAccessIssue]
