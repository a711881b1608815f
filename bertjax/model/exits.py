"""Heads after inner layers, at which an example may exit (DeeBERT, Xin et al. 2020; PABEE, Zhou et al. 2020).

An exit reads the first row of its layer, or the mean of all, and gives logits of the model's labels. What it costs is a
pooler (d^2 parameters, used on one row) and a classifier, little beside a layer. What it gains depends on how many
examples exit, which a policy decides (`bertjax.adaptive`). On the embeddings it is a bag of words in front of the
model: an example that exits there costs no layer. After the last layer stands the model's own head.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bertjax.model.config import BertConfig
from bertjax.model.layers import Dense, dropout_key
from bertjax.model.products import Product, dropout, plain_product


class ExitHead(nn.Module):
    """Logits from the pooled first row; with a pooler of its own, from the first row."""

    config: BertConfig
    own_pooler: bool
    product: Product = plain_product

    def setup(self):
        spread = self.config.initializer_range
        if self.own_pooler:
            self.pooler = Dense(self.config.hidden_size, spread, self.product)
        self.classifier = Dense(len(self.config.labels), spread, self.product)

    def __call__(self, row: Float[Array, "*rows d"], site: str) -> Float[Array, "*rows c"]:
        pooled = jnp.tanh(self.pooler(row, f"{site}/pooler")) if self.own_pooler else row
        return self.classifier(dropout(pooled, self.config.head_dropout, dropout_key(self)), f"{site}/classifier")


class ExitHeads(nn.Module):
    """`exit_i` is the head after depth step i, `exit_-1` that on the embeddings."""

    config: BertConfig
    product: Product = plain_product

    def setup(self):
        exits = self.config.exits
        assert exits is not None
        own = exits.head == "own_pooler"
        self.heads = {i: ExitHead(self.config, own, self.product, name=f"exit_{i}") for i in exits.after}

    def __call__(self, number: int, row: Float[Array, "*rows d"]) -> Float[Array, "*rows c"]:
        return self.heads[number](row, f"exit_{number}")
