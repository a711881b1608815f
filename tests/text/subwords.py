"""Folders of a byte-level BPE and of Unigram tokenizers, trained in a moment and stored by `transformers`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, trainers

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
UNUSED = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
TEXT = (
    "the film is a quiet masterpiece, he said",
    "New York is the city of films and naïve cafés",
    "don't go there! it's dull; 東京 мама",
    "two hours of my life that i will not get back",
)
MASK: Any = tokenizers.AddedToken("<mask>", lstrip=True, special=True)


def bpe(text: Iterable[str] = TEXT, size: int = 320, **settings: Any) -> Any:
    """RoBERTa's tokenizer with merges learned from this text."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=size - 1, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"], "<mask>": len(model["vocab"])}
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges, mask_token=MASK, **settings)


def unigram(text: Iterable[str] = TEXT, size: int = 120) -> list[tuple[str, float]]:
    """Tokens with their scores, learned from this text, special tokens first."""
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(text, trainer)
    return [(token, score) for token, score in json.loads(trained.to_str())["model"]["vocab"]]


def xlm_roberta(**learned: Any) -> transformers.XLMRobertaTokenizer:
    return transformers.XLMRobertaTokenizer(vocab=[*unigram(**learned), ("<mask>", 0.0)], mask_token=MASK)


def camembert(**learned: Any) -> transformers.CamembertTokenizer:
    """Its special tokens have other ids, beside some that nobody uses."""
    special = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in UNUSED]
    return transformers.CamembertTokenizer(vocab=[*special, *unigram(**learned)[len(SPECIAL) :], ("<mask>", 0.0)])


FAMILIES = {"roberta": bpe, "xlm-roberta": xlm_roberta, "camembert": camembert}


def written(family: str, folder: Path, **settings: Any) -> Path:
    """The folder of a model of this family, without its weights."""
    FAMILIES[family](**settings).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return folder
