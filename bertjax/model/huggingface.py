"""Reads and writes Hugging Face folders, without torch.

`config.json` and safetensors files become a `BertConfig` and a parameter tree, and back, bit for bit: the content of
the config is in hf_config.py, the names of parameters in hf_names.py. Pickles are rejected, because loading one runs
arbitrary code.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.model.config import (
    PREFIXES,
    BertConfig,
)
from bertjax.model.hf_config import EMBEDDING, config_text, is_stock, stock_architecture
from bertjax.model.hf_names import REDUNDANT, encoder_prefix, torch_name, transposed_kernel
from bertjax.model.sentence import SUFFIX, dense_tensors, read_embedding, write_embedding
from bertjax.params import Tree, flatten, unflatten
from bertjax.quantized.stored import from_parts, matrix_parts, parts_named
from bertjax.quantized.tensor import Quantized
from bertjax.storage.tensors import count_arrays, save_tensors, stored_arrays
from bertjax.storage.typed_json import read_json


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
