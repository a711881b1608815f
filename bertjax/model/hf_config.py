"""The content of a Hugging Face `config.json` and a `BertConfig`, each from the other.

A folder keeps a standard `model_type` only if plain `transformers` computes the same model from it. Other models have
the type `bertjax` and their fields under the key `bertjax` of the config.
"""

import dataclasses
import json
from typing import Annotated, Any

from bertjax.errors import UserError
from bertjax.model.config import (
    COMPUTE_FIELDS,
    PREFIXES,
    ROBERTAS,
    BertConfig,
    BottleneckConfig,
    labels_by_id,
    numbered_labels,
)
from bertjax.model.hf_names import NAMES
from bertjax.model.sentence import SUFFIX, SentenceEmbedding
from bertjax.storage.typed_json import Count, Rate, Size, Within, build, hints, shown, value

DISTILBERT_FIELDS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
BERT_FIELDS = {
    name: name
    for name in (*DISTILBERT_FIELDS, "type_vocab_size", "layer_norm_eps", "classifier_dropout")
}  # fmt: skip
ALBERT_FIELDS = (
    {name: name for name in BERT_FIELDS}
    | {name: name for name in ("embedding_size", "num_hidden_groups", "inner_group_num")}
    | {"classifier_dropout": "classifier_dropout_prob"}
)
MOBILE_FIELDS = {name: name for name in (*BERT_FIELDS, "embedding_size")}
BOTTLENECK_FIELDS = {
    "trigram_input": "trigram_input",
    "num_feedforward_networks": "num_feedforward_networks",
    "normalization_type": "normalization_type",
    "dense_pooler": "classifier_activation",
}
FIELDS = {
    "bert": BERT_FIELDS,
    "distilbert": DISTILBERT_FIELDS,
    "albert": ALBERT_FIELDS,
    "mobilebert": MOBILE_FIELDS,
    **dict.fromkeys(ROBERTAS, BERT_FIELDS),
}
# Defaults of `transformers` for missing fields, where they differ from those of `BertConfig`.
ALBERT_DEFAULTS = {
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 4096,
    "num_hidden_groups": 1,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.1,
}
MOBILE_DEFAULTS = {
    "embedding_size": 128,
    "hidden_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
}
DEFAULTS = {
    "albert": ALBERT_DEFAULTS,
    "mobilebert": MOBILE_DEFAULTS,
    "roberta": {"vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
}
BOTTLENECK_DEFAULTS = {"trigram_input": True, "num_feedforward_networks": 4, "normalization_type": "no_norm"}
FLAT_BOTTLENECK = {field.name: field.name for field in dataclasses.fields(BottleneckConfig)} | {
    "attention_input": "bottleneck_attention"
}
"""Field names of a bottleneck in formats 0 to 2, which stored them among those of the model."""
MAIN_NORM_EPS = 1e-5  # torch's default, which MobileBERT in `transformers` keeps in two places
DISTILBERT_HEAD_DROPOUT = {
    "DistilBertForSequenceClassification": ("seq_classif_dropout", 0.2),
    "DistilBertForQuestionAnswering": ("qa_dropout", 0.1),
}
SHARED_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
    "problem_type",
    "no_answer_threshold",  # `transformers` keeps what it does not know
)
SUPPORTED = (*NAMES, "bertjax")
EMBEDDING = "sentence_embedding"
"""The key under which `read_config` adds what the files of sentence-transformers say."""
FORMAT = 3
"""Version of the content under the key `bertjax`. It is raised when an older release would misread what a newer one
writes."""
MOST_LABELS = 1_000_000
SAME_ACTIVATION = {
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
}
"""Names in `transformers` of activations that equal ours in float32."""


def config_from_json(content: dict[str, Any], where: str, architecture: str | None = None) -> BertConfig:
    """A `BertConfig` from the content of a `config.json`, with another head if `architecture` names one.

    Raises:
      UserError: The model type is not supported, a value has the wrong type or range, or the config needs a computation
        that this encoder does not have.
    """
    model_type = content.get("model_type")
    if model_type not in SUPPORTED:
        raise UserError(f"{where} holds a model of type {shown(model_type)}; supported types: {', '.join(SUPPORTED)}.")
    try:
        chosen = architecture or named_architecture(content)
        config = own_config(content, chosen) if model_type == "bertjax" else stock_config(content, chosen)
        if not config.num_hidden_layers:
            raise UserError("num_hidden_layers is 0; expected at least 1.")
        return config
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def stock_config(content: dict[str, Any], architecture: str) -> BertConfig:
    """The config of a folder that `transformers` can load, from its field names there."""
    model_type = content["model_type"]
    refuse_unknown_computation(content, architecture)
    values = given_fields(BertConfig, FIELDS[model_type] | {name: name for name in SHARED_FIELDS}, content)
    values = DEFAULTS.get(model_type, {}) | values
    if model_type == "mobilebert":
        values["bottleneck"] = bottleneck_from_json(content)
    if model_type in ROBERTAS:
        values["position_offset"] = values["pad_token_id"] + 1
    if model_type == "distilbert":
        values["type_vocab_size"] = 0
        if architecture in DISTILBERT_HEAD_DROPOUT:
            values["classifier_dropout"] = typed(content, *DISTILBERT_HEAD_DROPOUT[architecture], Rate)
    if architecture.endswith(SUFFIX):
        values["embedding"] = build(SentenceEmbedding, content.get(EMBEDDING, {}), EMBEDDING)
    labels = labels_from_json(content, architecture)
    return BertConfig(model_type=model_type, architecture=architecture, labels=labels, **values)


def given_fields(cls: type, names: dict[str, str], content: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields that the content has, by other names (ours -> theirs)."""
    present = {ours: theirs for ours, theirs in names.items() if content.get(theirs) is not None}
    return {ours: value(hints(cls)[ours], activated(content, theirs), theirs) for ours, theirs in present.items()}


def typed(content: dict[str, Any], name: str, default: Any, annotation: Any) -> Any:
    """The checked value of a field that is in none of our dataclasses; null counts as missing, as in `transformers`."""
    given = content.get(name)
    return default if given is None else value(annotation, given, name)


def activated(content: dict[str, Any], name: str) -> Any:
    """A field's value, with names of activations translated to ours."""
    given = content[name]
    return SAME_ACTIVATION.get(given, given) if isinstance(given, str) else given


def own_config(content: dict[str, Any], architecture: str) -> BertConfig:
    """The config of a folder of type `bertjax`. Fields that an older folder lacks take their defaults."""
    fields = content.get("bertjax")
    if not isinstance(fields, dict):
        raise UserError(f"bertjax is {shown(fields)}; expected an object with the fields of this model.")
    fields = dict(fields)
    written = value(Count, fields.pop("format", 0), "bertjax.format")
    if written > FORMAT:
        raise UserError(
            f"written by a newer bertjax (format {written}; this version reads up to {FORMAT}): update bertjax."
        )
    fields.pop("bundle", None)
    if written < 3:
        fields = nested_bottleneck(fields)
    if chosen := sorted(fields.keys() & set(COMPUTE_FIELDS)):
        raise UserError(f"bertjax.{chosen[0]} is a setting of a run, not of a stored model: remove it.")
    if not architecture.endswith("ForSequenceClassification"):
        fields |= {"classifier_activation": None, "exits": None}
    if not architecture.endswith(SUFFIX):
        fields["embedding"] = None
    if content.get("id2label") is not None or "labels" not in fields or architecture.endswith("QuestionAnswering"):
        fields["labels"] = labels_from_json(content, architecture)
    return build(BertConfig, fields | {"architecture": architecture}, "bertjax")


def bottleneck_from_json(content: dict[str, Any]) -> BottleneckConfig:
    """A `BottleneckConfig` from the fields of `transformers`, which writes `attention_input` as several flags and the
    epsilon not at all."""
    values = BOTTLENECK_DEFAULTS | given_fields(BottleneckConfig, BOTTLENECK_FIELDS, content)
    values["main_norm_eps"] = MAIN_NORM_EPS
    if typed(content, "use_bottleneck", True, bool):
        shared = "shared" if typed(content, "key_query_shared_bottleneck", True, bool) else "block"
        reads_input = typed(content, "use_bottleneck_attention", False, bool)
        values["intra_bottleneck_size"] = typed(content, "intra_bottleneck_size", 128, Size)
        values["attention_input"] = "input" if reads_input else shared
    return BottleneckConfig(**values)


def bottleneck_to_json(bottleneck: BottleneckConfig) -> dict[str, Any]:
    """The inverse of `bottleneck_from_json`."""
    content = {theirs: getattr(bottleneck, ours) for ours, theirs in BOTTLENECK_FIELDS.items()}
    if not bottleneck.intra_bottleneck_size:
        return content | {"use_bottleneck": False}
    return content | {
        "use_bottleneck": True,
        "intra_bottleneck_size": bottleneck.intra_bottleneck_size,
        "use_bottleneck_attention": bottleneck.attention_input == "input",
        "key_query_shared_bottleneck": bottleneck.attention_input == "shared",
    }


def nested_bottleneck(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of format 2 or older, with those of the bottleneck moved into one field."""
    flat = {ours: fields.pop(old) for ours, old in FLAT_BOTTLENECK.items() if old in fields}
    plain = dataclasses.asdict(BottleneckConfig())
    # Non-default values are kept for every family, so that `BertConfig` can reject them.
    differs = any(plain[name] != given for name, given in flat.items())
    return fields | {"bottleneck": flat} if differs else fields


def named_architecture(content: dict[str, Any]) -> str:
    named = typed(content, "architectures", (), tuple[str, ...])
    return named[0] if named else f"{PREFIXES.get(content['model_type'], 'Bert')}Model"


def labels_from_json(content: dict[str, Any], architecture: str) -> tuple[str, ...]:
    """Label names in order of their ids, which must be 0 to n - 1 without gaps."""
    if architecture.endswith("QuestionAnswering"):
        return numbered_labels(2)
    names = content.get("id2label")
    if names is None:
        return numbered_labels(typed(content, "num_labels", 2, Annotated[int, Within(1, MOST_LABELS)]))
    return labels_by_id(names)


def refuse_unknown_computation(content: dict[str, Any], architecture: str) -> None:
    """Rejects options of `transformers` that change the computation and that this encoder does not have."""
    supported: dict[str, tuple[Any, ...]] = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,) if architecture.endswith("MaskedLM") else (True, False),
        "quantization_config": (),
    }
    for field, accepted in supported.items():
        given = content.get(field)
        if given is not None and given not in accepted:
            raise UserError(f"{field} is {shown(given)}; supported: {', '.join(map(shown, accepted)) or 'none'}.")


def config_to_json(config: BertConfig, stock: bool = True) -> dict[str, Any]:
    """The content of `config.json`: standard if `transformers` computes the same model, else of type `bertjax`. Without
    `stock` it is of that type in any case, as for weights that `transformers` cannot read."""
    graph = {k: v for k, v in dataclasses.asdict(config).items() if k not in COMPUTE_FIELDS}
    content: dict[str, Any] = {"architectures": [config.architecture], "model_type": config.model_type}
    if stock and is_stock(config):
        content["architectures"] = [stock_architecture(config)]
    else:
        content |= {"model_type": "bertjax", "bertjax": {"format": FORMAT, **graph}}
    content |= {theirs: graph[ours] for ours, theirs in FIELDS[config.model_type].items()}
    content |= {name: graph[name] for name in SHARED_FIELDS if graph[name] is not None}
    if config.model_type == "albert":  # `transformers` has no None for these.
        content["classifier_dropout_prob"] = config.head_dropout
        content["num_hidden_groups"] = config.num_hidden_groups or config.num_hidden_layers
    if config.bottleneck:
        content |= bottleneck_to_json(config.bottleneck)
    if config.architecture in DISTILBERT_HEAD_DROPOUT:
        content[DISTILBERT_HEAD_DROPOUT[config.architecture][0]] = config.head_dropout
    content["id2label"] = {str(index): label for index, label in enumerate(config.labels)}
    content["label2id"] = {label: index for index, label in enumerate(config.labels)}
    return content | {"dtype": "float32"}


def stock_architecture(config: BertConfig) -> str:
    """The class of `transformers` in a folder: for a sentence embedding, the encoder that its other files build on."""
    return f"{PREFIXES[config.model_type]}Model" if config.embedding else config.architecture


def config_text(config: BertConfig, stock: bool = True) -> str:
    """The text of `config.json`, see `config_to_json`.

    Raises:
      UserError: A value that JSON cannot hold, such as a NumPy number.
    """
    try:
        return json.dumps(config_to_json(config, stock), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"a model with such a config could not be saved: {error}.") from None


def is_stock(config: BertConfig) -> bool:
    """True if plain `transformers` computes the same model: identical layers, heads that fill the width, sharing and
    factorised embeddings only in ALBERT and as ALBERT has them, positions after padding's in RoBERTa alone, and for
    DistilBERT and MobileBERT the epsilon of their code."""
    extended = config.recurrence or config.exits or config.quantization or config.classifier_activation
    after_padding = config.pad_token_id + 1 if config.model_type in ROBERTAS else 0
    if extended or config.retention or config.norm == "pre" or config.position_offset != after_padding:
        return False
    uniform = config.replace(layers=()).depth_steps() == config.depth_steps()
    filled = config.head_size * config.num_attention_heads == config.inner_size
    if config.model_type == "albert":
        return uniform and filled and config.factorised == "sum"
    if bottleneck := config.bottleneck:
        # In `transformers`, queries that read the layer's input expect the inner width, and the mapping always exists.
        fits = bottleneck.attention_input != "block" or config.inner_size == config.hidden_size
        epsilon = bottleneck.normalization_type == "no_norm" or bottleneck.main_norm_eps == MAIN_NORM_EPS
        return uniform and filled and fits and epsilon and config.maps_embeddings and config.inner_group_num == 1
    unshared = config.num_hidden_groups in (0, config.num_hidden_layers) and config.inner_group_num == 1
    plain = uniform and filled and unshared and not config.maps_embeddings
    return plain and (config.model_type != "distilbert" or config.layer_norm_eps == 1e-12)
