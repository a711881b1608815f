"""How many tokens of each text go on where thresholds decide: the model is run to count them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bertjax.machine.xla import Forward
from bertjax.model import BertModel
from bertjax.params import Tree
from bertjax.text.batches import eval_batches, inputs_of
from bertjax.text.buckets import length_buckets
from bertjax.text.encode import Encoded
from bertjax.token_dropping.costs import TokensLeft, left_of


def measured_tokens(model: BertModel, params: Tree, encoded: Encoded) -> TokensLeft:
    """What token dropping leaves of these texts."""
    kept = np.zeros((model.config.depth, len(encoded)))
    for batch in eval_batches(encoded, 32, length_buckets(encoded.lengths, model.config.max_tokens)):
        found = np.asarray(counts(model, params, *inputs_of(batch)))
        real = batch["weights"] > 0
        kept[:, batch["example_ids"][real]] = found[:, real]
    return left_of(model.config, encoded.lengths, kept)


@Forward
def counts(model: BertModel, params: Tree, ids: Array, mask: Array, types: Array) -> Array:
    """The number of tokens of each text that go on after each depth step [depth, b]."""
    output: Any = model.apply({"params": params}, ids, mask, types)
    return jnp.stack([jnp.sum(tokens.real, axis=1) for tokens in output.tokens[1:]])
