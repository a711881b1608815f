"""Only the tokens that a corpus uses: the real model, the real tokenizer, real text."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers

import bertjax
from bertjax.bundle import Bundle, init_params
from bertjax.model import roberta_config
from bertjax.model.config import PREFIXES
from bertjax.quantize import quantise_weights
from bertjax.share import prune_vocabulary
from bertjax.text.demo import demo_examples
from bertjax.text.tokenizer import Tokenizer
from tests.model.tiny import run, tiny
from tests.text import subwords

KEPT = 400


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return bertjax.load("demo", architecture="BertForSequenceClassification", labels=("rotten", "fresh"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(demo_examples("train").texts)


@pytest.fixture(scope="module")
def pruned(demo, texts) -> Bundle:
    return prune_vocabulary(demo, texts[:KEPT])


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    assert bundle.tokenizer is not None
    return bundle.tokenizer


def tokens(tokenizer: Tokenizer, texts: list[str]) -> list[list[str | None]]:
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    return [[backend.id_to_token(number) for number in row] for row in tokenizer.encode(texts).ids]


def test_text_of_the_corpus_is_cut_into_the_same_tokens_with_smaller_ids(demo, pruned, texts):
    assert tokens(tokenizer_of(pruned), texts[:KEPT]) == tokens(tokenizer_of(demo), texts[:KEPT])
    assert pruned.config.vocab_size == tokenizer_of(pruned).vocab_size < 6000
    ids = tokenizer_of(pruned).encode(texts[:KEPT]).ids
    assert max(max(row) for row in ids) < pruned.config.vocab_size


def test_other_text_whose_tokens_all_survive_is_cut_as_before_too(demo, pruned, texts):
    before, known = tokens(tokenizer_of(demo), texts[KEPT:]), set(tokenizers_vocabulary(tokenizer_of(pruned)))
    survivors = [i for i, row in enumerate(before) if set(row) <= known]
    assert 20 < len(survivors) < len(before)
    after = tokens(tokenizer_of(pruned), [texts[KEPT + i] for i in survivors])
    assert after == [before[i] for i in survivors]


def tokenizers_vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizers.Tokenizer.from_str(tokenizer.to_json()).get_vocab()


# --- byte-level BPE and Unigram --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=subwords.FAMILIES)
def subword(request, texts) -> Bundle:
    """A small model whose tokenizer was trained on a thousand texts."""
    made: Any = {"roberta": subwords.bpe, "xlm-roberta": subwords.xlm_roberta, "camembert": subwords.camembert}
    theirs = made[request.param](text=texts[:1000], size=1500)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 10}
    architecture = f"{PREFIXES[request.param]}ForSequenceClassification"
    config = roberta_config(request.param, vocab_size=len(theirs), architecture=architecture, **sizes)
    return Bundle(config, init_params(config, 0), Tokenizer.wrap(theirs))


def test_subwords_are_pruned_exactly_too(subword, texts, tmp_path):
    small = prune_vocabulary(subword, texts[:20])
    whole, less = tokenizer_of(subword), tokenizer_of(small)
    assert small.config.vocab_size == less.vocab_size < 0.7 * whole.vocab_size
    assert (small.config.pad_token_id, less.pad_id, small.config.position_offset) == (1, 1, 2)
    before, known = tokens(whole, texts), set(tokenizers_vocabulary(less))
    assert tokens(less, texts[:20]) == before[:20]
    survivors = [i for i, row in enumerate(before) if set(row) <= known]
    assert 30 < len(survivors) < len(before)
    assert tokens(less, [texts[i] for i in survivors]) == [before[i] for i in survivors]
    hard = [*texts[:10], "unfathomably naïve 東京 \U0001f600", "a <mask> it", "", "Kierkegaard"]
    bertjax.save(small, tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again(hard, hard[::-1])["input_ids"] == less.encode(hard, hard[::-1]).ids
    found, expected = (bundle.predict(texts[:20]).probabilities for bundle in (bertjax.load(tmp_path), subword))
    np.testing.assert_array_equal(found, expected)
    if whole.unk_id not in whole.encode(hard).ids[10]:  # with byte-level BPE nothing is unknown
        assert less.unk_id not in less.encode(hard).ids[10]


def test_a_missing_word_is_spelled_with_what_is_left(pruned):
    (row,) = tokens(tokenizer_of(pruned), ["unfathomably"])
    assert len(row) > 3
    assert "[UNK]" not in row
    assert "".join(map(str, row[1:-1])).replace("##", "") == "unfathomably"


@pytest.mark.slow
def test_the_model_computes_exactly_what_it_did_on_the_corpus(demo, pruned, texts):
    trained = [dataclasses.replace(bundle, newly_initialized=()) for bundle in (demo, pruned)]
    before, after = (bundle.predict(texts[:32]).probabilities for bundle in trained)
    np.testing.assert_array_equal(after, before)


def test_the_folder_opens_here_and_in_transformers_with_the_same_ids(pruned, texts, tmp_path):
    bertjax.save(pruned, tmp_path / "pruned")
    back = bertjax.load(tmp_path / "pruned")
    hard = [*texts[:50], "unfathomably naïve 東京 \U0001f600", "[MASK] it", ""]
    expected = tokenizer_of(pruned).encode(hard).ids
    assert tokenizer_of(back).encode(hard).ids == expected
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "pruned")
    assert theirs(hard)["input_ids"] == expected
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer_of(back).mask_id, tokenizer_of(back).pad_id)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned")
    assert opened.config.vocab_size == back.config.vocab_size


@pytest.mark.slow
def test_the_output_layer_of_masked_words_loses_the_same_tokens(texts):
    demo = bertjax.load("demo", architecture="BertForMaskedLM")
    small = prune_vocabulary(demo, texts[:20])
    assert small.params["decoder_bias"].shape == (small.config.vocab_size,)
    old, new = tokenizer_of(demo).encode(texts[:1]).ids[0], tokenizer_of(small).encode(texts[:1]).ids[0]
    before, after = (
        run(bundle.model, bundle.params, {"input_ids": np.array([ids])}).logits
        for bundle, ids in ((demo, old), (small, new))
    )
    np.testing.assert_allclose(after[0][:, new], before[0][:, old], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_cannot_follow_the_text_is_refused(demo):
    with pytest.raises(bertjax.UserError, match="has no tokenizer"):
        prune_vocabulary(dataclasses.replace(demo, tokenizer=None), ["a"])
    names = ["<pad>", "<unk>", "[CLS]", "[SEP]", "a"]
    ids = {name: number for number, name in enumerate(names)}
    scored = [(name, -1.0) for name in names]
    bytes_too = tokenizers.Tokenizer(tokenizers.models.Unigram(scored, unk_id=1, byte_fallback=True))
    by_word = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, "<unk>"))
    affixes = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], end_of_word_suffix="$"))
    affixes.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    model, params = tiny()
    for backend, said in (
        (
            bytes_too,
            "of type Unigram with bytes in place of unknown letters; vocabulary pruning supports WordPiece, Uni",
        ),
        (by_word, "of type WordLevel; vocabulary pruning supports WordPiece"),
        (tokenizers.Tokenizer(tokenizers.models.BPE(ids, [])), "of type BPE; vocabulary pruning supports WordPiece"),
        (affixes, "of type BPE with affixes or dropout; vocabulary pruning supports WordPiece"),
    ):
        tokenizer = Tokenizer.wrap(backend)
        with pytest.raises(bertjax.UserError, match=said):
            prune_vocabulary(Bundle(model.config, params, tokenizer), ["a"])
    config, integers = quantise_weights(demo.config, demo.params)
    with pytest.raises(bertjax.UserError, match="the word embedding table is quantised"):
        prune_vocabulary(dataclasses.replace(demo, config=config, params=integers), ["a"])
