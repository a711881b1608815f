"""`BertConfig`: the architecture of a model, every size of every depth step, independent of how it was trained.

A config and a parameter tree make a complete model. It can be rebuilt without inferring anything from shapes and
without other code. Layers may differ and may share parameters (`layers`), so a pruned or tied model is described as
fully as a published one. Field names follow the `config.json` of Hugging Face. Settings of the computation (dtype,
attention kernel, rematerialisation) are fields too, but belong to a run and are never stored: the same folder runs in
bfloat16 on a TPU and in float32 on a laptop.
"""

import dataclasses
from collections import Counter
from typing import Annotated, Any, Literal

from bertjax.errors import UserError
from bertjax.model.depth import DEEPEST, Exits, Recurrence
from bertjax.model.retention import Retention
from bertjax.model.sentence import SUFFIX, SentenceEmbedding
from bertjax.quantized.formats import Quantization
from bertjax.storage.typed_json import Count, Rate, Size, Within, check, shown, value

Activation = Literal["gelu", "gelu_new", "relu"]
Family = Literal["bert", "distilbert", "albert", "mobilebert", "roberta", "xlm-roberta", "camembert"]
Norm = Literal["layer_norm", "no_norm"]
AttentionInput = Literal["shared", "input", "block"]
Dtype = Literal["float32", "bfloat16"]
Kernel = Literal["xla", "cudnn", "flash"]
Arithmetic = Literal["integer", "float"]
Depth = Annotated[int, Within(1, DEEPEST)]
Epsilon = Annotated[float, Within(1e-30, under=1)]
ROBERTAS = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
"""RoBERTa, and the families that are a RoBERTa with another vocabulary."""
PREFIXES = {"bert": "Bert", "distilbert": "DistilBert", "albert": "Albert", "mobilebert": "MobileBert", **ROBERTAS}
"""The prefix of each family's class names."""


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """One depth step: its sizes, and the parameter groups that it uses.

    Group g has the parameter path `encoder/layer_g`. A group of None is the step's own, with the number of the step;
    each LayerNorm is by default in the group of the sublayer before it. `BertConfig.depth_steps` resolves every None.
    """

    num_attention_heads: Count
    """Each head has the model's `head_size`. Without heads, attention adds its output bias to every position."""
    intermediate_size: Count
    """Neurons of the feed-forward layer. Without neurons, it adds its output bias to every position."""
    attention: Count | None = None
    ffn: Count | None = None
    attention_norm: Count | None = None
    ffn_norm: Count | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_attention_heads, self.intermediate_size

    @property
    def groups(self) -> set[int]:
        """The groups that are set."""
        named = self.attention, self.ffn, self.attention_norm, self.ffn_norm
        return {group for group in named if group is not None}

    def resolved(self, step: int) -> "LayerConfig":
        """A copy with every group set."""
        attention, ffn = (step if group is None else group for group in (self.attention, self.ffn))
        norms = (self.attention_norm, attention), (self.ffn_norm, ffn)
        attention_norm, ffn_norm = (own if norm is None else norm for norm, own in norms)
        return LayerConfig(*self.shape, attention, ffn, attention_norm, ffn_norm)


@dataclasses.dataclass(frozen=True)
class BottleneckConfig:
    """The options of embeddings and layers that only MobileBERT has (Sun et al. 2020)."""

    intra_bottleneck_size: Count = 0
    """Inner width of a layer, between two dense layers; 0 means no bottleneck, so the layer computes in `hidden_size`.
    It may be larger than `hidden_size`: IB-BERT."""
    attention_input: AttentionInput = "shared"
    """Inputs of attention. shared: queries and keys read a bottleneck of their own, values the layer's input. input:
    all three read the output of the input bottleneck. block: all three read the layer's input."""
    num_feedforward_networks: Depth = 1
    """Consecutive feed-forward layers per layer."""
    normalization_type: Norm = "layer_norm"
    """no_norm: a scale and an offset per column, in embeddings and layers, instead of LayerNorm."""
    main_norm_eps: Rate = 0.0
    """Epsilon of the LayerNorms after the embeddings and after the last feed-forward layer of each layer; 0 means
    `layer_norm_eps`. `transformers` uses 1e-5 there, whatever its config says."""
    trigram_input: bool = False
    """A token's embedding is computed from its own row of the word table and those of its two neighbours."""
    dense_pooler: bool = True
    """True: the pooled vector is tanh of a dense layer on the first row. False: it is the first row."""

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """A BERT (Devlin et al. 2018), DistilBERT (Sanh et al. 2019), ALBERT (Lan et al. 2020), MobileBERT (Sun et al.
    2020) or RoBERTa (Liu et al. 2019) encoder with one head. Defaults: BERT-base.

    DistilBERT has `type_vocab_size=0`, no pooler, and a classifier with a hidden layer. ALBERT has embeddings of
    another width and layers that share parameters; a BERT may have both as well. MobileBERT has its own kinds of layer
    and embedding, described by `bottleneck`; `mobile_config` has the published sizes. RoBERTa, XLM-R (Conneau et al.
    2020) and CamemBERT (Martin et al. 2020) have a `position_offset`, one token type, and a head of two layers;
    `roberta_config` has the published sizes.
    """

    model_type: Family = "bert"
    architecture: str = "BertModel"
    """The class name, which determines the head; see `bertjax.model.ARCHITECTURES`."""
    vocab_size: Size = 30522
    embedding_size: Count = 0
    """Width of the embedding tables; 0 means `hidden_size`. Another width is mapped to `hidden_size` (in ALBERT
    always)."""
    factorised: Literal["sum", "words"] = "sum"
    """What has the width `embedding_size`. sum: all embeddings, mapped after their sum and LayerNorm, as in ALBERT.
    words: the word table alone, mapped before the sum, as a truncated SVD of the table gives."""
    hidden_size: Size = 768
    num_hidden_layers: Annotated[int, Within(0, DEEPEST)] = 12
    """0 only in a segment of a model that ends at an exit on the embeddings."""
    num_hidden_groups: Count = 0
    """Groups of consecutive layers that share all their parameters; 0 means no sharing. Other patterns need
    `layers`."""
    inner_group_num: Depth = 1
    """Layers with separate parameters within each group, applied in turn for each of `num_hidden_layers`."""
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Size = 512
    """Rows of the position table. A row of the input has at most `max_tokens` tokens."""
    position_offset: Count = 0
    """Row of the position table for the first token. In RoBERTa it is `pad_token_id` + 1, and padding has the row
    before it. With an offset, positions count the tokens that are not `pad_token_id`, so padding on the left shifts
    nothing; without one, they count columns."""
    type_vocab_size: Count = 2
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    classifier_dropout: Rate | None = None
    """Dropout before the head; None means `hidden_dropout_prob`."""
    classifier_activation: Literal["relu"] | None = None
    """Activation between pooler and classifier, after the pooler's tanh. The TinyBERT authors' code has a ReLU there,
    so the classifier reads only the positive values of the pooled vector."""
    layer_norm_eps: Epsilon = 1e-12
    initializer_range: Annotated[float, Within(0)] = 0.02
    pad_token_id: Count = 0
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    """Label names in id order (`id2label`). Regression has one. Question answering always has two, start and end."""
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    no_answer_threshold: float | None = None
    """For question answering: a question has no answer where [CLS] scores higher than the best span by more than this.
    None counts as 0. `bertjax calibrate` finds it."""
    head_size: Count = 0
    """Width of one attention head; 0 means `hidden_size / num_attention_heads`. Unchanged when heads are pruned."""
    layers: tuple[LayerConfig, ...] = ()
    """One entry per depth step if layers differ or share parameters; empty if all have the sizes above."""
    recurrence: Recurrence | None = None
    """Applies all layers several times: a Universal Transformer."""
    exits: Exits | None = None
    """Heads after some depth steps, at which an example may exit early."""
    retention: Retention | None = None
    """How many tokens of a text go on after each depth step; None: all."""
    embedding: SentenceEmbedding | None = None
    """How one vector is made of a text, where None means a default `SentenceEmbedding`; None for models with another
    head."""
    norm: Literal["post", "pre"] = "post"
    """post: LayerNorm after each residual sum. pre: before attention and feed-forward layer, with one more at the
    end."""
    bottleneck: BottleneckConfig | None = None
    """The bottlenecks of a MobileBERT, where None means a default `BottleneckConfig`; None for other models."""
    quantization: Quantization | None = None
    """Which parameters are integers, and which inputs of products are quantised."""

    dtype: Dtype = "float32"
    """Compute dtype of the products. Parameters, LayerNorm, softmax and losses stay in float32."""
    attention: Kernel = "xla"
    """Attention kernel. `cudnn` needs an NVIDIA GPU and bfloat16, `flash` a TPU. Both train only with
    `attention_probs_dropout_prob=0`. See bertjax.model.attention."""
    remat: bool = False
    """Recompute each layer in the backward pass instead of storing its activations."""
    arithmetic: Arithmetic = "integer"
    """For products with both operands quantised: integer arithmetic, or the same values in floating point."""

    def __post_init__(self):
        check(self)
        if self.model_type == "mobilebert" and self.bottleneck is None:
            object.__setattr__(self, "bottleneck", BottleneckConfig())
        if self.architecture.endswith(SUFFIX) and self.embedding is None:
            object.__setattr__(self, "embedding", SentenceEmbedding())
        begins, prefix = self.architecture.startswith(PREFIXES[self.model_type]), PREFIXES[self.model_type]
        advice = f"expected a class name that begins with {prefix}, because model_type is {self.model_type}"
        self._require("architecture", begins, advice)
        distilled = self.model_type == "distilbert"
        advice = "DistilBERT has no token types: use 0"
        self._require("type_vocab_size", not (distilled and self.type_vocab_size), advice)
        advice = f"expected an id below {self.vocab_size}, the vocab_size"
        self._require("pad_token_id", self.pad_token_id < self.vocab_size, advice)
        advice = f"expected less than the {self.max_position_embeddings} rows of the position table"
        self._require("position_offset", self.position_offset < self.max_position_embeddings, advice)
        self._check_head()
        if not self.head_size:
            name = "hidden_size" if self.bottleneck_size == 0 else "intra_bottleneck_size"
            divisible = self.inner_size % self.num_attention_heads == 0
            advice = f"{name} {self.inner_size} is not divisible by it; choose a divisor, or set head_size"
            self._require("num_attention_heads", divisible, advice)
            object.__setattr__(self, "head_size", self.inner_size // self.num_attention_heads)
        if not self.embedding_size:
            object.__setattr__(self, "embedding_size", self.hidden_size)
        most = f"expected 0 to {self.num_hidden_layers}, the number of layers"
        self._require("num_hidden_groups", 0 <= self.num_hidden_groups <= self.num_hidden_layers, most)
        depth = self.num_hidden_layers * self.inner_group_num
        advice = f"num_hidden_layers x inner_group_num makes {depth} layers; expected at most {DEEPEST}"
        self._require("inner_group_num", depth <= DEEPEST, advice)
        empty = any(0 in layer.shape for layer in self.layers)
        advice = "layers without heads or without neurons exist only without bottlenecks and without recurrence"
        self._require("layers", not (empty and (self.recurrence or self.model_type == "mobilebert")), advice)
        advice = f"`layers` has {len(self.layers)} entries; expected none, or one for each of {depth} layers"
        self._require("num_hidden_layers", len(self.layers) in (0, depth), advice)
        self._check_groups()
        self._check_exits()
        self._check_retention()
        self._check_bottlenecks()
        quantised = self.quantization is not None and self.quantization.activations
        advice = "a fused attention kernel does not support quantised activations: use 'xla'"
        self._require("attention", self.attention == "xla" or not quantised, advice)
        supported = self.attention != "cudnn" or self.dtype == "bfloat16"
        self._require("dtype", supported, "attention='cudnn' supports only bfloat16: use that, or attention='xla'")

    def _check_head(self) -> None:
        """Checks the fields that depend on the kind of head."""
        classifies = self.architecture.endswith("ForSequenceClassification")
        pools = classifies and self.model_type != "distilbert"
        embeds = self.architecture.endswith(SUFFIX) or self.embedding is None
        self._require("embedding", embeds, f"a {self.architecture} does not embed texts: leave it out")
        advice = f"a {self.architecture} has no classifier on a pooled vector: leave it out"
        self._require("classifier_activation", pools or self.classifier_activation is None, advice)
        question_answering = self.architecture.endswith("QuestionAnswering")
        two = not question_answering or len(self.labels) == 2
        self._require("labels", two, "question answering has exactly two, start and end")
        unique = len(set(self.labels)) == len(self.labels) > 0
        self._require("labels", unique, "expected at least one name, and no name twice")
        one = self.problem_type != "regression" or len(self.labels) == 1 or not classifies
        self._require("problem_type", one, f"regression has one output, and the model has {len(self.labels)} labels")

    def _check_groups(self) -> None:
        """Checks that all steps that use a group give it the same size."""
        shapes: dict[tuple[str, int | None], int] = {}
        for number, step in enumerate(self.depth_steps()):
            for name, size in (("attention", step.num_attention_heads), ("ffn", step.intermediate_size)):
                known = shapes.setdefault((name, getattr(step, name)), size)
                if known != size:
                    raise UserError(
                        f"layers: step {number} uses {name} group {getattr(step, name)} with a size of {size}, an "
                        f"earlier step with {known}; steps that share a group need the same size. Use different groups."
                    )

    def _check_exits(self) -> None:
        """Checks that the model can have exits: a classifier with post-LayerNorm and no recurrence."""
        if self.exits is None:
            return
        last = self.depth - 1
        self._require("exits", max(self.exits.after) <= last, f"the last depth step is {last}")
        advice = "a recurrent model has no exits: use `halting` in its recurrence instead"
        self._require("exits", not self.recurrence, advice)
        self._require("exits", self.norm == "post", "exits need norm='post'")
        classifies = self.architecture.endswith("ForSequenceClassification")
        advice = f"exits need a model for sequence classification, and this one is a {self.architecture}"
        self._require("exits", classifies, advice)

    def _check_retention(self) -> None:
        """Checks that tokens can be ranked wherever some are dropped."""
        if self.retention is None:
            return
        if reason := self.keeps_tokens:
            raise UserError(f"retention: {reason}; leave it out.")
        shares = self.retention.shares
        advice = f"expected one share for each of {self.depth} depth steps, and there are {len(shares)}"
        self._require("retention", len(shares) == self.depth, advice)
        for number in self.retention.steps:
            if not self.depth_steps()[number].num_attention_heads:
                raise UserError(
                    f"retention: step {number} drops tokens and has no attention heads, which rank them; keep the "
                    "share of the step before it there, with a threshold of 0."
                )

    def _check_bottlenecks(self) -> None:
        """Checks the fields that only a MobileBERT has, and those that it cannot have."""
        if self.model_type != "mobilebert":
            self._require("bottleneck", self.bottleneck is None, "only a MobileBERT has one: leave it out")
            return
        self._require("factorised", self.factorised == "sum", "a MobileBERT supports only 'sum'")
        self._require("norm", self.norm == "post", "a MobileBERT has norm='post'")
        most = f"a MobileBERT has at most its hidden_size, {self.hidden_size}"
        self._require("embedding_size", self.embedding_size <= self.hidden_size, most)
        self._require("recurrence", not self.recurrence, "a MobileBERT cannot be recurrent: leave it out")
        steps = self.depth_steps()
        owned = {step.attention for step in steps if len(step.groups) == 1}
        if len(owned) != len(steps):
            raise UserError("layers of a MobileBERT cannot share parameters: give each depth step a group of its own.")

    def _require(self, name: str, holds: Any, advice: str) -> None:
        if not holds:
            raise UserError(f"{name} is {getattr(self, name)!r}; {advice}.")

    def depth_steps(self) -> tuple[LayerConfig, ...]:
        """Every depth step in order, with every group resolved."""
        if self.layers:
            return tuple(layer.resolved(step) for step, layer in enumerate(self.layers))
        step = LayerConfig(self.num_attention_heads, self.intermediate_size)
        groups = self.num_hidden_groups or self.num_hidden_layers
        owners = [  # Rounds the quotient like `transformers`, which matters for 14 groups in 18 layers.
            int(layer / (self.num_hidden_layers / groups)) * self.inner_group_num + inner
            for layer in range(self.num_hidden_layers)
            for inner in range(self.inner_group_num)
        ]
        return tuple(dataclasses.replace(step, attention=owner, ffn=owner).resolved(owner) for owner in owners)

    @property
    def depth(self) -> int:
        """Number of hidden states after the embedding: layers, or recurrence steps."""
        return self.recurrence.steps if self.recurrence else self.num_hidden_layers * self.inner_group_num

    @property
    def max_tokens(self) -> int:
        """The most tokens in a row: the positions after the offset."""
        return self.max_position_embeddings - self.position_offset

    @property
    def output_size(self) -> int:
        """The numbers that the head gives for a text or a token: one per label, or the width of an embedding."""
        if self.embedding is None:
            return len(self.labels)
        return self.embedding.dense_size or self.hidden_size

    @property
    def unpackable(self) -> str | None:
        """Why examples cannot be packed into one row without changing their outputs; None if they can."""
        halting = self.recurrence.halting if self.recurrence else None
        reasons = {
            "trigram embeddings would mix neighbouring texts of a row": self.trigram_input,
            "exits with reads='mean' average over the whole row": self.exits and self.exits.reads == "mean",
            "halting with scope='example' averages over the whole row": halting and halting.scope == "example",
            "token dropping ranks the tokens of one text": self.retention,
            "a sentence embedding is made of all tokens of a row": self.embedding,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def keeps_tokens(self) -> str | None:
        """Why this model cannot drop tokens; None if it can."""
        reasons = {
            "a recurrent model repeats one block at one length": self.recurrence,
            "a MobileBERT does not support token dropping": self.model_type == "mobilebert",
            f"attention={self.attention!r} never holds the probabilities that rank tokens": self.attention != "xla",
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def normalization_type(self) -> Norm:
        return self.bottleneck.normalization_type if self.bottleneck else "layer_norm"

    @property
    def trigram_input(self) -> bool:
        return self.bottleneck is not None and self.bottleneck.trigram_input

    @property
    def dense_pooler(self) -> bool:
        """True if the pooler has a dense layer, False if the pooled vector is the first row."""
        return self.bottleneck is None or self.bottleneck.dense_pooler

    @property
    def bottleneck_size(self) -> int:
        """Inner width of the bottleneck layers; 0 if there are none."""
        return self.bottleneck.intra_bottleneck_size if self.bottleneck else 0

    @property
    def maps_embeddings(self) -> bool:
        """True if a dense layer maps the embeddings to the encoder. ALBERT's folders have one even if the widths are
        equal."""
        narrow = self.embedding_size != self.hidden_size or self.trigram_input
        return narrow or self.model_type == "albert" or self.factorised == "words"

    @property
    def inner_size(self) -> int:
        """The width in which a layer computes; between layers it is `hidden_size`."""
        return self.bottleneck_size or self.hidden_size

    @property
    def inner_dropout(self) -> float:
        """Dropout after the products of a layer; 0 inside bottlenecks (Sun et al. 2020, official code)."""
        return 0.0 if self.bottleneck_size else self.hidden_dropout_prob

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    def replace(self, **changes) -> "BertConfig":
        """A copy with other values. A new width or number of heads recomputes `head_size`, and `embedding_size` follows
        `hidden_size` if they were equal."""
        if {"hidden_size", "num_attention_heads", "bottleneck"} & changes.keys():
            changes.setdefault("head_size", 0)
        if "hidden_size" in changes and self.embedding_size == self.hidden_size:
            changes.setdefault("embedding_size", 0)
        return dataclasses.replace(self, **changes)


COMPUTE_FIELDS = ("dtype", "attention", "remat", "arithmetic")
"""Settings of the computation, not of the model: chosen per run, never stored."""


def stated_max_tokens(content: dict[str, Any], where: str) -> int:
    """`max_tokens` by the content of a `config.json`, which may be that of an exported file of any origin. It is 512 if
    the content names no number of positions."""
    fields = (value(dict | None, content.get("bertjax"), f"{where}: bertjax") or {}) | content
    padding = value(Count, fields.get("pad_token_id", 1), f"{where}: pad_token_id")
    usual = padding + 1 if content.get("model_type") in ROBERTAS else 0
    offset = value(Count, fields.get("position_offset", usual), f"{where}: position_offset")
    return max(1, value(Size, fields.get("max_position_embeddings", 512), f"{where}: max_position_embeddings") - offset)


def numbered_labels(count: int) -> tuple[str, ...]:
    """Placeholder names, as Hugging Face writes them for a head without label names."""
    return tuple(f"LABEL_{i}" for i in range(count))


def labels_by_id(id2label: Any) -> tuple[str, ...]:
    """Label names in order, from `id2label` of a `config.json`. The ids must be 0 to n - 1 without gaps."""
    ids = [str(number) for number in range(len(id2label))] if isinstance(id2label, dict) else []
    if not ids or set(id2label) != set(ids):
        raise UserError(
            f"id2label is {shown(id2label)}; expected the name of each output by its id, from 0 without gaps: "
            '{"0": "NAME", "1": "NAME"}.'
        )
    names = tuple(str(value(str | int, id2label[number], f"id2label.{number}")) for number in ids)
    if duplicates := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"id2label has the name {shown(duplicates[0])} more than once; expected different names.")
    return names
