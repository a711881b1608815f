"""Tokenizers of RoBERTa, XLM-R and CamemBERT: byte-level BPE and Unigram, `<s>` and two `</s>` between texts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from bertjax.errors import UserError
from bertjax.text.answers import best_answers, predicted_tags
from bertjax.text.augment import token_strings
from bertjax.text.corpus import split_documents
from bertjax.text.encode import encode_examples
from bertjax.text.examples import Examples
from bertjax.text.masking import Masking, mask_vocabulary, word_ranges
from bertjax.text.tasks import Task
from bertjax.text.tokenizer import Tokenizer
from tests.text.subwords import FAMILIES, bpe, written
from tests.text.test_tokenizer import HOSTILE

TEXTS = [*HOSTILE, "a <mask> word", "<s> x </s>", "the<pad>film", "  New  York ", "naïve", "é"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return written(request.param, tmp_path_factory.mktemp(request.param))


def test_ids_offsets_and_words_equal_transformers(folder):
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    found, expected = ours.encode(TEXTS), theirs(TEXTS, return_offsets_mapping=True)
    assert found.ids == expected["input_ids"]
    assert found.offsets == expected["offset_mapping"]
    assert found.word_ids == [expected.word_ids(i) for i in range(len(TEXTS))]
    assert (ours.pad_id, ours.cls_id, ours.sep_id) == (theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id)
    assert (ours.unk_id, ours.mask_id) == (theirs.unk_token_id, theirs.mask_token_id)


@pytest.mark.parametrize("max_length", [None, 12])
def test_pairs_have_two_separators_and_one_type(folder, max_length):
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    found = ours.encode(TEXTS, TEXTS[::-1], max_length)
    cut = {"truncation": "longest_first", "max_length": max_length} if max_length else {}
    assert found.ids == theirs(TEXTS, TEXTS[::-1], **cut)["input_ids"]
    assert all(ids.count(ours.sep_id) >= 3 for ids in found.ids)
    assert not any(map(any, found.type_ids))


def test_a_saved_folder_gives_the_same_ids_here_and_in_transformers(folder, tmp_path):
    ours = Tokenizer.from_folder(folder)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    expected = ours.encode(TEXTS, TEXTS[::-1]).ids
    again, theirs = Tokenizer.from_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(TEXTS, TEXTS[::-1]).ids == theirs(TEXTS, TEXTS[::-1])["input_ids"] == expected
    assert again.fingerprint == ours.fingerprint
    names = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token")
    before = AutoTokenizer.from_pretrained(folder)
    assert [getattr(theirs, name) for name in names] == [getattr(before, name) for name in names]


def test_a_folder_that_names_no_class_is_read_by_its_family(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    expected = AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"]
    assert Tokenizer.from_folder(tmp_path).encode(TEXTS).ids == expected


def test_a_vocabulary_with_merges_is_read_without_tokenizer_json(tmp_path):
    stored = json.loads((written("roberta", tmp_path / "new") / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (old / "vocab.json").write_text(json.dumps(stored["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in stored["merges"])]
    (old / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    expected = AutoTokenizer.from_pretrained(old)(TEXTS)["input_ids"]
    assert Tokenizer.from_folder(old).encode(TEXTS).ids == expected
    assert max(map(max, expected)) > 260  # the merges were read: not only single bytes


# --- words -----------------------------------------------------------------------------------------------------------

WORDS = [["EU", "rejects", "New", "York", "é", "naïve"], ["東京", "x"], ["a"], ["😀", "don't", "…", "мама"]]


def tagged(words: list[list[str]]) -> Examples:
    tags = [["A" if place % 2 else "B" for place in range(len(row))] for row in words]
    return Examples([" ".join(row) for row in words], None, tags, words, source="here")


@pytest.mark.parametrize("settings", [{"add_prefix_space": True}, {"add_prefix_space": True, "trim_offsets": False}])
def test_a_tag_belongs_to_the_first_token_of_its_word_as_in_transformers(settings, tmp_path):
    """A space alone may be that token, and the space before a word may be counted as a part of it."""
    folder = written("roberta", tmp_path, **settings)
    check_tags(folder)


@pytest.mark.parametrize("family", ["xlm-roberta", "camembert"])
def test_a_tag_belongs_to_the_first_token_of_sentencepiece_too(family, tmp_path):
    check_tags(written(family, tmp_path))


def check_tags(folder: Path) -> None:
    tokenizer, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    task = Task(kind="tokens", labels=("A", "B"))
    encoded = encode_examples(tagged(WORDS), task, tokenizer, 64)
    assert encoded.words is not None
    for row, words in enumerate(WORDS):
        there = theirs(words, is_split_into_words=True)
        here = slice(*encoded.offsets[row : row + 2].tolist())
        assert encoded.ids[here].tolist() == there["input_ids"]
        numbers = there.word_ids()
        first = [n if n is not None and n not in numbers[:i] else -1 for i, n in enumerate(numbers)]
        assert encoded.words[here].tolist() == first
    width = int(encoded.lengths.max())
    logits = np.zeros((len(WORDS), width, 2))
    for row in range(len(WORDS)):
        here = slice(*encoded.offsets[row : row + 2].tolist())
        assert encoded.labels is not None
        labels = encoded.labels[here]
        logits[row, np.flatnonzero(labels >= 0), labels[labels >= 0]] = 1
    assert predicted_tags(logits, encoded, tagged(WORDS)) == tagged(WORDS).labels


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("answer", ["New York", "York", "city", "naïve cafés", "the"])
def test_an_answer_is_found_again_by_its_tokens(folder, answer, trim, tmp_path):
    if folder.name.startswith("roberta"):
        folder = written("roberta", tmp_path, trim_offsets=trim)
    tokenizer = Tokenizer.from_folder(folder)
    context = "New York is the city of films and naïve cafés, he said"
    labels = [{"text": [answer], "answer_start": [context.index(answer)]}]
    examples = Examples(["is  the é"], [context], labels, source="here")
    for length in (64, 24):
        encoded = encode_examples(examples, Task(kind="qa"), tokenizer, length)
        whole = tokenizer.encode(examples.texts, examples.pairs).ids[0]
        if len(whole) <= length:
            assert encoded.ids.tolist() == whole
        assert not encoded.type_ids.any()
        width = int(encoded.lengths.max())
        starts, ends = np.full((2, len(encoded), width), -1.0)
        assert encoded.labels is not None
        for row, (first, last) in enumerate(encoded.labels):
            ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
            assert len(ids) <= length
            assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
            assert ids.count(tokenizer.sep_id) == 3
            if first:
                starts[row, first] = ends[row, last] = 1
        assert best_answers(starts, ends, encoded, examples)[0].text == answer


def spelled(tokenizer: Tokenizer, text: str, unit: str) -> list[str]:
    """The words that masking finds, as text."""
    vocabulary = mask_vocabulary(tokenizer, Masking(unit=unit))  # type: ignore[arg-type]
    found = tokenizer.encode([text])
    ids = np.array(found.ids[0])
    assert found.offsets is not None
    spans = found.offsets[0]
    ranges = word_ranges(vocabulary.special[ids], vocabulary.continues[ids])
    return [text[spans[first][0] : spans[end - 1][1]] for first, end in ranges]


def test_whole_words_are_those_between_spaces_and_punctuation(folder):
    tokenizer = Tokenizer.from_folder(folder)
    said = spelled(tokenizer, "New York is naïve, he said; 東京 x!", "words")
    assert said == ["New", "York", "is", "naïve", ",", "he", "said", ";", "東京", "x", "!"]


def test_a_sentence_that_follows_another_begins_a_word():
    tokenizer = Tokenizer.wrap(bpe())
    ((_, chunk),) = split_documents(iter([["the film.", "Dull, naïve."]]), tokenizer, 64)
    assert chunk.ids.tolist() == tokenizer.encode(["the film. Dull, naïve."]).ids[0][1:-1]
    vocabulary = mask_vocabulary(tokenizer, Masking(unit="words"))
    begins = ~vocabulary.continues[chunk.ids]
    assert begins[chunk.ends[0]]


def test_what_needs_wordpiece_says_so(folder):
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(UserError, match=re.escape("is not WordPiece, which marks tokens inside a word with ##")):
        token_strings(tokenizer)
