"""Hidden columns are removed through the whole network: embeddings, every sublayer, every LayerNorm, pooler and head.

The hidden state is one vector that all layers read and write, so a column leaves all of them at once. The statistics of
LayerNorm are then those of the remaining columns. So the smaller model does not compute what the whole one does with
these columns set to 0 anywhere, but what it does with their gates at 0 (`columns` of `BertModel.__call__`), and it is
trained with such gates first (CoFi, Xia et al. 2022). Every product gets smaller at once; the trade-off is that a
column is wide, and that few of them are of no use to any layer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.params import Tree, flatten, unflatten
from bertjax.prune.surgery import check_kept, check_prunable

READS = r"encoder/layer_\d+/(attention/(query|key|value)|ffn/intermediate)/kernel"
WRITES = r"encoder/(layer_\d+/(attention|ffn)/(output/(kernel|bias)|layer_norm/(scale|bias))|last_norm/(scale|bias))"
POOLED = r"(pooler|pre_classifier)/(kernel|bias)"
HEAD = r"(pooler|pre_classifier|classifier|qa_outputs|seq_relationship|projection)/kernel"


def keep_hidden(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with only these hidden columns, in ascending order. The size of a head does not change.

    Raises:
      UserError: No column, one that does not exist, another order, or a model whose head predicts words or that has
        exits.
    """
    check_prunable(config, params)
    check_kept("hidden columns to keep", kept, config.hidden_size, at_least=1)
    check_columns(config)
    sums = config.maps_embeddings and config.factorised == "sum" and config.model_type != "albert"
    if sums and len(kept) == config.embedding_size:
        raise UserError(
            f"{len(kept)} hidden columns are as many as the embeddings have, and a model of equal widths does not map "
            "one to the other; keep one more or one fewer."
        )
    chosen, flat = np.asarray(kept), dict(flatten(params))
    for path, axes in column_axes(flat).items():
        for axis in axes:
            flat[path] = np.take(np.asarray(flat[path]), chosen, axis)
    narrow = config.embedding_size if config.maps_embeddings else len(kept)
    return dataclasses.replace(config, hidden_size=len(kept), embedding_size=narrow), unflatten(flat)


def check_columns(config: BertConfig) -> None:
    """Raises a `UserError` if hidden columns cannot be removed exactly."""
    if config.exits or config.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        what = "exits" if config.exits else "a head that predicts words"
        raise UserError(
            f"hidden columns of a model with {what} cannot be removed; give one with a classifier, or leave the "
            "columns out of what is removed (CoFi: parts)."
        )


def column_axes(flat: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The axes that are the hidden state, 0 for inputs and -1 for outputs, of every parameter that has one, by path."""
    embeddings = r"embeddings/((word|position|token_type)/embedding|layer_norm/(scale|bias))"
    if "embeddings/word_mapping/kernel" in flat:
        embeddings = r"embeddings/((position|token_type)/embedding|layer_norm/(scale|bias)|word_mapping/kernel)"
    elif "embeddings/mapping/kernel" in flat:
        embeddings = r"embeddings/mapping/(kernel|bias)"
    reads, writes = re.compile(f"{READS}|{HEAD}"), re.compile(f"{WRITES}|{POOLED}|{embeddings}")
    axes = {p: ((0,) if reads.fullmatch(p) else ()) + ((-1,) if writes.fullmatch(p) else ()) for p in flat}
    return {path: found for path, found in axes.items() if found}
