"""Exit heads: classifiers after inner layers, for early exit (DeeBERT, Xin et al. 2020; PABEE, Zhou et al. 2020).

An exit reads the first row of its layer, or the mean of all real tokens, and predicts the model's labels. It costs a
pooler (d^2 parameters, applied to one row) and a classifier, little compared with a layer. The gain depends on how many
examples exit, which a policy decides (`bertjax.adaptive`). An exit on the embeddings is a bag-of-words classifier,
which costs no layer. The head after the last layer is the model's own.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from bertjax.model.config import BertConfig
from bertjax.model.layers import Dense, dropout_key
from bertjax.model.products import Product, dropout, plain_product


class ExitHead(nn.Module):
    """Logits from the first row through a pooler of its own, or from a row that is already pooled."""

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
    """The exit heads of a model: `exit_i` after depth step i, `exit_-1` on the embeddings."""

    config: BertConfig
    product: Product = plain_product

    def setup(self):
        exits = self.config.exits
        assert exits is not None
        own = exits.head == "own_pooler"
        self.heads = {i: ExitHead(self.config, own, self.product, name=f"exit_{i}") for i in exits.after}

    def __call__(self, number: int, row: Float[Array, "*rows d"]) -> Float[Array, "*rows c"]:
        return self.heads[number](row, f"exit_{number}")
