"""Vocabulary pruning: keep the tokens that a corpus uses, in the model and in its tokenizer.

Most tokens of a general vocabulary never occur in the texts of one task. Kept tokens keep their order and get new ids.
A text whose tokens are all kept is tokenised as before, and the model's outputs are exactly the same, because

  * WordPiece takes the longest token that matches, and removing other tokens creates no longer match;
  * Unigram takes the most probable split, which stays the most probable;
  * byte-level BPE applies its merges in order, and all merges are kept that can make a kept token.

Any other word is split into kept tokens, or becomes unknown if even its letters are missing. Therefore the letters of
the corpus are always kept, and with byte-level BPE all bytes.
"""

import dataclasses
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.quantized.tensor import Quantized
from bertjax.text.tokenizer import CHUNK, Tokenizer


def prune_vocabulary(bundle: Bundle, texts: Iterable[str]) -> Bundle:
    """The bundle with the special tokens, the tokens of `texts`, and the letters of those.

    Exact for every text that consists of kept tokens.

    Raises:
      UserError: No tokenizer, or one of another kind; a quantised embedding table.
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
    parts = json.loads(tokenizer.to_json())
    needed = NEEDED[kind_of(parts)]
    tokens = {number: token for token, number in ids_of(parts["model"]["vocab"]).items()}
    special = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id} - {None}
    added = special | {token["id"] for token in parts["added_tokens"]}
    used, texts = set(added), iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        used.update(*tokenizer.encode(chunk, spans=False).ids)
    found = needed(parts["model"], {tokens[number] for number in used - added if number in tokens})
    used.update(number for number, token in tokens.items() if token in found)
    return np.array(sorted(used))


def ids_of(vocabulary: Any) -> dict[str, int]:
    """Tokens with their ids. Unigram has a list of tokens with their scores."""
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token: number for number, (token, _) in enumerate(vocabulary)}


def wordpiece_letters(model: dict[str, Any], used: set[str]) -> set[str]:
    """The letters of these tokens, at the beginning of words and within."""
    prefix = model["continuing_subword_prefix"]
    letters = set("".join(token.removeprefix(prefix) for token in used))
    return letters | {prefix + letter for letter in letters}


def unigram_letters(model: dict[str, Any], used: set[str]) -> set[str]:
    """The letters of these tokens."""
    del model
    return set("".join(used))


def merged_parts(model: dict[str, Any], used: set[str]) -> set[str]:
    """All bytes, these tokens, and what their merges join."""
    joined: dict[str, list[str]] = {}
    for first, second in model["merges"]:
        joined.setdefault(first + second, []).extend((first, second))
    found, open_tokens = set(ByteLevel.alphabet()), list(used)
    while open_tokens:
        if (token := open_tokens.pop()) not in found:
            found.add(token)
            open_tokens += joined.get(token, ())
    return found


NEEDED = {"WordPiece": wordpiece_letters, "Unigram": unigram_letters, "byte-level BPE": merged_parts}
"""What has to be kept besides the tokens of the texts, by kind of tokenizer."""


def kind_of(parts: dict[str, Any]) -> str:
    """The kind of a tokenizer, from the content of its `tokenizer.json`."""
    model = parts["model"]
    kind = str(model.get("type"))
    if kind == "BPE" and '"ByteLevel"' in json.dumps(parts["pre_tokenizer"]):
        plain = not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("dropout"))
        kind = "byte-level BPE" if plain else "BPE with affixes or dropout"
    if kind not in NEEDED or model.get("byte_fallback"):
        fallback = " with bytes in place of unknown letters" if model.get("byte_fallback") else ""
        raise UserError(
            f"the tokenizer is of type {kind}{fallback}; vocabulary pruning supports {', '.join(NEEDED)}, where "
            "removing tokens does not change how text of the kept tokens is split."
        )
    return kind


def smaller_tokenizer(tokenizer: Tokenizer, kept: np.ndarray) -> Tokenizer:
    """The tokenizer with these tokens only, renumbered from 0."""
    new = {int(old): number for number, old in enumerate(kept)}
    parts = json.loads(tokenizer.to_json())
    model = parts["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {token: new[old] for token, old in vocabulary.items() if old in new}
    else:
        model["vocab"] = [scored for old, scored in enumerate(vocabulary) if old in new]
        model["unk_id"] = new.get(model["unk_id"])  # none at all is possible
    if "merges" in model:
        known = model["vocab"].keys()
        model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, a + b} <= known]
    for token in parts["added_tokens"]:
        token["id"] = new[token["id"]]
    renumber_template(parts.get("post_processor") or {}, new)
    return Tokenizer.from_json(json.dumps(parts), tokenizer)


def renumber_template(processor: dict, new: dict[int, int]) -> None:
    """Renumber [CLS] and [SEP] in the post-processor that adds them to a text."""
    for token in processor.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [new[old] for old in token["ids"]]
    for role in ("cls", "sep"):  # BertProcessing, RobertaProcessing
        if role in processor:
            processor[role] = [processor[role][0], new[processor[role][1]]]
    for inner in processor.get("processors", ()):
        renumber_template(inner, new)
