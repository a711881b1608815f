"""Hugging Face folders, in and out, without torch.

`config.json` and safetensors files become a `BertConfig` and a parameter tree, and back, bit for bit: a kernel is the
transpose of torch's weight, everything else is renamed. Pickles are refused, because loading one runs whatever code it
holds. A folder keeps a stock `model_type` only while plain `transformers` computes the same from it; a model that
stock code cannot express gets the type `bertjax`, and what it is stands under the key `bertjax` of its config.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bertjax.errors import UserError
from bertjax.model.config import COMPUTE_FIELDS, BertConfig, LayerConfig, numbered_labels
from bertjax.params import Tree, flatten, unflatten

# Ours -> theirs. Beyond the prefixes, the last component decides: kernel is weight transposed, embedding is weight,
# scale is weight, bias is bias.
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
    (r"^encoder/layer_(\d+)/attention/(query|key|value)/", r"distilbert.transformer.layer.\1.attention.\2_lin."),
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
# Tensors that hold nothing of their own: buffers, and copies of tied weights.
REDUNDANT = re.compile(r"position_ids$|^cls\.predictions\.decoder\.|^vocab_projector\.weight$")
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
SHARED_FIELDS = ("vocab_size", "max_position_embeddings", "initializer_range", "pad_token_id", "problem_type")
SUPPORTED = ("bert", "distilbert", "bertjax")


# --- names -----------------------------------------------------------------------------------------------------------


def torch_name(path: str, model_type: str) -> str:
    """The Hugging Face tensor name of one of our parameter paths."""
    for pattern, replacement in DISTILBERT_NAMES if model_type == "distilbert" else BERT_NAMES:
        renamed, hits = re.subn(pattern, replacement, path)
        if hits:
            return re.sub(r"\.(kernel|embedding|scale)$", ".weight", renamed)
    raise ValueError(f"no Hugging Face name for parameter {path}")


def convert(name: str, tensor: np.ndarray) -> np.ndarray:
    """The array under the other convention: kernels are transposed, in both directions."""
    return np.ascontiguousarray(tensor.T) if name.endswith("/kernel") else tensor


# --- config.json -----------------------------------------------------------------------------------------------------


def config_from_json(content: dict[str, Any], where: str, architecture: str | None = None) -> BertConfig:
    """A `BertConfig` from the content of a `config.json`.

    Raises:
      UserError: The model type is not supported, or the config asks for something that this encoder does not compute.
    """
    own = content.get("bertjax")
    if content.get("model_type") == "bertjax" and own:
        fields = {
            **own,
            "labels": tuple(own["labels"]),
            "layers": tuple(LayerConfig(**layer) for layer in own["layers"]),
        }
        return BertConfig(**({**fields, "architecture": architecture} if architecture else fields))
    model_type = content.get("model_type")
    if model_type not in ("bert", "distilbert"):
        raise UserError(f"{where} holds a model of type {model_type!r}; supported types: {', '.join(SUPPORTED)}.")
    refuse_unknown_computation(content, where)
    names = DISTILBERT_FIELDS if model_type == "distilbert" else BERT_FIELDS
    values = {ours: content[theirs] for ours, theirs in names.items() if theirs in content}
    values |= {name: content[name] for name in SHARED_FIELDS if name in content}
    if model_type == "distilbert":
        values["type_vocab_size"] = 0
        qa = (architecture or named_architecture(content)).endswith("QuestionAnswering")
        values["classifier_dropout"] = content.get("qa_dropout" if qa else "seq_classif_dropout", 0.1 if qa else 0.2)
    return BertConfig(
        model_type=model_type,
        architecture=architecture or named_architecture(content),
        labels=labels_from_json(content),
        **values,
    )


def named_architecture(content: dict[str, Any]) -> str:
    named = (content.get("architectures") or [None])[0]
    if named == "BertForPreTraining":  # Both pre-training heads; the masked-LM one is what people continue with.
        return "BertForMaskedLM"
    return named or {"distilbert": "DistilBertModel"}.get(content.get("model_type", ""), "BertModel")


def labels_from_json(content: dict[str, Any]) -> tuple[str, ...]:
    by_id = {int(index): name for index, name in (content.get("id2label") or {}).items()}
    if not by_id:
        return numbered_labels(content.get("num_labels", 2))
    return tuple(by_id[index] for index in sorted(by_id))


def refuse_unknown_computation(content: dict[str, Any], where: str) -> None:
    """Options of `transformers` that change what is computed and that this encoder does not have."""
    wanted = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "tie_word_embeddings": (True, None),
        "hidden_act": ("gelu", "gelu_new", "relu", None),
        "activation": ("gelu", "gelu_new", "relu", None),
    }
    for field, accepted in wanted.items():
        if content.get(field) not in accepted:
            raise UserError(
                f"{where} says {field}={content[field]!r}; supported: {', '.join(map(str, accepted[:-1]))}."
            )


def config_to_json(config: BertConfig) -> dict[str, Any]:
    """The content of `config.json`: a stock one where stock code computes the same, else of type `bertjax`."""
    graph = {k: v for k, v in dataclasses.asdict(config).items() if k not in COMPUTE_FIELDS}
    content: dict[str, Any] = {"architectures": [config.architecture], "model_type": config.model_type}
    stock = is_stock(config)
    if not stock:
        content = {"architectures": [config.architecture], "model_type": "bertjax", "bertjax": graph}
    names = DISTILBERT_FIELDS if config.model_type == "distilbert" else BERT_FIELDS
    content |= {theirs: graph[ours] for ours, theirs in names.items()}
    content |= {name: graph[name] for name in SHARED_FIELDS if graph[name] is not None}
    if config.model_type == "distilbert":
        content |= {"seq_classif_dropout": config.head_dropout, "qa_dropout": config.head_dropout}
        content |= {"sinusoidal_pos_embds": False, "tie_weights_": True}
    content["id2label"] = dict(enumerate(config.labels))
    content["label2id"] = {label: index for index, label in enumerate(config.labels)}
    return content | {"dtype": "float32"}


def is_stock(config: BertConfig) -> bool:
    """Whether plain `transformers` computes the same model: every layer alike and heads that fill the width."""
    alike = len(set(config.depth_steps())) <= 1 and config.num_hidden_layers > 0
    first = config.depth_steps()[0] if alike else None
    described = first == LayerConfig(config.num_attention_heads, config.intermediate_size)
    return bool(alike and described and config.head_size * config.num_attention_heads == config.hidden_size)  # type: ignore[operator]


# --- folders ---------------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise UserError(f"{folder} has no config.json, so it is not a model folder (found: {found or 'nothing'}).")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder, from one safetensors file or from shards with an index."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if any(Path(shard).name != shard for shard in shards):
            raise UserError(f"{index} names files outside its folder; refused.")
        files = [folder / shard for shard in shards]
    else:
        files = [folder / "model.safetensors"]
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if not file.is_file():
            raise UserError(missing_weights(folder, file))
        try:
            with safe_open(file, framework="numpy") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}); fetch or write it again.") from None
    return tensors


def missing_weights(folder: Path, file: Path) -> str:
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.ckpt"))
    if not pickles:
        return f"{folder} has no {file.name}; expected a Hugging Face folder with safetensors weights."
    return (
        f"{folder} holds only {pickles[0].name}, a pickle, and loading a pickle runs code. Convert it once, where torch "
        f"is installed:\n  python -c \"from transformers import AutoModel as M; d='{folder}'; "
        f'M.from_pretrained(d).save_pretrained(d, safe_serialization=True)"'
    )


def parameters_from_tensors(
    tensors: dict[str, np.ndarray], template: Tree, model_type: str
) -> tuple[Tree, list[str], list[str]]:
    """Our tree from Hugging Face tensors, with the names that were missing (ours) and left over (theirs).

    Folders of a bare encoder lack the `bert.` prefix, and old ones call LayerNorm's arrays gamma and beta; both are
    accepted. Leaves keep the stored numbers, as float32.
    """
    prefix = f"{model_type}."
    renamed = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)): name for name in tensors}
    found, missing, used = {}, [], set()
    for path, leaf in flatten(template).items():
        name = torch_name(path, model_type)
        stored = next((n for n in (name, name.removeprefix(prefix)) if n in renamed), None)
        if stored is None:
            missing.append(path)
            continue
        used.add(renamed[stored])
        found[path] = convert(path, tensors[renamed[stored]].astype(np.float32))
        if found[path].shape != tuple(leaf.shape):
            raise UserError(
                f"{renamed[stored]} has shape {tensors[renamed[stored]].shape}; the config asks for "
                f"{tuple(leaf.shape)} at {path}."
            )
    extra = sorted(name for name in tensors if name not in used and not REDUNDANT.search(name))
    return unflatten(found), missing, extra


def write_model(folder: Path, config: BertConfig, params: Tree) -> None:
    """Writes `config.json` and `model.safetensors` into a folder that exists."""
    bare = config.architecture in ("BertModel", "DistilBertModel")
    tensors = {}
    for path, leaf in flatten(params).items():
        name = torch_name(path, config.model_type)
        name = name.removeprefix(f"{config.model_type}.") if bare else name
        tensors[name] = convert(path, np.asarray(leaf))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_to_json(config), indent=2, ensure_ascii=False) + "\n")
