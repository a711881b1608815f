"""Reads and writes Hugging Face folders, without torch.

`config.json` and safetensors files become a `BertConfig` and a parameter tree, and back, bit for bit. Kernels are the
transpose of torch's weights; everything else is only renamed. Pickles are rejected, because loading one runs arbitrary
code. A folder keeps a standard `model_type` only if plain `transformers` computes the same model from it. Other models
have the type `bertjax` and their fields under the key `bertjax` of the config.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

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
from bertjax.model.sentence import SUFFIX, SentenceEmbedding, dense_tensors, read_embedding, write_embedding
from bertjax.params import Tree, flatten, unflatten
from bertjax.quantized.stored import from_parts, matrix_parts, parts_named
from bertjax.quantized.tensor import Quantized
from bertjax.storage.tensors import count_arrays, save_tensors, stored_arrays
from bertjax.storage.typed_json import Count, Rate, Size, Within, build, hints, read_json, shown, value

# Our path prefix -> Hugging Face's. The last component is mapped separately: kernel to weight (transposed), embedding
# and scale to weight, bias to bias.
BERT_NAMES = (
    (r"^embeddings/(word|position|token_type)/", r"bert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "bert.embeddings.LayerNorm."),
    (r"^encoder/layer_(\d+)/attention/(query|key|value)/", r"bert.encoder.layer.\1.attention.self.\2."),
    (r"^encoder/layer_(\d+)/attention/output/", r"bert.encoder.layer.\1.attention.output.dense."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"bert.encoder.layer.\1.attention.output.LayerNorm."),
    (r"^encoder/layer_(\d+)/ffn/(intermediate|output)/", r"bert.encoder.layer.\1.\2.dense."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"bert.encoder.layer.\1.output.LayerNorm."),
    (r"^pooler/", "bert.pooler.dense."),
    (r"^(classifier|qa_outputs)/", r"\1."),
    (r"^seq_relationship/", "cls.seq_relationship."),
    (r"^transform/", "cls.predictions.transform.dense."),
    (r"^transform_norm/", "cls.predictions.transform.LayerNorm."),
    (r"^decoder_bias$", "cls.predictions.bias"),
)
DISTILBERT_NAMES = (
    (r"^embeddings/(word|position)/", r"distilbert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "distilbert.embeddings.LayerNorm."),
    (r"^encoder/layer_(\d+)/attention/(q|k|v)(uery|ey|alue)/", r"distilbert.transformer.layer.\1.attention.\2_lin."),
    (r"^encoder/layer_(\d+)/attention/output/", r"distilbert.transformer.layer.\1.attention.out_lin."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"distilbert.transformer.layer.\1.sa_layer_norm."),
    (r"^encoder/layer_(\d+)/ffn/intermediate/", r"distilbert.transformer.layer.\1.ffn.lin1."),
    (r"^encoder/layer_(\d+)/ffn/output/", r"distilbert.transformer.layer.\1.ffn.lin2."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"distilbert.transformer.layer.\1.output_layer_norm."),
    (r"^(pre_classifier|classifier|qa_outputs)/", r"\1."),
    (r"^transform/", "vocab_transform."),
    (r"^transform_norm/", "vocab_layer_norm."),
    (r"^decoder_bias$", "vocab_projector.bias"),
)
ALBERT_NAMES = (
    (r"^embeddings/(word|position|token_type)/", r"albert.embeddings.\1_embeddings."),
    (r"^embeddings/layer_norm/", "albert.embeddings.LayerNorm."),
    (r"^embeddings/mapping/", "albert.encoder.embedding_hidden_mapping_in."),
    (r"^encoder/layer_(\d+)/attention/(query|key|value)/", r"albert.encoder.layer.\1.attention.\2."),
    (r"^encoder/layer_(\d+)/attention/output/", r"albert.encoder.layer.\1.attention.dense."),
    (r"^encoder/layer_(\d+)/attention/layer_norm/", r"albert.encoder.layer.\1.attention.LayerNorm."),
    (r"^encoder/layer_(\d+)/ffn/intermediate/", r"albert.encoder.layer.\1.ffn."),
    (r"^encoder/layer_(\d+)/ffn/output/", r"albert.encoder.layer.\1.ffn_output."),
    (r"^encoder/layer_(\d+)/ffn/layer_norm/", r"albert.encoder.layer.\1.full_layer_layer_norm."),
    (r"^pooler/", "albert.pooler."),
    (r"^(classifier|qa_outputs)/", r"\1."),
    (r"^seq_relationship/", "sop_classifier.classifier."),
    (r"^transform/", "predictions.dense."),
    (r"^transform_norm/", "predictions.LayerNorm."),
    (r"^decoder_bias$", "predictions.bias"),
)
BOTTLENECKS = {"input": "bottleneck.input", "shared": "bottleneck.attention", "output": "output.bottleneck"}
MOBILE_NAMES = (
    (r"^embeddings/mapping/", "mobilebert.embeddings.embedding_transformation."),
    (r"^encoder/layer_(\d+)/ffn_(\d+)/(intermediate|output)/", r"mobilebert.encoder.layer.\1.ffn.\2.\3.dense."),
    (r"^encoder/layer_(\d+)/ffn_(\d+)/layer_norm/", r"mobilebert.encoder.layer.\1.ffn.\2.output.LayerNorm."),
    *(
        (rf"^encoder/layer_(\d+)/{ours}_bottleneck/{part}/", rf"mobilebert.encoder.layer.\1.{theirs}.{name}.")
        for ours, theirs in BOTTLENECKS.items()
        for part, name in (("dense", "dense"), ("layer_norm", "LayerNorm"))
    ),
    (r"^decoder_rest$", "cls.predictions.dense.weight"),  # stored as [in, out] there, too
    *((ours, re.sub(r"^bert\.", "mobilebert.", theirs)) for ours, theirs in BERT_NAMES),
)
ROBERTA_NAMES = (
    (r"^transform/", "lm_head.dense."),
    (r"^transform_norm/", "lm_head.layer_norm."),
    (r"^decoder_bias$", "lm_head.bias"),
    *((ours, re.sub(r"^bert\.", "roberta.", theirs)) for ours, theirs in BERT_NAMES),
)
ROBERTA_CLASSIFIER_NAMES = (
    (r"^pooler/", "classifier.dense."),
    (r"^classifier/", "classifier.out_proj."),
    *ROBERTA_NAMES,
)
NAMES = {
    "bert": BERT_NAMES,
    "distilbert": DISTILBERT_NAMES,
    "albert": ALBERT_NAMES,
    "mobilebert": MOBILE_NAMES,
    **dict.fromkeys(ROBERTAS, ROBERTA_NAMES),
}
# Tensors without information of their own: buffers, and copies of tied weights.
REDUNDANT = re.compile(
    r"(position_ids|embeddings\.token_type_ids)$|^((cls\.)?predictions|lm_head)\.decoder\.|^vocab_projector\.weight$"
)
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


# --- names -----------------------------------------------------------------------------------------------------------


def torch_name(path: str, config: BertConfig) -> str:
    """The Hugging Face tensor name of a parameter path."""
    two_layers = config.model_type in ROBERTAS and config.architecture.endswith("ForSequenceClassification")
    for pattern, replacement in ROBERTA_CLASSIFIER_NAMES if two_layers else NAMES[config.model_type]:
        renamed, hits = re.subn(pattern, replacement, path)
        if hits:
            renamed = re.sub(r"\.(kernel|embedding|scale)$", ".weight", renamed)
            return grouped(renamed, config.inner_group_num) if config.model_type == "albert" else renamed
    # A model that `transformers` cannot express may have parameters that its family does not have.
    return re.sub(r"\.(kernel|embedding|scale)$", ".weight", f"{encoder_prefix(config)}{path.replace('/', '.')}")


def encoder_prefix(config: BertConfig) -> str:
    """What the tensor names of the encoder begin with, unless the folder holds a bare encoder."""
    return "roberta." if config.model_type in ROBERTAS else f"{config.model_type}."


def grouped(name: str, inner: int) -> str:
    """The name with ALBERT's numbers of group and layer within the group, in place of our consecutive number."""

    def numbers(match: re.Match) -> str:
        group, layer = divmod(int(match[1]), inner)
        return f"albert_layer_groups.{group}.albert_layers.{layer}."

    return re.sub(r"layer\.(\d+)\.", numbers, name)


def transposed_kernel(name: str, tensor: np.ndarray) -> np.ndarray:
    """The array in the other convention, in both directions: kernels are transposed."""
    return np.ascontiguousarray(tensor.T) if name.endswith("/kernel") else tensor


# --- config.json -----------------------------------------------------------------------------------------------------


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


# --- folders ---------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
        raise UserError(f"{folder} has no config.json, so it is not a model folder (found: {found or 'nothing'}).")
    content = read_json(path)
    check_sizes(content, folder)
    if content.get("model_type") in PREFIXES and (embedding := read_embedding(folder)) is not None:
        content |= {"architectures": [f"{PREFIXES[content['model_type']]}{SUFFIX}"], EMBEDDING: embedding}
    return content


def check_sizes(content: dict[str, Any], folder: Path) -> None:
    """Compares the sizes in a config with the size of the folder's files, before anything of such a size is allocated.

    Raises:
      UserError: The files are too small for a model of these sizes.
    """
    bits = max(8 * sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), LITTLE)
    layers = max(sum(count_arrays(file) for file in weight_files(folder)), SHARED)
    width = max((size for name, size in stated_sizes(content) if name in ("hidden_size", "dim")), default=1)
    for name, size in stated_sizes(content):
        most = layers if name in DEPTHS else bits / max(width, 1) if name == "num_labels" else bits
        if not size <= most:
            raise UserError(
                f"{folder / 'config.json'} says {name}={size}, and the folder's files are too small for such a model "
                f"({bits // 8:,} bytes in total). Download or write the folder again."
            )


DEPTHS = ("num_hidden_layers", "n_layers", "inner_group_num", "steps", "num_feedforward_networks")
WIDTHS = (
    "hidden_size",
    "dim",
    "intermediate_size",
    "hidden_dim",
    "embedding_size",
    "intra_bottleneck_size",
    "head_size",
)
COUNTS = ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_attention_heads", "n_heads", "num_labels")
LITTLE, SHARED = 10**6, 200
"""Sizes that are accepted whatever the files hold: LITTLE because weights may be elsewhere, SHARED layers because
layers may share all parameters."""


def stated_sizes(content: Any) -> Iterator[tuple[str, float]]:
    """The fields of a config that give a size, at any depth of nesting."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, inner in items:
        if name in (*DEPTHS, *WIDTHS, *COUNTS) and isinstance(inner, (int, float)):
            yield name, inner
        yield from stated_sizes(inner)


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder, from one safetensors file or from shards with an index."""
    tensors: dict[str, np.ndarray] = {}
    for file in weight_files(folder):
        if not file.is_file():
            raise UserError(missing_weights(folder, file))
        tensors |= stored_arrays(file)
    return tensors | dense_tensors(folder)


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights: the single one if it exists, else the shards that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{index} has no weight_map that names the weight files; download or write it again.")
    shards = sorted({str(shard) for shard in named.values()})
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise UserError(f"{index} names a file outside its folder, {outside[0]}, which is not read for safety.")
    return [folder / shard for shard in shards]


def missing_weights(folder: Path, file: Path) -> str:
    pickles = sorted(path for kind in ("*.bin", "*.pt", "*.ckpt") for path in folder.glob(kind))
    if not pickles:
        return f"{folder} has no {file.name}; expected a Hugging Face folder with safetensors weights."
    return (
        f"{folder} holds only {pickles[0].name}, a pickle, and loading a pickle runs code. If you trust it, convert it "
        f"once, where torch is installed:\n"
        f'  python -c "import transformers as t; d = {str(folder)!r}; '
        f'm = getattr(t, t.AutoConfig.from_pretrained(d).architectures[0]); m.from_pretrained(d).save_pretrained(d)"'
    )


def parameters_from_tensors(
    tensors: dict[str, np.ndarray], template: Tree, config: BertConfig
) -> tuple[Tree, list[str], list[str]]:
    """Our parameter tree from Hugging Face tensors, with the missing names (ours) and the unused names (theirs).

    Accepted variants: folders of a bare encoder lack the `bert.` prefix, and old ones call LayerNorm's arrays gamma and
    beta. Values are kept, as float32.
    """
    renamed = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): name for name in tensors}
    params, missing, used = {}, [], set()
    for path, leaf in flatten(template).items():
        name = torch_name(path, config)
        parts = parts_named(tensors, name)
        if parts or isinstance(leaf, Quantized):
            if (matrix := from_parts(leaf, parts, name)) is None:
                missing.append(path)
                continue
            params[path] = matrix
            used.update(f"{name}.{part}" for part in parts)
            continue
        stored = renamed.get(name) or renamed.get(name.removeprefix(encoder_prefix(config)))
        if stored is None:
            missing.append(path)
            continue
        used.add(stored)
        tensor = tensors[stored]
        if tensor.dtype.kind in "biu":
            raise UserError(
                f"{stored} holds {tensor.dtype} numbers; expected floating point. Weights that another tool quantised "
                "cannot be read; use the model before quantisation."
            )
        with np.errstate(over="ignore"):  # values beyond float32 become inf, which is rejected later
            params[path] = transposed_kernel(path, tensor.astype(np.float32))
        if params[path].shape != tuple(leaf.shape):
            raise UserError(
                f"{stored} has shape {tensor.shape}; by config.json the shape of {path} is {tuple(leaf.shape)}"
                f"{' (transposed)' if path.endswith('/kernel') else ''}."
            )
    extra = sorted(name for name in tensors if name not in used and not REDUNDANT.search(name))
    return unflatten(params), missing, extra


def fits_tinybert(tensors: Collection[str]) -> bool:
    """True if the tensor names are those of a classifier trained with TinyBERT's published code (Jiao et al. 2020). Its
    config does not mention the ReLU before the classifier. The projection of its distillation losses identifies it:
    `fit_dense`, or in the first version a list `fit_denses`."""
    return "classifier.weight" in tensors and any(name.startswith("fit_dense") for name in tensors)


def write_model(folder: Path, config: BertConfig, params: Tree, without_zeros: bool = False) -> None:
    """Writes `config.json` and `model.safetensors` into an existing folder. Zeros are left out of matrices, where that
    is smaller, of models that `transformers` cannot express anyway; of others only if asked for `without_zeros`, which
    makes them such models."""
    without_zeros = without_zeros or not is_stock(config)
    bare, tensors = stock_architecture(config) == f"{PREFIXES[config.model_type]}Model", {}
    if config.embedding and not without_zeros:
        params = dict(params)
        write_embedding(folder, config.embedding, config.hidden_size, params.pop("projection", {}))
    for path, leaf in flatten(params).items():
        name = torch_name(path, config)
        dense = not isinstance(leaf, Quantized)
        parts = None if dense and not (without_zeros and leaf.ndim == 2) else matrix_parts(leaf)
        if parts is not None:
            tensors |= {f"{name}.{part}": array for part, array in parts.items()}
        else:
            name = name.removeprefix(encoder_prefix(config)) if bare else name
            tensors[name] = transposed_kernel(path, np.asarray(leaf))
    save_tensors(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(config_text(config, stock=not without_zeros), encoding="utf-8")
