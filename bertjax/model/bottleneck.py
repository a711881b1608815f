"""MobileBERT and its teacher IB-BERT (Sun et al. 2020): layers with an inner width of their own between dense layers.

A layer projects its input to the inner width, computes there, and projects the result back onto the residual. So the 24
layers of MobileBERT are cheap, and the hidden states between them have the width of the teacher's. IB-BERT has the same
states of 512 columns around layers of 1,024, an inverted bottleneck. Each of its layers can therefore be distilled into
the student's layer without a projection.

The trade-off: narrow matrices use a large device poorly, and the projections are a quarter of the parameters. A narrow
layer also has too little feed-forward capacity relative to its attention, so several feed-forward layers follow it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from bertjax.errors import UserError
from bertjax.model.attention import Mask
from bertjax.model.config import BertConfig, BottleneckConfig
from bertjax.model.embeddings import Embeddings
from bertjax.model.encoder import Encoder
from bertjax.model.layers import Dense, FeedForward, Group, LayerGates, LayerOutput, dropout_key, norm_of
from bertjax.model.products import Product, dropout, plain_product


def bottleneck_of(config: BertConfig) -> BottleneckConfig:
    assert config.bottleneck is not None  # set by `BertConfig` for every MobileBERT
    return config.bottleneck


class Bottleneck(nn.Module):
    """A dense layer to another width, followed by a norm."""

    config: BertConfig
    width: int
    product: Product = plain_product

    def setup(self):
        self.dense = Dense(self.width, self.config.initializer_range, self.product)
        self.layer_norm = norm_of(self.config)

    def __call__(self, x: Float[Array, "b l i"], site: str) -> Float[Array, "b l o"]:
        return self.layer_norm(self.dense(x, site))

    def onto(
        self, residual: Float[Array, "b l o"], x: Float[Array, "b l i"], rate: float, site: str
    ) -> Float[Array, "b l o"]:
        """The dense layer, dropout, the residual sum and the norm."""
        return self.layer_norm(residual + dropout(self.dense(x, site), rate, dropout_key(self)))


class BottleneckGroup(Group):
    """One layer. The last feed-forward layer is `ffn`, as in other models; earlier ones are `ffn_0`, `ffn_1`..."""

    def setup(self):
        super().setup()
        config = self.config
        earlier = range(bottleneck_of(config).num_feedforward_networks - 1)
        self.earlier = [FeedForward(config, self.neurons, self.product, name=f"ffn_{i}") for i in earlier]
        if config.bottleneck_size:
            self.input_bottleneck = Bottleneck(config, config.inner_size, self.product)
            if bottleneck_of(config).attention_input == "shared":
                self.shared_bottleneck = Bottleneck(config, config.inner_size, self.product)
            self.output_bottleneck = Bottleneck(config, config.hidden_size, self.product)

    def __call__(self, hidden: Float[Array, "b l d"], mask: Mask, site: str) -> LayerOutput:
        attention, name = self.attention, f"{site}/attention"
        residual, query_input, value_input = self.inputs(hidden, site)
        queries = attention.queries(query_input, name)
        keys = attention.heads_of(attention.key(query_input, f"{name}/key"))
        values = attention.heads_of(attention.value(value_input, f"{name}/value"))
        after = attention.layer_norm(residual + attention(queries, keys, values, mask, LayerGates(), name)[0])
        for number, ffn in enumerate(self.earlier):
            after = ffn.layer_norm(after + ffn(after, LayerGates(), f"{site}/ffn_{number}"))
        after = self.ffn.layer_norm(after + self.ffn(after, LayerGates(), f"{site}/ffn"))
        if self.config.bottleneck_size:
            rate = self.config.hidden_dropout_prob
            after = self.output_bottleneck.onto(hidden, after, rate, f"{site}/output_bottleneck")
        return LayerOutput(after, after[:, 0], queries, keys, values)

    def inputs(
        self, hidden: Float[Array, "b l d"], site: str
    ) -> tuple[Float[Array, "b l n"], Float[Array, "b l m"], Float[Array, "b l v"]]:
        """The inputs of attention: for the residual sum, for queries and keys, and for values."""
        if not self.config.bottleneck_size:
            return hidden, hidden, hidden
        narrow = self.input_bottleneck(hidden, f"{site}/input_bottleneck")
        attention_input = bottleneck_of(self.config).attention_input
        if attention_input == "input":
            return narrow, narrow, narrow
        if attention_input == "block":
            return narrow, hidden, hidden
        return narrow, self.shared_bottleneck(hidden, f"{site}/shared_bottleneck"), hidden


class BottleneckEncoder(Encoder):
    """The stack of bottleneck layers, without parameter sharing and without gates."""

    group_type = BottleneckGroup

    def step(
        self,
        number: int,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: LayerGates,
        split_cls_row: bool = False,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        dropping: Any = None,
    ) -> LayerOutput:
        """The output of one depth step; always computes every row."""
        del split_cls_row, cls_positions
        if dropping is not None:
            raise UserError("a MobileBERT does not support token dropping; leave it out.")
        if any(gate is not None for gate in gates):
            raise UserError("a MobileBERT does not support gates on heads, neurons or layers; leave gates out.")
        group = self.config.depth_steps()[number].attention
        return self.groups[group](hidden, mask, f"step_{number}")

    def skip(
        self, number: int, hidden: Float[Array, "b l d"], cls_positions: Int[ArrayLike, "b s"] | None
    ) -> LayerOutput:
        """The output of a depth step that is not computed."""
        del cls_positions
        return super().skip(number, hidden, None)


class TrigramEmbeddings(Embeddings):
    """Word embeddings mapped to the encoder's width, optionally as trigrams; then position and token types are added,
    and a norm follows.

    With `trigram_input` the input of a position is three word embeddings side by side: of the next, the same and the
    previous position, in the order of the official code. Beyond the first and last column of the batch they are zeros.
    Padding is a position like any other, as in the official code and in `transformers`: next to padding, the last real
    token has the embedding of [PAD] in its trigram, at the end of the batch it has zeros. So its embedding, and
    slightly the whole example through attention, depends on whether padding follows (not on how much), unless the row
    of [PAD] is zero.
    """

    @property
    def maps_words(self) -> bool:
        return True

    def words(self, input_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        words = self.word(input_ids)
        if self.config.trigram_input:
            words = trigrams(words)
        if not self.config.maps_embeddings:
            return words
        return self.mapping(words.astype(self.config.dtype), "embeddings/mapping")

    def words_from(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        """Logits from the first `embedding_size` columns, by the word table (tied); the head adds the contribution of
        the other columns."""
        return super().words_from(x[..., : self.config.embedding_size])


def trigrams(x: Float[Array, "b l e"]) -> Float[Array, "b l three_e"]:
    """The next, the same and the previous column side by side; zeros beyond both ends."""
    zeros = jnp.zeros_like(x[:, :1])
    following = jnp.concatenate([x[:, 1:], zeros], axis=1)
    preceding = jnp.concatenate([zeros, x[:, :-1]], axis=1)
    return jnp.concatenate([following, x, preceding], axis=-1)
