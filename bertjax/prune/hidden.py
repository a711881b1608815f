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

import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig
from bertjax.params import Tree, flatten, unflatten
from bertjax.prune.surgery import check_kept, check_prunable

READS = r"encoder/layer_\d+/(attention/(query|key|value)|ffn/intermediate)/kernel"
WRITES = r"encoder/(layer_\d+/(attention|ffn)/(output/(kernel|bias)|layer_norm/(scale|bias))|last_norm/(scale|bias))"
POOLED = r"(pooler|pre_classifier)/(kernel|bias)"
HEAD = r"(pooler|pre_classifier|classifier|qa_outputs|seq_relationship)/kernel"


def keep_hidden(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with only these hidden columns, in ascending order. The size of a head does not change.

    Raises:
      UserError: No column, one that does not exist, another order, or a model whose head predicts words or that has
        exits.
    """
    check_prunable(config, params)
    check_kept("hidden columns to keep", kept, config.hidden_size, at_least=1)
    check_columns(config)
    reads, writes = re.compile(f"{READS}|{HEAD}"), re.compile(f"{WRITES}|{POOLED}|{embedding_columns(config)}")
    chosen, flat = np.asarray(kept), flatten(params)
    for path in flat:
        if reads.fullmatch(path):
            flat[path] = np.asarray(flat[path])[chosen]
        if writes.fullmatch(path):
            flat[path] = np.asarray(flat[path])[..., chosen]
    narrow = config.embedding_size if config.maps_embeddings else len(kept)
    return dataclasses.replace(config, hidden_size=len(kept), embedding_size=narrow), unflatten(flat)


def check_columns(config: BertConfig) -> None:
    """Raises a `UserError` if hidden columns cannot be removed exactly."""
    if config.exits or config.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        what = "exits" if config.exits else "a head that predicts words"
        raise UserError(f"hidden columns of a model with {what} cannot be removed; give one with a classifier.")


def embedding_columns(config: BertConfig) -> str:
    """The parameters of the embeddings whose last axis is the hidden state, as a regex."""
    if not config.maps_embeddings:
        return r"embeddings/((word|position|token_type)/embedding|layer_norm/(scale|bias))"
    if config.factorised == "words":
        return r"embeddings/((position|token_type)/embedding|layer_norm/(scale|bias)|word_mapping/kernel)"
    return r"embeddings/mapping/(kernel|bias)"
