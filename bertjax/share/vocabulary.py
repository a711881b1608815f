"""Vocabulary pruning: keep the tokens that a corpus uses, in the model and in its tokenizer.

Most tokens of a general English vocabulary never occur in the texts of one task. Kept tokens keep their order and get
new ids. WordPiece takes the longest token that matches, and removing other tokens creates no longer match. So a text
whose tokens are all kept is tokenised as before, and the model's outputs are exactly the same. Any other word is split
into kept tokens, or becomes [UNK] if even its letters are missing; therefore the letters of the corpus are always kept.
"""

import dataclasses
import json
from collections.abc import Iterable
from itertools import islice

import numpy as np

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.quantized.tensor import Quantized
from bertjax.text.tokenizer import CHUNK, Tokenizer


def prune_vocabulary(bundle: Bundle, texts: Iterable[str]) -> Bundle:
    """The bundle with the special tokens, the tokens of `texts`, and the letters of those.

    Exact for every text that consists of kept tokens.

    Raises:
      UserError: No tokenizer, or one that is not WordPiece; a quantised embedding table.
    """
    if bundle.tokenizer is None:
        raise UserError("this bundle has no tokenizer; vocabulary pruning needs one, to find the tokens of the texts.")
    params = dict(bundle.params)
    word = params["embeddings"]["word"]
    if any(isinstance(table, Quantized) for table in (word["embedding"], params.get("decoder_rest"))):
        raise UserError(
            "the word embedding table is quantised, and rows of it cannot be removed; prune the vocabulary first, then "
            "quantise."
        )
    kept = used_tokens(bundle.tokenizer, texts)
    params["embeddings"] = {**params["embeddings"], "word": {"embedding": word["embedding"][kept]}}
    if "decoder_bias" in params:
        params["decoder_bias"] = params["decoder_bias"][kept]
    if "decoder_rest" in params:
        params["decoder_rest"] = params["decoder_rest"][:, kept]
    tokenizer = smaller_tokenizer(bundle.tokenizer, kept)
    config = bundle.config.replace(vocab_size=len(kept), pad_token_id=tokenizer.pad_id)
    return dataclasses.replace(bundle, config=config, params=params, tokenizer=tokenizer)


def used_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """The ids of the tokens to keep, in order."""
    vocabulary, prefix, added = wordpiece_parts(tokenizer)
    tokens = {number: token for token, number in vocabulary.items()}
    used, texts = set(added), iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        used.update(*tokenizer.encode(chunk, spans=False).ids)
    letters = set("".join(tokens[number].removeprefix(prefix) for number in used - added if number in tokens))
    used.update(vocabulary[form] for letter in letters for form in (letter, prefix + letter) if form in vocabulary)
    return np.array(sorted(used))


def smaller_tokenizer(tokenizer: Tokenizer, kept: np.ndarray) -> Tokenizer:
    """The tokenizer with these tokens only, renumbered from 0."""
    new = {int(old): number for number, old in enumerate(kept)}
    parts = json.loads(tokenizer.to_json())
    vocabulary = parts["model"]["vocab"]
    parts["model"]["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
    for token in parts["added_tokens"]:
        token["id"] = new[token["id"]]
    renumber_template(parts.get("post_processor") or {}, new)
    return Tokenizer.from_json(json.dumps(parts), tokenizer)


def renumber_template(processor: dict, new: dict[int, int]) -> None:
    """Renumber [CLS] and [SEP] in the post-processor that adds them to a text."""
    for token in processor.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [new[old] for old in token["ids"]]
    for role in ("cls", "sep"):  # BertProcessing
        if role in processor:
            processor[role] = [processor[role][0], new[processor[role][1]]]
    for inner in processor.get("processors", ()):
        renumber_template(inner, new)


def wordpiece_parts(tokenizer: Tokenizer) -> tuple[dict[str, int], str, set[int]]:
    """Tokens with their ids, the prefix of tokens inside a word, and the ids of special and added tokens."""
    parts = json.loads(tokenizer.to_json())
    if parts["model"].get("type") != "WordPiece":
        raise UserError(
            f"the tokenizer is of type {parts['model'].get('type')}; vocabulary pruning supports only WordPiece, where "
            "removing tokens does not change how text of the kept tokens is split."
        )
    added = {token["id"] for token in parts["added_tokens"]}
    specials = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id} - {None}
    return parts["model"]["vocab"], parts["model"]["continuing_subword_prefix"], added | specials
