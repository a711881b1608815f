"""Replacement words from a masked language model, for augmentation (`bertjax.text.augment`)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bertjax.bundle import Bundle
from bertjax.machine.xla import Forward
from bertjax.model import BertModel
from bertjax.params import Tree
from bertjax.text.augment import TokenizedText, masked_pair
from bertjax.text.buckets import bucket_of


@partial(Forward, static=("count",))
def best_tokens(
    model: BertModel,
    params: Tree,
    ids: Int[Array, "b l"],
    mask: Int[Array, "b l"],
    types: Int[Array, "b l"],
    places: Int[Array, "b 1"],
    count: int,
) -> Int[Array, "b k"]:
    """The most probable tokens at each position, in descending order."""
    logits = model.apply({"params": params}, ids, mask, types, masked_positions=places).logits  # type: ignore[union-attr]
    return jax.lax.top_k(logits[:, 0].astype(jnp.float32), count)[1]


def likely_words(
    bundle: Bundle,
    texts: Sequence[TokenizedText],
    names: Sequence[str],
    *,
    count: int,
    buckets: tuple[int, ...],
    batch_size: int,
) -> list[dict[int, list[str]]]:
    """For each text, candidate replacements by word index: those of the `count` most probable tokens that are whole
    words.

    Only words of a single token have candidates. Texts are batched in the given order, so that the same texts give
    bit-identical results.
    """
    tokenizer, limit = bundle.tokenizer, buckets[-1]
    assert tokenizer is not None
    assert tokenizer.mask_id is not None
    where = [
        (text, number)
        for text, read in enumerate(texts)
        for number, word in enumerate(read.words)
        if len(word.tokens) == 1 and word.place < limit
    ]
    found: list[dict[int, list[str]]] = [{} for _ in texts]
    if not where:
        return found
    places = [texts[text].words[number].place for text, number in where]
    rows = [
        masked_pair(texts[text].ids, place, tokenizer.mask_id, limit)
        for (text, _), place in zip(where, places, strict=True)
    ]
    special = {tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    edges = bucket_of(np.array([len(ids) for ids, _ in rows]), buckets)
    for edge in np.unique(edges):
        members = np.flatnonzero(edges == edge)
        for begin in range(0, len(members), batch_size):
            some = members[begin : begin + batch_size]
            ids, mask, types = np.zeros((3, batch_size, edge), np.int32)
            at = np.zeros((batch_size, 1), np.int32)
            for line, member in enumerate(some):
                length = len(rows[member][0])
                ids[line, :length], types[line, :length] = rows[member]
                mask[line, :length], at[line] = 1, places[member]
            best = best_tokens(bundle.model, bundle.device_params, ids, mask, types, at, count)
            for member, tokens in zip(some, np.asarray(best)[: len(some)].tolist(), strict=True):
                text, number = where[member]
                real = (token for token in tokens if token not in special and token < len(names))
                words = [names[int(token)] for token in real]
                found[text][number] = [word for word in words if not word.startswith("##")]
    return found
