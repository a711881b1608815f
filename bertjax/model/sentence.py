"""Sentence embeddings: how one vector is made of the states of a text's tokens, and the files that say so.

The layout is that of sentence-transformers: `modules.json` lists the parts, each with a folder of its own, and text
limit and prompts are in two more files. Everything is read into one dataclass of the config, so that a model without
these files (one that plain `transformers` does not know) is complete with its `config.json`. Only what this encoder
computes is read: one pooling, at most one dense layer, and the normalisation. Anything else is an error, because an
embedding without a part of its model looks like any other.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bertjax.errors import UserError
from bertjax.storage.tensors import save_tensors, stored_arrays
from bertjax.storage.typed_json import Count, build, check, read_json, shown, value

MODULES, LIMIT, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
SUFFIX = "ForSentenceEmbedding"
"""What the names of the architectures end with."""
POOLINGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
}
ACTIVATIONS = {
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "identity": "torch.nn.modules.linear.Identity",
}


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding:
    """What follows the encoder of a model whose output is one vector per text (Reimers and Gurevych 2019)."""

    pooling: Literal["mean", "cls", "max"] = "mean"
    """mean, max: over the states of all tokens that are not padding. cls: the first one."""
    dense_size: Count = 0
    """Width of a dense layer on the pooled vector; 0 means none."""
    dense_activation: Literal["tanh", "relu", "identity"] = "tanh"
    """Activation after that layer."""
    normalise: bool = True
    """Whether the vector is scaled to length 1, so that a dot product is a cosine."""
    max_length: Count = 0
    """Longest text in tokens; 0 means the positions of the model."""
    prompts: tuple[tuple[str, str], ...] = ()
    """Pairs of a name and the text that goes before every text to encode."""
    default_prompt: str | None = None
    """The name of the prompt that is used if none is given."""

    def __post_init__(self) -> None:
        check(self)
        self.prompt(self.default_prompt)

    def prompt(self, name: str | None) -> str:
        """The text of a prompt; empty for None.

        Raises:
          UserError: There is no prompt of this name.
        """
        known = dict(self.prompts)
        if name is not None and name not in known:
            raise UserError(f"there is no prompt {shown(name)}; known: {', '.join(known) or 'none'}.")
        return "" if name is None else known[name]


# --- reading ---------------------------------------------------------------------------------------------------------


def read_embedding(folder: Path) -> dict[str, Any] | None:
    """The fields of a `SentenceEmbedding`, from the files of sentence-transformers; None without `modules.json`.

    Raises:
      UserError: The folder describes a computation that this package does not have.
    """
    if not (folder / MODULES).is_file():
        return None
    parts = module_folders(folder)
    if list(parts)[:2] != ["Transformer", "Pooling"] or set(parts) - {"Transformer", "Pooling", "Dense", "Normalize"}:
        raise UserError(
            f"{folder / MODULES} lists {', '.join(parts) or 'nothing'}; supported are Transformer and Pooling, and "
            "after them Dense and Normalize."
        )
    limit, prompts = read_json(folder / LIMIT), read_json(folder / PROMPTS)
    if limit.get("do_lower_case"):
        raise UserError(f"{folder / LIMIT}: do_lower_case is not supported; use a tokenizer that does it.")
    named = value(dict | None, prompts.get("prompts"), f"{folder / PROMPTS}: prompts") or {}
    found: dict[str, Any] = {
        "pooling": pooling_of(parts["Pooling"] / "config.json"),
        "normalise": "Normalize" in parts,
        "max_length": limit.get("max_seq_length") or (limit and tokenizer_limit(folder)) or 0,
        "prompts": [list(pair) for pair in named.items() if pair[1]],
        "default_prompt": prompts.get("default_prompt_name") or None,
    }
    if "Dense" in parts:
        found |= dense_of(parts["Dense"] / "config.json")
    return dataclasses.asdict(build(SentenceEmbedding, found, str(folder / MODULES)))


def module_folders(folder: Path) -> dict[str, Path]:
    """The folder of each module, in order, by the name of its class."""
    path, parts = folder / MODULES, {}
    for number, module in enumerate(read_json(path, list)):
        fields = value(dict, module, f"{path}[{number}]")
        kind, inside = (value(str, fields.get(name), f"{path}[{number}].{name}") for name in ("type", "path"))
        kind = kind.rpartition(".")[2]
        if kind in parts:
            raise UserError(f"{path} lists {kind} twice; supported is one of each.")
        if Path(inside).name != inside:
            raise UserError(f"{path} names {shown(inside)}, which is not a folder in it.")
        parts[kind] = folder / inside
    return parts


def pooling_of(path: Path) -> str:
    """The pooling that a config names, by one name or by a flag for each (before version 6)."""
    content = read_json(path)
    flags = [name for name, given in content.items() if name.startswith("pooling_mode_") and given]
    modes = content.get("pooling_mode") or flags
    modes = list(map(str, modes if isinstance(modes, list) else [modes]))
    known = {**{flag: name for name, flag in POOLINGS.items()}, **{name: name for name in POOLINGS}}
    if len(modes) != 1 or modes[0] not in known:
        raise UserError(f"{path}: the pooling is {shown(modes)}; supported is one of: {', '.join(POOLINGS)}.")
    if content.get("include_prompt") is False:
        raise UserError(f"{path}: include_prompt is false; pooling that leaves the prompt out is not supported.")
    return known[modes[0]]


def tokenizer_limit(folder: Path) -> int:
    """The limit that version 6 writes for the tokenizer; 0 for the huge number that means none."""
    most = read_json(folder / "tokenizer_config.json").get("model_max_length", 0)
    return most if isinstance(most, int) and most < 10**6 else 0


def dense_of(path: Path) -> dict[str, Any]:
    content = read_json(path)
    named = value(str, content.get("activation_function", ACTIVATIONS["tanh"]), f"{path}: activation_function")
    known = {theirs.rpartition(".")[2]: ours for ours, theirs in ACTIVATIONS.items()}
    activation = known.get(named.rpartition(".")[2])
    if activation is None:
        raise UserError(f"{path}: the activation is {shown(named)}; supported: {', '.join(known)}.")
    return {"dense_size": content.get("out_features"), "dense_activation": activation}


def dense_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the dense layer, under the names that they have in this package; empty if there is none."""
    if not (folder / MODULES).is_file() or (place := module_folders(folder).get("Dense")) is None:
        return {}
    if not (file := place / "model.safetensors").is_file():
        raise UserError(f"{folder} has no {file.relative_to(folder)}; expected the weights of its dense layer.")
    arrays = stored_arrays(file)
    found = {f"projection.{name.removeprefix('linear.')}": array for name, array in arrays.items()}
    if "projection.weight" in found:  # a layer without bias
        found.setdefault("projection.bias", np.zeros(len(found["projection.weight"]), np.float32))
    return found


# --- writing ---------------------------------------------------------------------------------------------------------


def write_embedding(folder: Path, embedding: SentenceEmbedding, width: int, dense: Mapping[str, Any]) -> None:
    """Writes the files of sentence-transformers for an encoder of this width; `dense` are the kernel and the bias of
    the dense layer, if there is one. The names of classes and fields are those that all its versions read, and
    text-embeddings-inference."""
    kinds = ["Transformer", "Pooling", *["Dense"] * bool(embedding.dense_size), *["Normalize"] * embedding.normalise]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], 1))]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    flags = {flag: name == embedding.pooling for name, flag in POOLINGS.items()}
    write_json(folder / MODULES, listed)
    write_json(folder / paths[1] / "config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True})
    if embedding.dense_size:
        sizes = {"in_features": width, "out_features": embedding.dense_size, "bias": True}
        activation = {"activation_function": ACTIVATIONS[embedding.dense_activation]}
        write_json(folder / paths[2] / "config.json", sizes | activation)
        arrays = {"linear.weight": np.asarray(dense["kernel"]).T, "linear.bias": np.asarray(dense["bias"])}
        save_tensors(arrays, folder / paths[2] / "model.safetensors")
    if embedding.max_length:
        write_json(folder / LIMIT, {"max_seq_length": embedding.max_length, "do_lower_case": False})
    named = {"prompts": dict(embedding.prompts), "default_prompt_name": embedding.default_prompt}
    write_json(folder / PROMPTS, {**named, "similarity_fn_name": "cosine"})


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
