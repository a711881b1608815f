"""Embeddings: look-up tables, their sum, and the mapping from their width to the encoder's."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bertjax.model.config import BertConfig
from bertjax.model.layers import Dense, dropout_key, gated_columns, norm_of, parameter
from bertjax.model.products import Product, dropout, lookup, plain_product


class EmbeddingTable(nn.Module):
    """An embedding table, looked up by id."""

    rows: int
    width: int
    site: str
    initializer_range: float
    product: Product = plain_product

    def setup(self):
        init = nn.initializers.normal(self.initializer_range)
        self.embedding = parameter(self, "embedding", init, (self.rows, self.width))

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        return lookup(ids, self.embedding, site=self.site, product=self.product)


class Mapping(nn.Module):
    """A linear map from the width of a word table to the encoder's, without bias, and its transpose for the tied
    output."""

    narrow: int
    wide: int
    initializer_range: float
    product: Product = plain_product

    def setup(self):
        self.kernel = parameter(
            self, "kernel", nn.initializers.normal(self.initializer_range), (self.narrow, self.wide)
        )

    def __call__(self, x: Float[Array, "b l e"], site: str) -> Float[Array, "b l d"]:
        return self.product(site, "ble,ed->bld", x, self.kernel)

    def back(self, x: Float[Array, "b l d"], site: str) -> Float[Array, "b l e"]:
        return self.product(site, "bld,ed->ble", x, self.kernel)


class Embeddings(nn.Module):
    """The sum of word, position and token-type embeddings, then LayerNorm and dropout.

    If the tables are narrower than the encoder, a dense layer maps either the final sum (ALBERT, Lan et al. 2020,
    section 3.1) or the word embeddings alone, before the sum.
    """

    config: BertConfig
    product: Product = plain_product

    @property
    def maps_words(self) -> bool:
        """Whether word embeddings get the encoder's width before the sum, and not the sum after it."""
        return self.config.factorised == "words"

    def setup(self):
        config = self.config
        others = config.hidden_size if self.maps_words else config.embedding_size
        self.word = self.table("word", config.vocab_size, config.embedding_size)
        self.position = self.table("position", config.max_position_embeddings, others)
        if config.type_vocab_size:
            self.token_type = self.table("token_type", config.type_vocab_size, others)
        self.layer_norm = norm_of(config, config.bottleneck.main_norm_eps if config.bottleneck else 0.0)
        if config.factorised == "words":
            sizes = config.embedding_size, config.hidden_size
            self.word_mapping = Mapping(*sizes, config.initializer_range, self.product)
        elif config.maps_embeddings:
            self.mapping = Dense(config.hidden_size, config.initializer_range, self.product)

    def table(self, name: str, rows: int, width: int) -> EmbeddingTable:
        return EmbeddingTable(rows, width, f"embeddings/{name}", self.config.initializer_range, self.product)

    def __call__(
        self,
        input_ids: Int[Array, "b l"],
        token_type_ids: Int[Array, "b l"],
        position_ids: Int[Array, "#b l"],
        columns: Float[Array, " d"] | None = None,
    ) -> Float[Array, "b l d"]:
        total = self.words(input_ids) + self.position(position_ids + self.config.position_offset)
        if self.config.type_vocab_size:
            total = total + self.token_type(token_type_ids)
        maps = self.config.maps_embeddings and not self.maps_words
        normed = self.layer_norm(total, None if maps else columns).astype(self.config.dtype)
        embedded = dropout(normed, self.config.hidden_dropout_prob, dropout_key(self))
        if maps:
            embedded = self.mapping(embedded, "embeddings/mapping")
        return gated_columns(embedded, columns)

    def places(self, input_ids: Int[Array, "b l"]) -> Int[Array, "#b l"]:
        """The positions of a batch, from 0. With an offset, padding has -1 (Liu et al. 2019, official code)."""
        if not self.config.position_offset:
            return jnp.arange(input_ids.shape[1])[None]
        real = (input_ids != self.config.pad_token_id).astype(jnp.int32)
        return jnp.cumsum(real, axis=1) * real - 1

    def words(self, input_ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """The word embeddings in the width of the sum."""
        words = self.word(input_ids)
        return (
            self.word_mapping(words.astype(self.config.dtype), "embeddings/word_mapping") if self.maps_words else words
        )

    def words_from(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        """Logits over the vocabulary, by the word table (tied)."""
        if self.config.factorised == "words":
            x = self.word_mapping.back(x, "decoder/word_mapping")
        return self.product("decoder", "bld,vd->blv", x, self.word.embedding)
