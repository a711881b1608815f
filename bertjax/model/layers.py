"""One encoder layer: self-attention and feed-forward, each with its residual and post-LayerNorm (Devlin et al. 2018).

Three optional arguments run through everything and cost nothing when left out. `gates` scale heads, neurons and whole
layers (1 keeps, 0 removes); they are arguments and not parameters, so that `vmap(grad)` over examples sees them.
`product` replaces how products are computed (see products.py). Dropout is on if and only if the caller passed a
"dropout" key to `apply`: a model without randomness cannot be asked for any by mistake.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bertjax.model.config import BertConfig, LayerConfig
from bertjax.model.products import Product, as_row, dense, dropout, plain_product


@jax.checkpoint
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x times the normal distribution function at x (Hendrycks & Gimpel 2016), exact, computed in float32.

    By erf, as the published models were trained, because erfc costs XLA's CPU backend three times as much and gains
    digits only far in the tail. The gradient computes it again from x: the erf and the density would otherwise be
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
    """Factors for one depth step, per model or per example (a leading batch axis). None means 1."""

    heads: Float[Array, "*batch heads"] | None = None
    neurons: Float[Array, "*batch neurons"] | None = None
    layer: Float[Array, "*batch"] | None = None


class LayerOutput(NamedTuple):
    hidden: Float[Array, "b l d"]
    first: Float[Array, "b d"]
    """`hidden[:, 0]`. Whoever needs no other row reads this one: see `Layer.first_apart`."""
    queries: Float[Array, "b l h k"]
    keys: Float[Array, "b l h k"]
    values: Float[Array, "b l h k"]


def parameter(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """A float32 parameter. The tree may hold NumPy arrays, as a bundle's does; products see arrays of jax."""
    return jnp.asarray(module.param(name, init, shape, jnp.float32))


def dropout_key(module: nn.Module) -> Array | None:
    return module.make_rng("dropout") if module.has_rng("dropout") else None


class Dense(nn.Module):
    """`x @ kernel + bias`, kernels stored 2-D (in, out)."""

    features: int
    site: str
    initializer_range: float
    product: Product = plain_product

    @nn.compact
    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        kernel_init = nn.initializers.normal(self.initializer_range)
        kernel = parameter(self, "kernel", kernel_init, (x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
        return dense(x, kernel, bias, site=self.site, product=self.product)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) in float32, returned in the dtype of its input."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        scale = parameter(self, "scale", nn.initializers.ones, (x.shape[-1],))
        bias = parameter(self, "bias", nn.initializers.zeros, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        return (centred * inverse * as_row(scale, x.ndim) + as_row(bias, x.ndim)).astype(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection, residual and LayerNorm."""

    config: BertConfig
    step: int
    heads: int
    product: Product = plain_product

    def setup(self):
        config, site = self.config, f"step_{self.step}/attention"
        width = self.heads * config.head_size
        self.query = Dense(width, f"{site}/query", config.initializer_range, self.product)
        self.key = Dense(width, f"{site}/key", config.initializer_range, self.product)
        self.value = Dense(width, f"{site}/value", config.initializer_range, self.product)
        self.output = Dense(config.hidden_size, f"{site}/output", config.initializer_range, self.product)
        self.layer_norm = LayerNorm(config.layer_norm_eps)

    def queries(self, rows: Float[Array, "b r d"]) -> Float[Array, "b r h k"]:
        return self.heads_of(self.query(rows))

    def keys_and_values(self, hidden: Float[Array, "b l d"]) -> tuple[Float[Array, "b l h k"], Float[Array, "b l h k"]]:
        return self.heads_of(self.key(hidden)), self.heads_of(self.value(hidden))

    def heads_of(self, x: Float[Array, "b r w"]) -> Float[Array, "b r h k"]:
        return x.reshape(*x.shape[:2], self.heads, self.config.head_size)

    def __call__(
        self,
        rows: Float[Array, "b r d"],
        queries: Float[Array, "b r h k"],
        keys: Float[Array, "b l h k"],
        values: Float[Array, "b l h k"],
        mask: Bool[Array, "b 1 #r l"],
        gates: LayerGates,
    ) -> Float[Array, "b r d"]:
        """Some rows, after they have looked at every key."""
        if self.config.attention == "cudnn":
            context = jax.nn.dot_product_attention(queries, keys, values, mask=mask, implementation="cudnn")
        else:
            context = self.attend(queries, keys, values, mask)
        if gates.heads is not None:
            context = context * jnp.reshape(gates.heads, (-1, 1, self.heads, 1)).astype(context.dtype)
        update = self.output(context.reshape(*rows.shape[:2], self.heads * self.config.head_size))
        update = dropout(update, self.config.hidden_dropout_prob, dropout_key(self))
        return self.layer_norm(rows + update)

    def attend(
        self,
        queries: Float[Array, "b r h k"],
        keys: Float[Array, "b l h k"],
        values: Float[Array, "b l h k"],
        mask: Bool[Array, "b 1 #r l"],
    ) -> Float[Array, "b r h k"]:
        site = f"step_{self.step}/attention"
        scaled = queries * (self.config.head_size**-0.5)
        scores = self.product(f"{site}/scores", "bqhk,bmhk->bhqm", scaled, keys).astype(jnp.float32)
        # The lowest finite number and not -inf: a row without any key to look at (filler) must not become NaN.
        probabilities = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
        probabilities = dropout(probabilities, self.config.attention_probs_dropout_prob, dropout_key(self))
        return self.product(f"{site}/context", "bhqm,bmhk->bqhk", probabilities.astype(values.dtype), values)


class FeedForward(nn.Module):
    """Two dense layers around an activation, with residual and LayerNorm."""

    config: BertConfig
    step: int
    neurons: int
    product: Product = plain_product

    def setup(self):
        config, site = self.config, f"step_{self.step}/ffn"
        self.intermediate = Dense(self.neurons, f"{site}/intermediate", config.initializer_range, self.product)
        self.output = Dense(config.hidden_size, f"{site}/output", config.initializer_range, self.product)
        self.layer_norm = LayerNorm(config.layer_norm_eps)

    def __call__(self, hidden: Float[Array, "b l d"], gates: LayerGates) -> Float[Array, "b l d"]:
        activated = ACTIVATIONS[self.config.hidden_act](self.intermediate(hidden))
        if gates.neurons is not None:
            activated = activated * jnp.reshape(gates.neurons, (-1, 1, self.neurons)).astype(activated.dtype)
        update = dropout(self.output(activated), self.config.hidden_dropout_prob, dropout_key(self))
        return self.layer_norm(hidden + update)


class Layer(nn.Module):
    """Attention, then feed-forward: one depth step."""

    config: BertConfig
    step: int
    shape: LayerConfig
    product: Product = plain_product
    first_apart: bool = False
    """Compute the first row apart from the others, so that XLA drops the others where a head reads none of them: of the
    last layer, a classifier then costs two products in twelve. Only where nobody watches the products."""

    def setup(self):
        self.attention = SelfAttention(self.config, self.step, self.shape.num_attention_heads, self.product)
        self.ffn = FeedForward(self.config, self.step, self.shape.intermediate_size, self.product)

    def __call__(self, hidden: Float[Array, "b l d"], mask: Bool[Array, "b 1 #l l"], gates: LayerGates) -> LayerOutput:
        apart = self.first_apart and hidden.shape[1] > 1 and mask.shape[2] == 1
        parts = jnp.split(hidden, [1], axis=1) if apart else [hidden]
        queries = [self.attention.queries(part) for part in parts]
        keys, values = self.attention.keys_and_values(hidden)
        after = [self.after(part, q, keys, values, mask, gates) for part, q in zip(parts, queries, strict=True)]
        return LayerOutput(joined(after), after[0][:, 0], joined(queries), keys, values)

    def after(
        self,
        rows: Float[Array, "b r d"],
        queries: Float[Array, "b r h k"],
        keys: Float[Array, "b l h k"],
        values: Float[Array, "b l h k"],
        mask: Bool[Array, "b 1 #r l"],
        gates: LayerGates,
    ) -> Float[Array, "b r d"]:
        """Some rows, after this layer."""
        after = self.ffn(self.attention(rows, queries, keys, values, mask, gates), gates)
        if gates.layer is not None:
            after = rows + jnp.reshape(gates.layer, (-1, 1, 1)).astype(rows.dtype) * (after - rows)
        return after


def joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
