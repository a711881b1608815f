"""An exported folder: the model file, `config.json` with the names of the classes, and the tokenizer's files.

It is written beside its destination, opened again in its own runtime, held against JAX, and takes its place only then:
an export that computes something else is an error and not a file.
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
from bertjax.export.stablehlo import program_and_weights
from bertjax.measure.onnx import FLOATS, INTEGERS, onnx_file
from bertjax.model.config import BertConfig
from bertjax.model.huggingface import config_to_json, write_model
from bertjax.storage import manifest
from bertjax.storage.paths import as_path, atomic_folder, is_remote, relative
from bertjax.storage.tensors import save_tensors

EXPORTED: tuple[Target, ...] = ("onnx", "stablehlo", "litert")
"""Whose files no bundle has."""


def export(
    model: str | os.PathLike[str],
    to: Target,
    out: str | os.PathLike[str],
    dequantise: bool = False,
    weights: Bytes = "int8",
) -> float:
    """Writes a bundle as a folder for another runtime; returns how far its outputs are from those in JAX, see
    `check.farthest`. `dequantise` is about integers in a folder for plain transformers, see `hf_equivalent`; `weights`
    about kernels of 8 bits in an ONNX file, see bertjax/export/onnx.py.

    Raises:
      UserError: The model cannot be expressed, the folder cannot be written, or what was written computes something
        else.
    """
    if to not in get_args(Target):
        raise UserError(f"--to {to}: expected one of {', '.join(get_args(Target))}.")
    bundle, target = load(model), as_path(out) if is_remote(out) else Path(out).resolve()
    if bundle.newly_initialized:
        raise UserError(f"{model} has no trained head ({', '.join(bundle.newly_initialized[:3])}); fine-tune it first.")
    if bundle.config.exits is not None and bundle.config.exits.exit_rule is not None:
        raise UserError(
            f"{model} lets each text leave at an exit of its own, which no exported program can decide; export the "
            "model that was given to bertjax calibrate, whose answers are those of the last layer."
        )
    if (
        target.exists()
        and not is_empty_folder(target)
        and not any(exported_file(one, target) for one in (to, *EXPORTED))
    ):
        raise UserError(f"{target} exists and is no exported folder, so it is not replaced; choose another name.")
    origin = as_path(model) if is_remote(model) else resolve(model).resolve()
    if target == origin:
        raise UserError(f"--out {out} is the model itself; choose another folder.")
    with atomic_folder(target) as folder:
        write_export(bundle, to, folder, dequantise, weights)
        if to != "huggingface":  # whose config is the twin's
            (folder / "config.json").write_text(json.dumps(export_config(bundle.config, to, folder)))
            write_origin(folder, relative(origin, target))
        if bundle.tokenizer is not None:
            bundle.tokenizer.save(folder)
            limit_tokenizer(folder, bundle.config.max_position_embeddings)
        manifest.write(folder, made_from=manifest.fingerprint(resolve(model)))
        distance = check_export(bundle, to, folder)
    return distance


def exported_file(to: Target, folder: Any) -> Any:
    """The file in a folder that an export made it for; None where there is none."""
    if to == "onnx":
        return onnx_file(folder)
    return folder / FILES[to] if (folder / FILES[to]).is_file() else None


def export_config(config: BertConfig, to: Target, folder: Path) -> dict[str, Any]:
    """The content of `config.json` beside a file. One that is whole in itself is of its family for every client,
    whatever its layers and numbers are: it has no weights that stock code would read as others. transformers.js is told
    which of its files there is, for it guesses by where it runs."""
    content = config_to_json(config)
    if to in ("onnx", "litert"):
        content["model_type"] = config.model_type
    if to == "onnx":
        content["transformers.js_config"] = {"dtype": "q8" if onnx_file(folder) == folder / INTEGERS else "fp32"}
    return content


def limit_tokenizer(folder: Path, positions: int) -> None:
    """Says how much the model reads where the tokenizer says nothing or more: other clients cut a text by this."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model_max_length"] = min(content.get("model_max_length", positions), positions)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_origin(folder: Path, bundle: str) -> None:
    """Says in `config.json` from which bundle an exported folder comes, by its path from where the folder will stand:
    there the gate and reports look for it."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["bertjax"] = content.get("bertjax", {}) | {"bundle": bundle}
    manifest.put_text(folder, "config.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_export(bundle: Bundle, to: Target, folder: Path, dequantise: bool, weights: Bytes) -> None:
    """The model file, and the weights where they are not in it."""
    if to == "huggingface":
        write_model(folder, *hf_equivalent(bundle.config, bundle.params, dequantise))
        return
    if to == "onnx":
        model = onnx_model(bundle.config, bundle.params, weights)
        file = folder / (INTEGERS if has_integers(model) else FLOATS)
        file.parent.mkdir()
        file.write_bytes(model.SerializeToString())
        return
    if to == "litert":
        (folder / FILES[to]).write_bytes(litert_model(bundle.model, bundle.params))
        return
    program, arrays = program_and_weights(bundle.model, bundle.params)
    (folder / FILES[to]).write_bytes(program)
    save_tensors(arrays, folder / "model.safetensors")
