"""Thin layers between wide states: MobileBERT, and its teacher IB-BERT (Sun et al. 2020).

A layer narrows its input, computes in the narrow width, and widens the result again onto the residual sum, so that 24
layers are cheap while the states between them stay as wide as a teacher's. That is what makes layer-by-layer transfer
possible: IB-BERT has the same states of 512 columns around layers of 1,024, an inverted bottleneck, and each of its
layers can teach the layer beside it without a projection.

The trade-off: thin matrices use a large device badly, the dense layers in and out are a quarter of the parameters, and
a narrow layer has so little attention in proportion that several feed-forward layers follow it to restore the balance.
"""

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
    assert config.bottleneck is not None  # `BertConfig` gives every MobileBERT one
    return config.bottleneck


class Bottleneck(nn.Module):
    """A dense layer to another width, and a norm."""

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
        """The same, added to a residual before the norm."""
        return self.layer_norm(residual + dropout(self.dense(x, site), rate, dropout_key(self)))


class BottleneckGroup(Group):
    """One layer. The last feed-forward layer is `ffn`, as in every model; those before it are `ffn_0`, `ffn_1`..."""

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
        attention, here = self.attention, f"{site}/attention"
        narrow, matched, valued = self.inputs(hidden, site)
        queries, keys = attention.queries(matched, here), attention.heads_of(attention.key(matched, f"{here}/key"))
        values = attention.heads_of(attention.value(valued, f"{here}/value"))
        after = attention.layer_norm(narrow + attention(queries, keys, values, mask, LayerGates(), here))
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
        """What the residual sum of attention begins with, what queries and keys are made of, and what values are."""
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
    """The stack of such layers, which share no parameters and take no gates."""

    group_type = BottleneckGroup

    def step(
        self,
        number: int,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: LayerGates,
        split_cls_row: bool = False,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
    ) -> LayerOutput:
        """One depth step; every row is computed."""
        del split_cls_row, cls_positions
        if any(gate is not None for gate in gates):
            raise UserError("gates scale the heads, neurons and layers of a plain BERT; a MobileBERT takes none.")
        group = self.config.depth_steps()[number].attention
        return self.groups[group](hidden, mask, f"step_{number}")


class TrigramEmbeddings(Embeddings):
    """Words mapped to the encoder's width, with their neighbours if the config says so; then positions and token types
    are added, and a norm follows.

    With `trigram_input` a word is three rows of the table side by side, those of the next, the same and the previous
    column (that order, as in the official code); beyond the first and the last column of the batch there are zeros.
    Padding is a column like any other: the last real token sees the row of [PAD] where padding follows it, and zeros
    where none does, as in the official code and in `transformers`. So its embedding, and through attention the whole
    row a little, depends on whether padding follows, though not on how much, while the row of [PAD] is not zero.
    """

    def setup(self):
        config = self.config
        self.word = self.table("word", config.vocab_size, config.embedding_size)
        self.position = self.table("position", config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type = self.table("token_type", config.type_vocab_size, config.hidden_size)
        self.layer_norm = norm_of(config, bottleneck_of(config).main_norm_eps)
        if config.maps_embeddings:
            self.mapping = Dense(config.hidden_size, config.initializer_range, self.product)

    def __call__(
        self, input_ids: Int[Array, "b l"], token_type_ids: Int[Array, "b l"], position_ids: Int[Array, "#b l"]
    ) -> Float[Array, "b l d"]:
        total = self.word(input_ids)
        if self.config.trigram_input:
            total = trigrams(total)
        if self.config.maps_embeddings:
            total = self.mapping(total.astype(self.config.dtype), "embeddings/mapping")
        total = total + self.position(position_ids)
        if self.config.type_vocab_size:
            total = total + self.token_type(token_type_ids)
        normed = self.layer_norm(total).astype(self.config.dtype)
        return dropout(normed, self.config.hidden_dropout_prob, dropout_key(self))

    def words_from(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        """What the word table (tied) says of its columns, the first ones; the head adds the others."""
        return super().words_from(x[..., : self.config.embedding_size])


def trigrams(x: Float[Array, "b l e"]) -> Float[Array, "b l three_e"]:
    """The next, the same and the previous column side by side; zeros beyond both ends."""
    nothing = jnp.zeros_like(x[:, :1])
    following = jnp.concatenate([x[:, 1:], nothing], axis=1)
    preceding = jnp.concatenate([nothing, x[:, :-1]], axis=1)
    return jnp.concatenate([following, x, preceding], axis=-1)
