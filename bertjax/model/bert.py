"""`BertModel`: embeddings, encoder and head, whole or by segments.

The model is `embed -> layers[a:b] -> finish`; each part is a method that can be applied alone, and the full model is
their composition. The output holds every intermediate result. Inside `jit`, XLA removes what the caller does not use,
so taking only the logits costs nothing extra. `jax.jit(model.apply)` returns and therefore computes everything: wrap it
in a function that returns what you need.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bertjax.errors import UserError
from bertjax.model.attention import Mask, key_mask
from bertjax.model.bottleneck import BottleneckEncoder, TrigramEmbeddings
from bertjax.model.config import BertConfig
from bertjax.model.embeddings import Embeddings
from bertjax.model.encoder import Encoder
from bertjax.model.exits import ExitHeads
from bertjax.model.layers import Dense, LayerGates, LayerOutput, gated_columns, rows_at
from bertjax.model.products import Product, by_rows, plain_product
from bertjax.model.recurrence import RecurrentEncoder, Trace
from bertjax.model.tokens import Gather, TokenRule, Tokens, all_tokens, restored, rule_of


class ModelOutput(NamedTuple):
    """The outputs of a model. `hidden_states[0]` is the embedding, `[i + 1]` the output of layer i, or of recurrence
    step i."""

    logits: Array | None
    sentence_logits: Array | None
    """The logits of the second head of BertForPreTraining and AlbertForPreTraining."""
    pooled: Array | None
    hidden_states: tuple[Float[Array, "b l d"], ...]
    queries: tuple[Float[Array, "b l h k"], ...]
    keys: tuple[Float[Array, "b l h k"], ...]
    values: tuple[Float[Array, "b l h k"], ...]
    trace: Trace | None = None
    """Halting statistics of a recurrence."""
    exit_logits: tuple[Float[Array, "..."], ...] = ()
    """The logits of the exits after inner layers, in order; those after the last layer are `logits`."""
    tokens: tuple[Tokens, ...] = ()
    """The tokens of the rows of each hidden state, in a model that drops some."""
    gates: tuple[LayerGates, ...] = ()
    """The gates that each depth step ran with, where a step that was not computed has the layer gate 0; empty if there
    were neither gates nor switches."""

    @property
    def attention_scores(self) -> tuple[Float[Array, "b h l l"], ...]:
        """Per layer, queries times keys divided by the square root of the head size, before mask and softmax.

        Recomputed from queries and keys, so they exist whichever attention kernel was used.
        """
        pairs = zip(self.queries, self.keys, strict=True)
        return tuple(jnp.einsum("bqhk,bmhk->bhqm", q, k) * q.shape[-1] ** -0.5 for q, k in pairs)


class BertModel(nn.Module):
    """BERT (Devlin et al. 2018) without a task head; subclasses in heads.py implement `setup_head` and `head`."""

    config: BertConfig
    product: Product = plain_product

    has_pooler = True
    reads_first = False
    """True if the head reads only the first row of the last layer."""

    def setup(self):
        mobile = self.config.model_type == "mobilebert"
        embeddings = TrigramEmbeddings if mobile else Embeddings
        encoder = BottleneckEncoder if mobile else RecurrentEncoder if self.config.recurrence else Encoder
        self.embeddings = embeddings(self.config, self.product)
        self.encoder = encoder(self.config, self.product)
        if self.has_pooler and self.config.dense_pooler:
            self.pooler = self.dense(self.config.hidden_size)
        if self.config.exits and self.config.exits.head != "shared":
            self.exits = ExitHeads(self.config, self.product)
        self.setup_head()

    def setup_head(self) -> None:
        """Creates the modules of the head; the base class has none."""

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"] | None) -> Array | None:
        """Logits from the last hidden state and the pooled vectors; None in the base class."""
        del hidden, pooled
        return None

    def sentence_head(self, pooled: Float[Array, "*rows d"] | None) -> Array | None:
        """Logits of the sentence-pair task from the pooled vectors; None in the base class."""
        del pooled
        return None

    def dense(self, features: int) -> Dense:
        return Dense(features, self.config.initializer_range, self.product)

    def embed(
        self,
        input_ids: Int[ArrayLike, "b l"],
        token_type_ids: Int[ArrayLike, "b l"] | None = None,
        position_ids: Int[ArrayLike, "#b l"] | None = None,
        columns: Float[Array, " d"] | None = None,
    ) -> Float[Array, "b l d"]:
        """The encoder's input. `position_ids` count from 0 at the first token, whatever the config's offset. Without
        them they are the columns, or with an offset the number of tokens before it that are not padding."""
        ids = jnp.asarray(input_ids)
        limit, length = self.config.max_tokens, ids.shape[1]
        if position_ids is None and length > limit:
            raise UserError(
                f"the batch has {length} columns, and the model only {limit} positions; truncate texts to {limit} "
                "tokens."
            )
        types = jnp.zeros_like(ids) if token_type_ids is None else jnp.asarray(token_type_ids)
        positions = self.embeddings.places(ids) if position_ids is None else jnp.asarray(position_ids)
        return self.embeddings(ids, types, positions, columns)

    def layers(
        self,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: Sequence[LayerGates] | None = None,
        start: int = 0,
        stop: int | None = None,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        switches: Bool[Array, " depth"] | None = None,
        tokens: Tokens | None = None,
        token_rule: TokenRule | None = None,
    ) -> list[LayerOutput]:
        """Outputs of depth steps `start` to `stop` (exclusive), each with its queries, keys and values. `tokens` are
        those of the rows of `hidden`; they are needed where a model that drops some does not begin at its first
        step."""
        # Observers of products need all rows in one call, and a fused kernel is inefficient for one query.
        split_cls_row = self.reads_first and by_rows(self.product) and self.config.attention == "xla"
        # An exit after the last layer means a segment of a larger model: later segments need every row.
        is_segment = self.config.exits is not None and self.config.exits.after[-1] == self.config.depth - 1
        split_cls_row = split_cls_row and not is_segment
        token_rule = self.rule(token_rule)
        if token_rule is not None and tokens is None:
            if start:
                raise UserError(
                    f"layers from {start} on of a model that drops tokens: give the `tokens` that are left."
                )
            tokens = all_tokens(mask[:, 0, 0, :])
        rows = split_cls_row, cls_positions, switches, tokens, token_rule
        return self.encoder(hidden, mask, gates, start, stop, *rows)

    def finish(
        self,
        hidden: Float[Array, "b l d"],
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        first: Float[Array, "*rows d"] | None = None,
        positions: Int[ArrayLike, "b m"] | None = None,
        columns: Float[Array, " d"] | None = None,
        real: Int[ArrayLike, "b l"] | Bool[Array, "b l"] | None = None,
    ) -> tuple[Array | None, Array | None]:
        """Logits and pooled vectors from the last hidden state, for the [CLS] of each row or those at `cls_positions`.

        `first` are the [CLS] rows if they were computed separately, see `LayerOutput`. With `positions`, token-level
        heads return logits of these positions only. `real` says which rows are tokens, for heads that pool all of them.
        """
        pooled = self.summary(hidden, real, first_rows(hidden, cls_positions, first))
        if pooled is not None:
            pooled = gated_columns(pooled, columns)
        if positions is not None:
            hidden = jnp.take_along_axis(hidden, jnp.asarray(positions)[..., None], axis=1)
        return self.head(hidden, pooled), pooled

    def exit(
        self,
        number: int,
        hidden: Float[Array, "b l d"],
        real: Int[ArrayLike, "b l"] | Bool[Array, "b l"],
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        first: Float[Array, "*rows d"] | None = None,
    ) -> Any:
        """Logits of the exit after a depth step."""
        exits = self.config.exits
        assert exits is not None
        if exits.reads == "mean":
            return self.exits(number, mean_rows(hidden, jnp.asarray(real) > 0))
        first = first_rows(hidden, cls_positions, first)
        if exits.head == "shared":
            hidden = first if first.ndim == 3 else first[:, None]  # not read by a classifier
            return self.head(hidden, self.pool(first))
        row: Any = first if exits.head == "own_pooler" else self.pool(first)
        return self.exits(number, row)

    def summary(
        self,
        hidden: Float[Array, "b l d"],
        real: Int[ArrayLike, "b l"] | Bool[Array, "b l"] | None,
        first: Float[Array, "*rows d"],
    ) -> Float[Array, "*rows d"] | None:
        """The vector of each text that a head reads: made of its first row, unless a subclass reads all of them."""
        del hidden, real
        return self.pool(first)

    def pool(self, first: Float[Array, "*rows d"]) -> Float[Array, "*rows d"] | None:
        if not self.has_pooler:
            return None
        return jnp.tanh(self.pooler(first, "pooler")) if self.config.dense_pooler else first

    def __call__(
        self,
        input_ids: Int[ArrayLike, "b l"],
        attention_mask: Int[ArrayLike, "b l"] | None = None,
        token_type_ids: Int[ArrayLike, "b l"] | None = None,
        *,
        position_ids: Int[ArrayLike, "#b l"] | None = None,
        segment_ids: Int[ArrayLike, "b l"] | None = None,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        masked_positions: Int[ArrayLike, "b m"] | None = None,
        gates: Sequence[LayerGates] | None = None,
        switches: Bool[Array, " depth"] | None = None,
        columns: Float[Array, " d"] | None = None,
        token_rule: TokenRule | None = None,
        stop_early: bool = False,
    ) -> ModelOutput:
        """The outputs of the whole model.

        `attention_mask` is 1 on real tokens. With `segment_ids` (packing) tokens attend within their segment only.
        Token types are accepted and ignored if the model has none. With `masked_positions` the logits of a masked
        language model are [b, m, vocabulary], at these positions only, because the product with the vocabulary is the
        largest in the model. A layer whose entry of `switches` is false is not computed: it returns its input, and
        zeros as queries, keys and values. `columns` are multipliers of the hidden columns: of the embedding output, of
        the update of every sublayer and of the pooled vector. Where one is 0, LayerNorms leave the column out, so the
        model computes what it does without that column (Xia et al. 2022, section 3.1; `bertjax.prune.keep_hidden`).
        `token_rule` says which tokens go on after each layer; None: what the config's `retention` says, if it has one.
        A head that answers every token reads for a dropped one the state of the last layer that it took part in.
        With `stop_early` a recurrence ends as soon as every position has halted and returns only its last output; this
        has no gradient.
        """
        real = jnp.ones_like(input_ids) if attention_mask is None else attention_mask
        if segment_ids is not None and (reason := self.config.unpackable):
            raise UserError(f"{reason}: do not pack for this model.")
        if columns is not None and (self.config.exits or self.config.model_type == "mobilebert"):
            raise UserError("a model with exits, or a MobileBERT, does not support gates on hidden columns.")
        drops = self.rule(token_rule) is not None
        if drops:
            self.check_token_rule(self.rule(token_rule), segment_ids is not None, switches is not None)
        hidden = self.embed(input_ids, token_type_ids, position_ids, columns)
        mask, trace = key_mask(real, segment_ids, self.config.attention), None
        if isinstance(self.encoder, RecurrentEncoder):
            if gates is not None or switches is not None or columns is not None:
                raise UserError(
                    "gates belong to single layers, as switches do, and a recurrent model applies the same layers in "
                    "every step; leave them out."
                )
            places = jnp.arange(hidden.shape[1])[None] if position_ids is None else jnp.asarray(position_ids)
            outputs, trace = self.encoder.run(hidden, mask, jnp.asarray(real) > 0, places, stop_early)
        else:
            if columns is not None:
                gates = [one._replace(columns=columns) for one in gates or [LayerGates()] * self.config.depth]
            options = {"cls_positions": cls_positions, "switches": switches, "token_rule": token_rule}
            outputs = self.layers(hidden, mask, gates, **options)
        last, first = (outputs[-1].hidden, outputs[-1].first) if outputs else (hidden, None)
        tokens: tuple[Any, ...] = ()
        states = (hidden, *(o.hidden for o in outputs))
        if drops:
            tokens = (all_tokens(jnp.asarray(real) > 0), *(o.tokens for o in outputs))
            last = last if self.reads_first else self.restore(states, tokens, columns)
        left = tokens[-1].real if drops and self.reads_first else real
        logits, pooled = self.finish(last, cls_positions, first, masked_positions, columns, left)
        after = self.config.exits.after if self.config.exits else ()
        firsts = (None, *(o.first for o in outputs))
        takes_part = [known.real for known in tokens] or [real] * len(states)
        exit_logits = tuple(self.exit(i, states[i + 1], takes_part[i + 1], cls_positions, firsts[i + 1]) for i in after)
        queries, keys, values = (tuple(getattr(o, n) for o in outputs) for n in ("queries", "keys", "values"))
        heads = logits, self.sentence_head(pooled), pooled
        ran = switched(gates, switches)
        return ModelOutput(*heads, states, queries, keys, values, trace, exit_logits, tokens, ran)

    def rule(self, rule: TokenRule | None) -> TokenRule | None:
        """The given rule, or that of the config; None if no tokens are dropped."""
        return rule_of(self.config.retention) if rule is None and self.config.retention else rule

    def check_token_rule(self, rule: Any, packed: bool, switched: bool) -> None:
        """Raises `UserError` where tokens cannot be dropped."""
        if reason := self.config.keeps_tokens:
            raise UserError(f"{reason}: leave token dropping out.")
        if packed:
            raise UserError("token dropping ranks the tokens of one text: do not pack for it.")
        if switched and isinstance(rule.select, Gather):
            raise UserError(
                "a model whose retention drops tokens cannot drop whole layers, because each layer has a number of "
                "tokens of its own: leave one of the two out."
            )
        for number, step in enumerate(self.config.depth_steps()):
            if not step.num_attention_heads and (rule.steps is None or number in rule.steps):
                raise UserError(f"step {number} has no attention heads, which rank tokens: name the others in `steps`.")

    def restore(
        self, states: tuple[Float[Array, "b _s d"], ...], tokens: tuple[Tokens, ...], columns: Float[Array, " d"] | None
    ) -> Float[Array, "b l d"]:
        """The last state of every token, as a head reads it: with pre-LayerNorm, the norm at the end is for those that
        were dropped before it too."""
        earlier = restored(states[:-1], tokens[:-1])
        if self.config.norm == "pre":
            earlier = self.encoder.last_norm(earlier, columns)
        return restored((earlier, states[-1]), (tokens[0], tokens[-1]))


def switched(gates: Sequence[LayerGates] | None, switches: Bool[Array, " depth"] | None) -> tuple[LayerGates, ...]:
    """The gates, with the layer gate 0 where a switch is off."""
    if switches is None:
        return tuple(gates or ())
    steps = gates or [LayerGates()] * len(switches)
    return tuple(
        step._replace(layer=on * jnp.asarray(1.0 if step.layer is None else step.layer))
        for on, step in zip(switches, steps, strict=True)
    )


def first_rows(
    hidden: Float[Array, "b l d"], cls_positions: Int[ArrayLike, "b s"] | None, first: Float[Array, "*rows d"] | None
) -> Float[Array, "..."]:
    """The rows that a head reads: the first [b, d], or those at `cls_positions` [b, s, d]; `first` if it holds these
    rows."""
    if cls_positions is not None:
        return first if first is not None and first.ndim == 3 else rows_at(hidden, cls_positions)
    return hidden[:, 0] if first is None else first


def mean_rows(hidden: Float[Array, "b l d"], real: Bool[Array, "b l"]) -> Float[Array, "b d"]:
    """The mean over real tokens, computed in float32; 0 if there are none."""
    kept = jnp.where(real[..., None], hidden.astype(jnp.float32), 0.0)
    return (kept.sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)[:, None]).astype(hidden.dtype)
