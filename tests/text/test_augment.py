"""Copies of a text with other words: which words, what may stand in their place, and by whose draws."""

import random
from collections import Counter

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models

import bertjax
from bertjax.distill.substitutes import likely_words
from bertjax.errors import UserError
from bertjax.text.augment import STOP_WORDS, Word, masked_pair, neighbours, read_texts, substituted, token_strings
from bertjax.text.draws import SUBSTITUTES, Draws
from bertjax.text.tokenizer import Tokenizer
from tests.model.reference import torch_model, written
from tests.text.tiny import SPECIAL, tiny_tokenizer

NAMES = token_strings(tiny_tokenizer())
TEXT = "The CAT played, in New York: 3 xyz mats!"


def test_words_of_letters_that_are_no_stop_words_may_be_exchanged():
    (read,) = read_texts([TEXT], tiny_tokenizer(), NAMES)
    spelling = {name: number for number, name in enumerate(NAMES)}
    assert [(word.name, TEXT[word.start : word.end], word.place) for word in read.words] == [
        ("cat", "CAT", 2),
        ("played", "played", 3),
        ("new", "New", 7),
        ("york", "York", 8),
        ("mats", "mats", 12),
    ]
    assert read.words[1].tokens == (spelling["play"], spelling["##ed"])
    assert {"the", "in"} <= STOP_WORDS
    assert "york" not in STOP_WORDS


def test_a_gap_is_read_beside_the_text_itself():
    ids, types = masked_pair([2, 7, 8, 9, 3], 2, 4, 99)
    assert ids == [2, 7, 4, 9, 3, 7, 8, 9, 3]
    assert types == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert masked_pair([2, 7, 8, 9, 3], 2, 4, 6) == (ids[:6], types[:6])


def published(tokens: list[str], candidates: dict[int, list[str]], copies: int, p: float, draws: list) -> list[str]:
    """TinyBERT's loop over copies and words, on a list of words (Jiao et al. 2020, algorithm 1)."""
    found = [" ".join(tokens)]
    for copy in range(copies):
        new = list(tokens)
        for number, (place, choices) in enumerate(candidates.items()):
            chance, which = draws[copy][number]
            if chance < p:
                new[place] = choices[int(which * len(choices))]
        if " ".join(new) not in found:
            found.append(" ".join(new))
    return found[1:]


def test_copies_are_those_of_the_published_loop_with_the_texts_own_spaces():
    tokens = ["Some", "cats", "sat", "on", "mats"]
    text = "Some  cats sat\ton mats"
    words = [Word(w, text.index(w), text.index(w) + len(w), 0, (7,)) for w in ("cats", "sat", "mats")]
    candidates = [["dogs", "cats"], ["stood", "lay", "slept"], ["rugs"]]
    numbers = Draws(3, 0, SUBSTITUTES, 5)(2 * 40 * 3).reshape(40, 3, 2).tolist()
    expected = published(tokens, dict(zip((1, 2, 4), candidates, strict=True)), 40, 0.4, numbers)
    found = substituted(text, words, candidates, 40, 0.4, Draws(3, 0, SUBSTITUTES, 5))
    assert [" ".join(copy.split()) for copy in found] == expected
    assert all(copy.startswith("Some  ") for copy in found)
    assert 5 < len(found) == len(set(found)) < 16
    assert substituted(text, words, [[], [], ["rugs"]], 3, 1.0, Draws(0)) == ["Some  cats sat\ton rugs"]


def test_a_capital_stays_one():
    word = Word("cats", 0, 4, 1, (7,))
    assert substituted("Cats sat", [word], [["dogs"]], 1, 1.0, Draws(0)) == ["Dogs sat"]
    assert substituted("CATS sat", [word], [["cats"]], 1, 1.0, Draws(0)) == []


def test_neighbours_are_the_nearest_by_cosine_and_not_a_words_own_tokens():
    rng = random.Random(0)
    names = [*SPECIAL, "red", "blue", "green", "x", "7up", "##ish", "##ness"]
    table = np.random.default_rng(0).normal(size=(len(names), 6)).astype(np.float32)
    asked = {"red": (5,), "redish": (5, 10), "blueness": (6, 11), "rareish": (7, 10)}
    seen = {"red": 1, "redish": 2, "blueness": 5, "rareish": 1}
    found = neighbours(asked, seen, table, names, 3)
    vector = {name: table[names.index(name)] for name in ("red", "blue", "green")}
    vector |= {word: table[list(asked[word])].mean(0) for word in ("redish", "blueness")}

    def cosine(word: str, other: str) -> float:
        mine = table[list(asked[word])].mean(0)
        return float(mine @ vector[other] / np.linalg.norm(mine) / np.linalg.norm(vector[other]))

    for word in rng.sample(list(asked), 4):
        own = {word, *(names[token] for token in asked[word])}
        assert found[word] == sorted(vector.keys() - own, key=lambda other: -cosine(word, other))[:3]


def test_predictions_are_those_of_torch_one_text_at_a_time(tmp_path):
    model = torch_model("BertForMaskedLM", 5, vocab_size=len(NAMES), max_position_embeddings=24, type_vocab_size=2)
    folder = written(model, tmp_path / "words")
    tiny_tokenizer().save(folder)
    bundle = bertjax.load(folder)
    texts = ["the cat sat on the mat", "new york plays in a cat", "who", "mat. cat, york? sat! the new mat played"]
    read = read_texts(texts, tiny_tokenizer(), NAMES)
    found = likely_words(bundle, read, NAMES, count=6, buckets=(16, 24), batch_size=4)
    assert found[2] == {0: found[2][0]}
    checked = Counter()
    for text, candidates in zip(read, found, strict=True):
        assert candidates.keys() == {i for i, word in enumerate(text.words) if len(word.tokens) == 1}
        for number, words in candidates.items():
            ids, types = masked_pair(text.ids, text.words[number].place, NAMES.index("[MASK]"), 24)
            logits = model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
            best = logits[0, text.words[number].place].argsort(descending=True)[:6].tolist()
            assert words == [NAMES[i] for i in best if not NAMES[i].startswith(("##", "["))]
            checked[len(ids) > 16] += 1
    assert min(checked.values()) > 2


def test_other_tokenizers_than_wordpiece_are_refused():
    tokens = {token: number for number, token in enumerate([*SPECIAL, "\u2581cat"])}
    with pytest.raises(UserError, match="not WordPiece"):
        token_strings(Tokenizer.wrap(tokenizers.Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))))
