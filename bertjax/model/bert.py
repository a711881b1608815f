"""The encoder, whole and in pieces.

`BertModel` is `embed -> layers[a:b] -> head`; each piece is a method that can be applied alone, and the full model is
nothing but their composition. The output holds everything that was computed; inside `jit`, XLA removes what the
caller drops, so asking for the logits alone costs no more than computing them. Calling `jax.jit(model.apply)` keeps
all of it: return what you need from a function of your own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.model.layers import Dense, Group, Layer, LayerGates, LayerNorm, LayerOutput, dropout_key, parameter
from bertjax.model.products import Product, dropout, lookup, plain_product


class ModelOutput(NamedTuple):
    """What a model computed. `hidden_states[0]` is the embedding, `[i + 1]` the output of layer i."""

    logits: Array | None
    sentence_logits: Array | None
    """Of the second head, where there are two: BertForPreTraining, AlbertForPreTraining."""
    pooled: Array | None
    hidden_states: tuple[Float[Array, "b l d"], ...]
    queries: tuple[Float[Array, "b l h k"], ...]
    keys: tuple[Float[Array, "b l h k"], ...]
    values: tuple[Float[Array, "b l h k"], ...]

    @property
    def attention_scores(self) -> tuple[Float[Array, "b h l l"], ...]:
        """Per layer, queries times keys, scaled by the root of the head size, before mask and softmax.

        Computed here from queries and keys, so that it exists whichever kernel did the attention.
        """
        pairs = zip(self.queries, self.keys, strict=True)
        return tuple(jnp.einsum("bqhk,bmhk->bhqm", q, k) * q.shape[-1] ** -0.5 for q, k in pairs)


class Table(nn.Module):
    """An embedding table: rows by id."""

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
    """From the width of a word table to the encoder's, without a bias; and back, for the output that is tied to it."""

    narrow: int
    wide: int
    initializer_range: float
    product: Product = plain_product

    def setup(self):
        self.kernel = parameter(
            self, "kernel", nn.initializers.normal(self.initializer_range), (self.narrow, self.wide)
        )

    def __call__(self, x: Float[Array, "b l e"], site: str) -> Float[Array, "b l d"]:
        return self.product(site, "ble,ed->bld", x, self.kernel.astype(x.dtype))

    def back(self, x: Float[Array, "b l d"], site: str) -> Float[Array, "b l e"]:
        return self.product(site, "bld,ed->ble", x, self.kernel.astype(x.dtype))


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings, then LayerNorm and dropout.

    Tables narrower than the encoder meet a dense layer, either all of them at the end (ALBERT, Lan et al. 2020, section
    3.1) or the word table alone, at the beginning.
    """

    config: BertConfig
    product: Product = plain_product

    def setup(self):
        config = self.config
        words = config.factorised == "words"

        def table(name: str, rows: int, width: int) -> Table:
            return Table(rows, width, f"embeddings/{name}", config.initializer_range, self.product)

        others = config.hidden_size if words else config.embedding_size
        self.word = table("word", config.vocab_size, config.embedding_size)
        self.position = table("position", config.max_position_embeddings, others)
        if config.type_vocab_size:
            self.token_type = table("token_type", config.type_vocab_size, others)
        self.layer_norm = LayerNorm(config.layer_norm_eps)
        if words:
            sizes = config.embedding_size, config.hidden_size
            self.word_mapping = Mapping(*sizes, config.initializer_range, self.product)
        elif config.maps_embeddings:
            self.mapping = Dense(config.hidden_size, config.initializer_range, self.product)

    def __call__(
        self, input_ids: Int[Array, "b l"], token_type_ids: Int[Array, "b l"], position_ids: Int[Array, "#b l"]
    ) -> Float[Array, "b l d"]:
        words = self.config.factorised == "words"
        total = self.word(input_ids)
        if words:
            total = self.word_mapping(total, "embeddings/word_mapping")
        total = total + self.position(position_ids)
        if self.config.type_vocab_size:
            total = total + self.token_type(token_type_ids)
        normed = self.layer_norm(total).astype(self.config.dtype)
        dropped = dropout(normed, self.config.hidden_dropout_prob, dropout_key(self))
        return self.mapping(dropped, "embeddings/mapping") if self.config.maps_embeddings and not words else dropped

    def words_from(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        """Logits over the vocabulary, by the word table (tied)."""
        if self.config.factorised == "words":
            x = self.word_mapping.back(x, "decoder/word_mapping")
        return self.product("decoder", "bld,vd->blv", x, self.word.embedding.astype(x.dtype))


class Encoder(nn.Module):
    """The stack of layers; `layer_g` in a parameter path is group g, which for most models is depth step g."""

    config: BertConfig
    product: Product = plain_product
    first_apart: bool = False
    """Whether the last layer computes its first row apart; see `Layer.first_apart`."""

    def setup(self):
        steps = self.config.depth_steps()
        heads = {step.attention: step.num_attention_heads for step in steps}
        neurons = {step.ffn: step.intermediate_size for step in steps}
        named = sorted(set().union(*(step.groups for step in steps)))
        # A group that lends nothing but a LayerNorm makes no products, so their sizes do not matter.
        self.groups = {
            g: Group(self.config, heads.get(g, 1), neurons.get(g, 1), self.product, name=f"layer_{g}") for g in named
        }

    def __call__(
        self,
        hidden: Float[Array, "b l d"],
        mask: Bool[Array, "b 1 #l l"],
        gates: Sequence[LayerGates] | None,
        start: int,
        stop: int | None,
    ) -> list[LayerOutput]:
        outputs = []
        run = nn.remat(Encoder.step, static_argnums=1) if self.config.remat else Encoder.step
        for number in range(self.config.depth)[start:stop]:
            outputs.append(run(self, number, hidden, mask, gates[number] if gates else LayerGates()))
            hidden = outputs[-1].hidden
        return outputs

    def step(
        self, number: int, hidden: Float[Array, "b l d"], mask: Bool[Array, "b 1 #l l"], gates: LayerGates
    ) -> LayerOutput:
        """One depth step, with the groups that the config names for it."""
        step, groups = self.config.depth_steps()[number], self.groups
        attention, ffn = groups[step.attention].attention, groups[step.ffn].ffn
        norms = groups[step.attention_norm].attention.layer_norm, groups[step.ffn_norm].ffn.layer_norm
        apart = self.first_apart and number == self.config.depth - 1
        return Layer(number, attention, ffn, *norms, apart)(hidden, mask, gates)


class BertModel(nn.Module):
    """BERT (Devlin et al. 2018) without a task head; subclasses in heads.py add theirs in `setup_head` and `head`."""

    config: BertConfig
    product: Product = plain_product

    has_pooler = True
    reads_first = False
    """The head reads the first row of the last layer and no other."""

    def setup(self):
        self.embeddings = Embeddings(self.config, self.product)
        # A product that is watched sees every site once, and cuDNN wants many queries.
        apart = self.reads_first and self.product is plain_product and self.config.attention == "xla"
        self.encoder = Encoder(self.config, self.product, apart)
        if self.has_pooler:
            self.pooler = self.dense(self.config.hidden_size)
        self.setup_head()

    def setup_head(self) -> None:
        """Modules of the head; none here."""

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"] | None) -> Array | None:
        """Logits from the last hidden state and the pooled vectors; none here."""
        del hidden, pooled
        return None

    def sentence_head(self, pooled: Float[Array, "*rows d"] | None) -> Array | None:
        """Logits about the two sentences as wholes; none here."""
        del pooled
        return None

    def dense(self, features: int) -> Dense:
        return Dense(features, self.config.initializer_range, self.product)

    def embed(
        self,
        input_ids: Int[ArrayLike, "b l"],
        token_type_ids: Int[ArrayLike, "b l"] | None = None,
        position_ids: Int[ArrayLike, "#b l"] | None = None,
    ) -> Float[Array, "b l d"]:
        """The encoder's input. Positions count from 0 at the first column unless given."""
        ids = jnp.asarray(input_ids)
        limit, length = self.config.max_position_embeddings, ids.shape[1]
        if position_ids is None and length > limit:
            raise UserError(
                f"the batch has {length} columns, the model {limit} positions: cut texts at {limit} pieces."
            )
        types = jnp.zeros_like(ids) if token_type_ids is None else jnp.asarray(token_type_ids)
        positions = jnp.arange(length)[None] if position_ids is None else jnp.asarray(position_ids)
        return self.embeddings(ids, types, positions)

    def layers(
        self,
        hidden: Float[Array, "b l d"],
        mask: Bool[Array, "b 1 #l l"],
        gates: Sequence[LayerGates] | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> list[LayerOutput]:
        """Depth steps `start` to `stop` (exclusive), each with its queries, keys and values."""
        return self.encoder(hidden, mask, gates, start, stop)

    def finish(
        self,
        hidden: Float[Array, "b l d"],
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        first: Float[Array, "b d"] | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Logits and pooled vectors from the last hidden state; one [CLS] a row, or those at `cls_positions`.

        `first` is `hidden[:, 0]`, where a layer computed it apart."""
        if cls_positions is not None:
            first = jnp.take_along_axis(hidden, jnp.asarray(cls_positions)[..., None], axis=1)
        elif first is None:
            first = hidden[:, 0]
        pooled = self.pool(first)
        return self.head(hidden, pooled), pooled

    def pool(self, first: Float[Array, "*rows d"]) -> Float[Array, "*rows d"] | None:
        return jnp.tanh(self.pooler(first, "pooler")) if self.has_pooler else None

    def __call__(
        self,
        input_ids: Int[ArrayLike, "b l"],
        attention_mask: Int[ArrayLike, "b l"] | None = None,
        token_type_ids: Int[ArrayLike, "b l"] | None = None,
        *,
        position_ids: Int[ArrayLike, "#b l"] | None = None,
        segment_ids: Int[ArrayLike, "b l"] | None = None,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        gates: Sequence[LayerGates] | None = None,
    ) -> ModelOutput:
        """Runs the model. `attention_mask` is 1 on real pieces; with `segment_ids` (packing) a piece sees only its own
        segment. Token types are accepted and ignored where the model has none."""
        real = jnp.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embed(input_ids, token_type_ids, position_ids)
        outputs = self.layers(hidden, key_mask(real, segment_ids), gates)
        last, first = (outputs[-1].hidden, outputs[-1].first) if outputs else (hidden, None)
        logits, pooled = self.finish(last, cls_positions, first)
        states = (hidden, *(o.hidden for o in outputs))
        queries, keys, values = (tuple(getattr(o, n) for o in outputs) for n in ("queries", "keys", "values"))
        return ModelOutput(logits, self.sentence_head(pooled), pooled, states, queries, keys, values)


def key_mask(
    attention_mask: Int[ArrayLike, "b l"], segment_ids: Int[ArrayLike, "b l"] | None = None
) -> Bool[Array, "b 1 #l l"]:
    """Which keys a query may look at: real pieces, and of its own segment where rows are packed."""
    keys = (jnp.asarray(attention_mask) > 0)[:, None, None, :]
    if segment_ids is None:
        return keys
    segments = jnp.asarray(segment_ids)
    return keys & (segments[:, None, :, None] == segments[:, None, None, :])
