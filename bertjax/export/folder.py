"""The exported folder: the model file, `config.json` with the class names, and the tokenizer's files.

It is written to a temporary folder, opened again in its own runtime and compared with JAX. Only then is it moved to its
destination, so an export with different outputs is an error and leaves no file.
"""

import json
import os
from pathlib import Path
from typing import Any, get_args

from bertjax.bundle import Bundle, is_empty_folder, load, resolve
from bertjax.errors import UserError
from bertjax.export.check import FILES, Target, check_export
from bertjax.export.hf_equivalent import hf_equivalent
from bertjax.export.litert import litert_model
from bertjax.export.onnx import Bytes, has_integers, onnx_model
from bertjax.export.requirements import requirements
from bertjax.export.stablehlo import program_and_weights
from bertjax.measure.onnx import FLOATS, INTEGERS, onnx_file
from bertjax.model.config import BertConfig
from bertjax.model.hf_config import config_to_json, stock_architecture
from bertjax.model.huggingface import write_model
from bertjax.model.sentence import write_embedding
from bertjax.quantized.tensor import dequantised
from bertjax.storage import manifest
from bertjax.storage.paths import as_path, atomic_folder, is_remote, relative
from bertjax.storage.tensors import save_tensors

EXPORTED: tuple[Target, ...] = ("onnx", "stablehlo", "litert")
"""Targets whose model file never occurs in a bundle."""


def export(
    model: str | os.PathLike[str],
    to: Target,
    out: str | os.PathLike[str],
    dequantise: bool = False,
    weights: Bytes = "int8",
) -> float:
    """Writes a bundle as a folder for another runtime. Returns how far its outputs are from those in JAX, see
    `check.farthest`.

    Args:
      dequantise: For "huggingface": allow floating-point weights for a quantised model, see `hf_equivalent`.
      weights: Type of 8-bit kernels in an ONNX file, see bertjax/export/onnx.py.

    Raises:
      UserError: The model cannot be expressed, the folder cannot be written, or the export computes something else than
        the bundle.
    """
    if to not in get_args(Target):
        raise UserError(f"--to {to}: expected one of {', '.join(get_args(Target))}.")
    bundle, target = load(model), as_path(out) if is_remote(out) else Path(out).resolve()
    if bundle.newly_initialized:
        raise UserError(f"{model} has no trained head ({', '.join(bundle.newly_initialized[:3])}); fine-tune it first.")
    if bundle.config.exits and bundle.config.exits.exit_rule and to in ("huggingface", "litert"):
        raise UserError(
            f"{model} exits early, at a layer that depends on the example, which --to {to} cannot express; use --to "
            "onnx or stablehlo, or export the model that bertjax calibrate was run on: it always computes all layers."
        )
    if bundle.config.retention is not None and to == "litert":
        raise UserError(
            f"{model} drops tokens, and how many depends on the length of the text, which a {to} program cannot "
            "express; use --to onnx or stablehlo."
        )
    if (
        target.exists()
        and not is_empty_folder(target)
        and not any(exported_file(one, target) for one in (to, *EXPORTED))
    ):
        raise UserError(f"{target} exists and is not an exported folder, so it is not replaced; choose another --out.")
    origin = as_path(model) if is_remote(model) else resolve(model).resolve()
    if target == origin:
        raise UserError(f"--out {out} is the model itself; choose another folder.")
    with atomic_folder(target) as folder:
        write_export(bundle, to, folder, dequantise, weights)
        if to != "huggingface":  # its config is that of the stock model
            (folder / "config.json").write_text(json.dumps(export_config(bundle.config, to, folder)))
            write_origin(folder, relative(origin, target))
        if bundle.tokenizer is not None:
            bundle.tokenizer.save(folder)
            limit_tokenizer(folder, bundle.config.max_tokens)
        manifest.write(folder, made_from=manifest.fingerprint(resolve(model)))
        distance = check_export(bundle, to, folder)
    return distance


def exported_file(to: Target, folder: Any) -> Any:
    """The model file of an exported folder; None if there is none."""
    if to == "onnx":
        return onnx_file(folder)
    return folder / FILES[to] if (folder / FILES[to]).is_file() else None


def export_config(config: BertConfig, to: Target, folder: Path) -> dict[str, Any]:
    """The content of `config.json` for an export.

    An ONNX or LiteRT file is complete in itself, so its config names the plain model family for every client, whatever
    the layers look like: the folder has no weights that stock code would misread. transformers.js is told which ONNX
    file exists; otherwise it chooses one by the device it runs on. What the file needs of a runtime is under `bertjax`.
    """
    content = config_to_json(config)
    if to in ("onnx", "litert"):
        content |= {"model_type": config.model_type, "architectures": [stock_architecture(config)]}
    if to == "onnx":
        content["bertjax"] = content.get("bertjax", {}) | {"onnx": requirements(config)}
        content["transformers.js_config"] = {"dtype": "q8" if onnx_file(folder) == folder / INTEGERS else "fp32"}
    return content


def limit_tokenizer(folder: Path, positions: int) -> None:
    """Sets the tokenizer's `model_max_length` to at most the model's positions. Other clients truncate texts by it."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model_max_length"] = min(content.get("model_max_length", positions), positions)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_origin(folder: Path, bundle: str) -> None:
    """Writes into `config.json` which bundle the export was made from, as a path relative to the exported folder.
    `bertjax.verify` and reports read it."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["bertjax"] = content.get("bertjax", {}) | {"bundle": bundle}
    manifest.put_text(folder, "config.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_export(bundle: Bundle, to: Target, folder: Path, dequantise: bool, weights: Bytes) -> None:
    """Writes the model file, and a weights file if they are separate."""
    if to == "huggingface":
        write_model(folder, *hf_equivalent(bundle.config, bundle.params, dequantise))
        return
    if to == "onnx":
        model = onnx_model(bundle.config, bundle.params, weights)
        file = folder / (INTEGERS if has_integers(model) else FLOATS)
        file.parent.mkdir()
        file.write_bytes(model.SerializeToString())
        if bundle.config.embedding:
            projection = dequantised(bundle.params).get("projection", {})
            write_embedding(folder, bundle.config.embedding, bundle.config.hidden_size, projection)
        return
    if to == "litert":
        (folder / FILES[to]).write_bytes(litert_model(bundle.model, bundle.params))
        return
    program, arrays = program_and_weights(bundle.model, bundle.params)
    (folder / FILES[to]).write_bytes(program)
    save_tensors(arrays, folder / "model.safetensors")
