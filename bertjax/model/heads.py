"""Task heads: the encoder plus a few parameters, one class per task. A family has classes of its own where its heads
differ from BERT's.

A head is a subclass, not a wrapper, so that `encoder/layer_0/attention/query/kernel` names the same array in every
model. The class names are those of Hugging Face; `architecture` in a folder's config names the class.
"""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bertjax.errors import UserError
from bertjax.model.bert import BertModel, mean_rows
from bertjax.model.config import PREFIXES, ROBERTAS, Activation, BertConfig
from bertjax.model.layers import ACTIVATIONS, LayerNorm, dropout_key, parameter
from bertjax.model.products import Product, as_row, dropout, plain_product
from bertjax.model.sentence import SentenceEmbedding
from bertjax.params import Tree, flatten, unflatten


class BertForSequenceClassification(BertModel):
    """Logits [b, labels] from the pooled vector; with one label, regression."""

    reads_first = True

    def setup_head(self) -> None:
        self.classifier = self.dense(len(self.config.labels))

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows c"]:
        del hidden
        if self.config.classifier_activation is not None:
            pooled = ACTIVATIONS[self.config.classifier_activation](pooled)
        return self.classifier(dropout(pooled, self.config.head_dropout, dropout_key(self)), "classifier")


class BertForTokenClassification(BertModel):
    """Logits [b, l, labels] for every token."""

    has_pooler = False

    def setup_head(self) -> None:
        self.classifier = self.dense(len(self.config.labels))

    def head(self, hidden: Float[Array, "b l d"], pooled: None) -> Float[Array, "b l c"]:
        del pooled
        return self.classifier(dropout(hidden, self.config.head_dropout, dropout_key(self)), "classifier")


class BertForQuestionAnswering(BertModel):
    """Logits [b, l, 2]: start and end of the answer."""

    has_pooler = False

    def setup_head(self) -> None:
        self.qa_outputs = self.dense(2)

    def head(self, hidden: Float[Array, "b l d"], pooled: None) -> Float[Array, "b l 2"]:
        del pooled
        return self.qa_outputs(hidden, "qa_outputs")


class BertForNextSentencePrediction(BertModel):
    """Logits [b, 2]: 0 if the second text follows the first, 1 if it is random."""

    reads_first = True

    def setup_head(self) -> None:
        self.seq_relationship = self.dense(2)

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows 2"]:
        del hidden
        return self.seq_relationship(pooled, "seq_relationship")


class BertForSentenceEmbedding(BertModel):
    """One vector [b, e] per text, as its `logits`: pooled over the real tokens, perhaps mapped by a dense layer, and
    scaled to length 1 (Reimers and Gurevych 2019). `pooled` is the vector before that."""

    has_pooler = False

    @property
    def embedding(self) -> SentenceEmbedding:
        assert self.config.embedding is not None
        return self.config.embedding

    def setup_head(self) -> None:
        if self.embedding.dense_size:
            self.projection = self.dense(self.embedding.dense_size)

    def summary(self, hidden: Any, real: Any, first: Any) -> Float[Array, "b d"]:
        if self.embedding.pooling == "cls":
            return first
        tokens = jnp.asarray(real) > 0
        if self.embedding.pooling == "mean":
            return mean_rows(hidden, tokens)
        lowest = jnp.finfo(hidden.dtype).min
        return jnp.where(tokens[..., None], hidden, lowest).max(axis=1)

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "b d"]) -> Float[Array, "b e"]:
        del hidden
        if self.embedding.dense_size:
            activation = {"tanh": jnp.tanh, "relu": jax.nn.relu, "identity": lambda x: x}
            pooled = activation[self.embedding.dense_activation](self.projection(pooled, "projection"))
        return unit(pooled) if self.embedding.normalise else pooled


def unit(vectors: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Vectors of length 1, computed in float32; a zero vector stays zero and has a finite gradient."""
    wide = vectors.astype(jnp.float32)
    square = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(vectors.dtype)


class BertForMaskedLM(BertModel):
    """Logits [b, l, vocabulary]; the output matrix is the word embedding table (tied), with a bias of its own."""

    has_pooler = False

    @property
    def activation(self) -> Activation:
        """That of the head's hidden layer."""
        return self.config.hidden_act

    def setup_head(self) -> None:
        config = self.config
        mobile = config.model_type == "mobilebert"
        wide = mobile or config.factorised == "words"
        self.transform = self.dense(config.hidden_size if wide else config.embedding_size)
        self.transform_norm = LayerNorm(self.config.layer_norm_eps)
        self.decoder_bias = parameter(self, "decoder_bias", nn.initializers.zeros, (self.config.vocab_size,))
        if mobile:
            rest = config.hidden_size - config.embedding_size, config.vocab_size
            self.decoder_rest = parameter(self, "decoder_rest", nn.initializers.normal(config.initializer_range), rest)

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"] | None) -> Float[Array, "b l v"]:
        del pooled
        transformed = self.transform_norm(ACTIVATIONS[self.activation](self.transform(hidden, "transform")))
        logits = self.embeddings.words_from(transformed)
        if self.config.model_type == "mobilebert":
            beyond = transformed[..., self.config.embedding_size :]
            logits = logits + self.product("decoder_rest", "bld,dv->blv", beyond, self.decoder_rest)
        return (logits.astype(jnp.float32) + as_row(self.decoder_bias, logits.ndim)).astype(logits.dtype)


class BertForPreTraining(BertForMaskedLM):
    """Both heads of pre-training: masked-language-model `logits`, and next-sentence `sentence_logits` [b, 2]."""

    has_pooler = True

    def setup_head(self) -> None:
        super().setup_head()
        self.seq_relationship = self.dense(2)

    def sentence_head(self, pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows 2"]:
        return self.seq_relationship(pooled, "seq_relationship")


class DistilBertModel(BertModel):
    """DistilBERT (Sanh et al. 2019): no token types, no pooler."""

    has_pooler = False


class DistilBertForSequenceClassification(DistilBertModel):
    """Logits [b, labels] from the first row of the last layer, through a hidden ReLU layer."""

    reads_first = True

    def setup_head(self) -> None:
        self.pre_classifier = self.dense(self.config.hidden_size)
        self.classifier = self.dense(len(self.config.labels))

    def pool(self, first: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        return jax.nn.relu(self.pre_classifier(first, "pre_classifier"))

    def head(self, hidden: Float[Array, "b l d"], pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows c"]:
        del hidden
        return self.classifier(dropout(pooled, self.config.head_dropout, dropout_key(self)), "classifier")


class DistilBertForQuestionAnswering(BertForQuestionAnswering):
    """Logits [b, l, 2]: start and end of the answer."""

    def head(self, hidden: Float[Array, "b l d"], pooled: None) -> Float[Array, "b l 2"]:
        return super().head(dropout(hidden, self.config.head_dropout, dropout_key(self)), pooled)


class AlbertForPreTraining(BertForPreTraining):
    """Both heads of pre-training: masked language model, and sentence order (0 original, 1 swapped)."""

    def sentence_head(self, pooled: Float[Array, "*rows d"]) -> Float[Array, "*rows 2"]:
        return super().sentence_head(dropout(pooled, self.config.head_dropout, dropout_key(self)))


class RobertaForSequenceClassification(BertForSequenceClassification):
    """Logits [b, labels] from the first row through a hidden tanh layer, with dropout before it as well. That layer is
    part of the head, but has the path of BERT's pooler, because it computes the same."""

    def pool(self, first: Float[Array, "*rows d"]) -> Float[Array, "*rows d"] | None:
        return super().pool(dropout(first, self.config.head_dropout, dropout_key(self)))


class RobertaForMaskedLM(BertForMaskedLM):
    """Logits [b, l, vocabulary], with GELU in the head whatever the activation of the layers."""

    @property
    def activation(self) -> Activation:
        return "gelu"


# Where heads are the same, families differ in the config. ALBERT (Lan et al. 2020) factorises its embeddings and shares
# parameters. MobileBERT and its teacher IB-BERT (Sun et al. 2020) have bottlenecks, and a word table that is narrower
# than the encoder. The other columns of the output matrix are an array of their own; without it the logits would have
# only the rank of the table.
DistilBertForTokenClassification = BertForTokenClassification
DistilBertForSentenceEmbedding = BertForSentenceEmbedding
DistilBertForMaskedLM = BertForMaskedLM
AlbertModel = BertModel
AlbertForSequenceClassification = BertForSequenceClassification
AlbertForTokenClassification = BertForTokenClassification
AlbertForQuestionAnswering = BertForQuestionAnswering
AlbertForMaskedLM = BertForMaskedLM
AlbertForSentenceEmbedding = BertForSentenceEmbedding
MobileBertModel = BertModel
MobileBertForSequenceClassification = BertForSequenceClassification
MobileBertForTokenClassification = BertForTokenClassification
MobileBertForQuestionAnswering = BertForQuestionAnswering
MobileBertForNextSentencePrediction = BertForNextSentencePrediction
MobileBertForMaskedLM = BertForMaskedLM
MobileBertForSentenceEmbedding = BertForSentenceEmbedding
MobileBertForPreTraining = BertForPreTraining
RobertaModel = BertModel
RobertaForTokenClassification = BertForTokenClassification
RobertaForSentenceEmbedding = BertForSentenceEmbedding
RobertaForQuestionAnswering = BertForQuestionAnswering

ARCHITECTURES: dict[str, type[BertModel]] = {
    name: module
    for name, module in list(globals().items())
    if isinstance(module, type) and issubclass(module, BertModel)
}
ARCHITECTURES |= {
    name.replace(PREFIXES["roberta"], prefix): module
    for name, module in list(ARCHITECTURES.items())
    for prefix in ROBERTAS.values()
    if name.startswith(PREFIXES["roberta"])
}
"""Every module class above, by its names in `architectures` of a `config.json`."""


class UniversalTransformer(BertModel):
    """A Universal Transformer encoder (Dehghani et al. 2018): the layers of the config, applied repeatedly.

    Any other class also becomes one with a `recurrence` in its config; this one requires it.
    """

    def setup(self):
        if self.config.recurrence is None:
            raise UserError("a UniversalTransformer needs a recurrence in its config: see universal_config.")
        super().setup()


class EarlyExitBert(BertForSequenceClassification):
    """A classifier with exits after inner layers (DeeBERT, PABEE). Any other classifier also gets them with `exits` in
    its config; this one requires it."""

    def setup(self):
        if self.config.exits is None:
            raise UserError("an EarlyExitBert needs exits in its config: exits=Exits(after=(0, 1, ...)).")
        super().setup()


def build(config: BertConfig) -> BertModel:
    """The module that a config describes."""
    if config.architecture not in ARCHITECTURES:
        raise UserError(f"architecture {config.architecture!r} is not one of: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[config.architecture](config, product_of(config))


def product_of(config: BertConfig) -> Product:
    """The `Product` of a model: with quantised inputs if its config has activation formats."""
    if config.quantization is None or not config.quantization.activations:
        return plain_product
    from bertjax.model.quantized import QuantizedProduct

    return QuantizedProduct(config.quantization.activations, config.arithmetic == "integer")


def abstract_params(config: BertConfig) -> Tree:
    """Shape and dtype of every parameter, without allocating any."""
    params = jax.eval_shape(lambda: initial(config, jax.random.key(0)))
    if config.quantization is None:
        return params
    from bertjax.model.quantized import abstract_weights

    return abstract_weights(config, params)


def init_params(config: BertConfig, seed: int, only: Collection[str] = ()) -> Tree:
    """Random parameters, as NumPy arrays: normal with standard deviation `initializer_range`, biases 0, LayerNorm the
    identity.

    With `only`, just the parameters at these paths, with the same values as in the whole tree.
    """

    @jax.jit
    def drawn(key: Array) -> dict[str, Array]:  # XLA computes only what is returned.
        return {path: leaf for path, leaf in flatten(initial(config, key)).items() if not only or path in only}

    return unflatten(jax.tree.map(np.asarray, drawn(jax.random.key(seed))))


def initial(config: BertConfig, key: Array) -> Tree:
    """The random parameter tree. Compute settings do not affect it, and are reset because tracing cuDNN needs a GPU."""
    model = build(config.replace(dtype="float32", attention="xla", quantization=None))
    variables: Any = model.init(key, jnp.zeros((1, 1), jnp.int32))
    return variables["params"]
