"""One encoder layer: self-attention and feed-forward, each with residual and post-LayerNorm (Devlin et al. 2018).

Parameters belong to groups, and depth steps refer to groups. The same mechanism serves
layers with and without shared parameters (ALBERT, Lan et al. 2020). Because several steps may use a kernel, a dense
layer gets its site name at each call.

Three options cost nothing when unused. `gates` scale heads, neurons and whole layers (1 keeps, 0 removes). They are
arguments, not parameters, so that `vmap(grad)` can give per-example gradients. `product` replaces the computation of
matrix products (products.py). Dropout is on if and only if `apply` gets a "dropout" key, so it cannot be active by
mistake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from bertjax.model.attention import Mask, attention
from bertjax.model.config import BertConfig
from bertjax.model.products import Product, as_row, dense, dropout, plain_product
from bertjax.model.tokens import CONTROLS, TokenRule, Tokens, significance
from bertjax.quantized.tensor import Quantized


@jax.checkpoint
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, x times the normal distribution function of x (Hendrycks & Gimpel 2016), computed in float32.

    It uses erf, with which the published models were trained: erfc is three times slower on XLA's CPU backend and more
    accurate only far in the tail. The backward pass recomputes it from x; otherwise the erf and the density would be
    stored, two more arrays as wide as the feed-forward layer.
    """
    x32 = x.astype(jnp.float32)
    return (0.5 * x32 * (1 + jax.lax.erf(x32 * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class LayerGates(NamedTuple):
    """Multipliers for one depth step, per model or (with a leading batch axis) per example. None means 1."""

    heads: Float[Array, "*batch heads"] | None = None
    """With two leading axes, examples and positions, one multiplier per position. Where tokens are dropped, it also
    weighs the head's part in their ranking."""
    neurons: Float[Array, "*batch neurons"] | None = None
    layer: Float[Array, "*batch"] | None = None
    attention: Float[Array, "*batch"] | None = None
    """A multiplier of the whole attention sublayer's update."""
    ffn: Float[Array, "*batch"] | None = None
    """A multiplier of the whole feed-forward sublayer's update."""
    columns: Float[Array, " d"] | None = None
    """Multipliers of the hidden columns, see `BertModel.__call__`."""

    @property
    def ffn_alive(self) -> Bool[Array, ""]:
        """Whether the feed-forward sublayer still has an effect: false if its gate, that of the layer or those of all
        its neurons are 0, for every example."""
        gates = (self.layer, self.ffn, self.neurons)
        return jnp.asarray([jnp.any(gate != 0) for gate in gates if gate is not None], bool).all()


class LayerOutput(NamedTuple):
    hidden: Float[Array, "b l d"]
    first: Float[Array, "*rows d"]
    """`hidden[:, 0]`, or if `cls_positions` were given and computed separately, these rows [b, s, d]. Read this where
    only the [CLS] rows are needed: see `Layer.split_cls_row`."""
    queries: Float[Array, "b l h k"]
    keys: Float[Array, "b l h k"]
    values: Float[Array, "b l h k"]
    tokens: Tokens | None = None
    """The tokens of the rows of `hidden`; None in a model that drops none."""


class Drop(NamedTuple):
    """How one depth step drops tokens."""

    rule: TokenRule
    step: int
    tokens: Tokens
    """The tokens before the step."""

    def significance(
        self, probabilities: Float[Array, "b h l l"], keys: int, heads: Float[Array, "#b #l h 1"] | None = None
    ) -> Float[Array, "b l"]:
        if self.rule.ranked_by in CONTROLS:
            return CONTROLS[self.rule.ranked_by](self.tokens)
        return significance(probabilities, self.tokens.real, self.rule.ranked_by, keys, heads)

    def __call__(self, ranked: Float[Array, "b s"], *rows: Float[Array, "b s d"]) -> tuple[Tokens, list[Array]]:
        """The tokens that go on, and their rows in each of these arrays; the last one is scaled."""
        tokens, chosen = self.rule.select(self.step, ranked, self.tokens, self.rule.arrays)
        kept = [one if chosen is None else rows_at(one, chosen) for one in rows]
        if tokens.scale is not None:
            kept[-1] = kept[-1] * tokens.scale[..., None].astype(kept[-1].dtype)
        return tokens, kept


def parameter(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]) -> Any:
    """A float32 parameter as a jax array (the tree may hold NumPy arrays, as bundles do), or the `Quantized` at its
    place."""
    if module.has_variable("params", name) and isinstance(stored := module.get_variable("params", name), Quantized):
        return stored
    return jnp.asarray(module.param(name, init, shape, jnp.float32))


def dropout_key(module: nn.Module) -> Array | None:
    return module.make_rng("dropout") if module.has_rng("dropout") else None


class Dense(nn.Module):
    """`x @ kernel + bias`, with a 2-D kernel [in, out]."""

    features: int
    initializer_range: float
    product: Product = plain_product
    first_bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch i"], site: str) -> Float[Array, "*batch o"]:
        kernel_init = nn.initializers.normal(self.initializer_range)
        kernel = parameter(self, "kernel", kernel_init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.constant(self.first_bias), (self.features,))
        return dense(x, kernel, bias, site=site, product=self.product)


class ConstantUpdate(nn.Module):
    """What is left of a sublayer's output projection when nothing is left of the sublayer: its bias."""

    features: int

    @nn.compact
    def __call__(self, rows: tuple[Any, ...], dtype: Any) -> Float[Array, "*rows o"]:
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        return jnp.broadcast_to(bias.astype(dtype), (*rows, self.features))


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), computed in float32, returned in the dtype of its input.

    With `columns`, mean and variance are those of the columns whose multiplier is not 0, and the others become 0, as if
    the input had only the former.
    """

    epsilon: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch d"], columns: Float[Array, " d"] | None = None
    ) -> Float[Array, "*batch d"]:
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],))
        bias = parameter(self, "bias", nn.initializers.zeros, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        kept = None if columns is None else as_row(columns, x.ndim) != 0
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True, where=kept)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True, where=kept)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        normed = centred * inverse * as_row(scale, x.ndim) + as_row(bias, x.ndim)
        return (normed if kept is None else jnp.where(kept, normed, 0.0)).astype(x.dtype)


class NoNorm(nn.Module):
    """A scale and an offset per column, LayerNorm without statistics (Sun et al. 2020, section 3.3). Computed in
    float32, returned in the dtype of its input. Only a MobileBERT has it, which supports no `columns`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch d"], columns: Float[Array, " d"] | None = None
    ) -> Float[Array, "*batch d"]:
        del columns
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],))
        bias = parameter(self, "bias", nn.initializers.zeros, (x.shape[-1],))
        return (x.astype(jnp.float32) * as_row(scale, x.ndim) + as_row(bias, x.ndim)).astype(x.dtype)


def norm_of(config: BertConfig, epsilon: float = 0.0) -> LayerNorm | NoNorm:
    """The norm module of embeddings and layers; `epsilon` 0 means that of the config."""
    return NoNorm() if config.normalization_type == "no_norm" else LayerNorm(epsilon or config.layer_norm_eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection, and the norm that belongs to it."""

    config: BertConfig
    heads: int
    product: Product = plain_product

    def setup(self):
        config = self.config
        width = self.heads * config.head_size
        self.layer_norm = norm_of(config)
        if not self.heads:
            self.output: Any = ConstantUpdate(config.inner_size)
            return
        self.query = Dense(width, config.initializer_range, self.product)
        self.key = Dense(width, config.initializer_range, self.product)
        self.value = Dense(width, config.initializer_range, self.product)
        self.output = Dense(config.inner_size, config.initializer_range, self.product)

    def queries(self, rows: Float[Array, "b r d"], site: str) -> Float[Array, "b r h k"]:
        return self.heads_of(self.query(rows, f"{site}/query")) if self.heads else self.no_heads(rows)

    def keys_and_values(
        self, hidden: Float[Array, "b l d"], site: str
    ) -> tuple[Float[Array, "b l h k"], Float[Array, "b l h k"]]:
        if not self.heads:
            return self.no_heads(hidden), self.no_heads(hidden)
        return self.heads_of(self.key(hidden, f"{site}/key")), self.heads_of(self.value(hidden, f"{site}/value"))

    def no_heads(self, rows: Float[Array, "b r d"]) -> Float[Array, "b r 0 k"]:
        return jnp.zeros((*rows.shape[:2], 0, self.config.head_size), rows.dtype)

    def heads_of(self, x: Float[Array, "b r w"]) -> Float[Array, "b r h k"]:
        return x.reshape(*x.shape[:2], self.heads, self.config.head_size)

    def __call__(
        self,
        queries: Float[Array, "b r h k"],
        keys: Float[Array, "b l h k"],
        values: Float[Array, "b l h k"],
        mask: Mask,
        gates: LayerGates,
        site: str,
        rank: Callable[..., Array] | None = None,
    ) -> tuple[Float[Array, "b r d"], Float[Array, "b l"] | None]:
        """Attention output of the queries' rows, after the output projection and dropout; with `rank`, also the
        significance of every key. `rank` gets the gates of heads as `heads`."""
        if not self.heads:
            return self.gated(self.output(queries.shape[:2], queries.dtype), gates), None
        heads = gates.heads
        if heads is not None:
            heads = jnp.reshape(heads, (-1, heads.shape[1] if heads.ndim == 3 else 1, self.heads, 1))
        context, ranked = attention(
            self.config.attention,
            queries,
            keys,
            values,
            mask,
            site=site,
            product=self.product,
            rate=self.config.attention_probs_dropout_prob,
            key=partial(dropout_key, self),
            rank=rank and partial(rank, heads=heads),
        )
        if heads is not None:
            context = context * heads.astype(context.dtype)
        width = self.heads * self.config.head_size
        return self.gated(self.output(context.reshape(*queries.shape[:2], width), f"{site}/output"), gates), ranked

    def gated(self, update: Float[Array, "b r d"], gates: LayerGates) -> Float[Array, "b r d"]:
        update = gated_update(update, gates.attention, gates.columns)
        return dropout(update, self.config.inner_dropout, dropout_key(self))


class FeedForward(nn.Module):
    """Two dense layers around an activation, and the norm that belongs to them."""

    config: BertConfig
    neurons: int
    product: Product = plain_product
    epsilon: float = 0.0
    """The epsilon of the norm; 0 means that of the config."""

    def setup(self):
        config = self.config
        self.layer_norm = norm_of(config, self.epsilon)
        if not self.neurons:
            self.output: Any = ConstantUpdate(config.inner_size)
            return
        self.intermediate = Dense(self.neurons, config.initializer_range, self.product)
        self.output = Dense(config.inner_size, config.initializer_range, self.product)

    def __call__(self, hidden: Float[Array, "b l d"], gates: LayerGates, site: str) -> Float[Array, "b l d"]:
        if self.neurons:
            activated = ACTIVATIONS[self.config.hidden_act](self.intermediate(hidden, f"{site}/intermediate"))
            if gates.neurons is not None:
                activated = activated * jnp.reshape(gates.neurons, (-1, 1, self.neurons)).astype(activated.dtype)
            update = self.output(activated, f"{site}/output")
        else:
            update = self.output(hidden.shape[:-1], hidden.dtype)
        update = gated_update(update, gates.ffn, gates.columns)
        return dropout(update, self.config.inner_dropout, dropout_key(self))


def gated_update(update: Float[Array, "b r d"], whole: Array | None, columns: Array | None) -> Float[Array, "b r d"]:
    """The update of a sublayer times the gate of the sublayer and those of the hidden columns."""
    if whole is not None:
        update = update * jnp.reshape(whole, (-1, 1, 1)).astype(update.dtype)
    return gated_columns(update, columns)


def gated_columns(x: Float[Array, "*batch d"], columns: Float[Array, " d"] | None) -> Float[Array, "*batch d"]:
    """Each column times its gate."""
    return x if columns is None else x * as_row(columns, x.ndim).astype(x.dtype)


class Group(nn.Module):
    """A parameter group, `layer_g`. Only the parameters that some depth step uses are created."""

    config: BertConfig
    heads: int
    neurons: int
    product: Product = plain_product

    def setup(self):
        self.attention = SelfAttention(self.config, self.heads, self.product)
        epsilon = self.config.bottleneck.main_norm_eps if self.config.bottleneck else 0.0
        self.ffn = FeedForward(self.config, self.neurons, self.product, epsilon)


@dataclass(frozen=True)
class Layer:
    """One depth step: attention, then feed-forward, each with residual and LayerNorm. Not a Flax module, because it
    owns no parameters: other steps may use the same groups."""

    step: int
    attention: SelfAttention
    ffn: FeedForward
    attention_norm: LayerNorm | NoNorm
    ffn_norm: LayerNorm | NoNorm
    split_cls_row: bool = False
    """Compute the [CLS] row separately, so that XLA can drop the other rows when only the classifier reads the output:
    a classifier's last layer then computes two products out of twelve. Observers of products need all rows in one call,
    so it is off for them."""
    norm_first: bool = False
    """Pre-LayerNorm: before attention and feed-forward, and not after the residual sums."""

    def __call__(
        self,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: LayerGates,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        drop: Drop | None = None,
    ) -> LayerOutput:
        site, parts = f"step_{self.step}/attention", [(hidden, mask)]
        if self.split_cls_row and cls_positions is not None:
            seen = mask if mask.shape[2] == 1 else rows_at(mask[:, 0], cls_positions)[:, None]
            # If both outputs are used, these rows are computed twice, with different dropout masks.
            parts = [(hidden, mask), (rows_at(hidden, cls_positions), seen)]
        elif self.split_cls_row and hidden.shape[1] != 1 and mask.shape[2] == 1:
            parts = [(rows, mask) for rows in jnp.split(hidden, [1], axis=1)]
        queries = [self.attention.queries(self.attention_input(rows, gates), site) for rows, _ in parts]
        keys, values = self.attention.keys_and_values(self.attention_input(hidden, gates), site)
        if drop is not None:
            after, tokens = self.after(hidden, queries[0], keys, values, mask, gates, drop)
            return LayerOutput(after, after[:, 0], queries[0], keys, values, tokens)
        after = [
            self.after(rows, q, keys, values, seen, gates)[0] for (rows, seen), q in zip(parts, queries, strict=True)
        ]
        if self.split_cls_row and cls_positions is not None:
            return LayerOutput(after[0], after[1], queries[0], keys, values)
        return LayerOutput(concat_rows(after), after[0][:, 0], concat_rows(queries), keys, values)

    def attention_input(self, rows: Float[Array, "b r d"], gates: LayerGates) -> Float[Array, "b r d"]:
        return self.attention_norm(rows, gates.columns) if self.norm_first else rows

    def after(
        self,
        rows: Float[Array, "b r d"],
        queries: Float[Array, "b r h k"],
        keys: Float[Array, "b l h k"],
        values: Float[Array, "b l h k"],
        mask: Mask,
        gates: LayerGates,
        drop: Drop | None = None,
    ) -> tuple[Float[Array, "b s d"], Tokens | None]:
        """The outputs of this layer for some rows; with `drop`, for the tokens that go on."""
        site, tokens, rank = f"step_{self.step}", None, drop and drop.significance
        update, ranked = self.attention(queries, keys, values, mask, gates, f"{site}/attention", rank)
        attended = rows + update
        if not self.norm_first:
            attended = self.attention_norm(attended, gates.columns)
        if drop and drop.rule.after == "attention":
            assert ranked is not None
            tokens, (rows, attended) = drop(ranked, rows, attended)
        if self.norm_first:
            after = attended + self.ffn(self.ffn_norm(attended, gates.columns), gates, f"{site}/ffn")
        else:
            after = self.ffn_norm(attended + self.ffn(attended, gates, f"{site}/ffn"), gates.columns)
        if gates.layer is not None:
            after = rows + jnp.reshape(gates.layer, (-1, 1, 1)).astype(rows.dtype) * (after - rows)
        if drop and drop.rule.after == "layer":
            assert ranked is not None
            tokens, (after,) = drop(ranked, after)
        return after, tokens


def rows_at(array: Shaped[Array, "b l d"], positions: Int[ArrayLike, "b s"]) -> Shaped[Array, "b s d"]:
    """The rows at `positions` of each example."""
    return jnp.take_along_axis(array, jnp.asarray(positions)[..., None], axis=1)


def concat_rows(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
