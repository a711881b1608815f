"""An exported folder: the model file, `config.json` with the names of the classes, and the tokenizer's files.

It is written beside its destination, opened again in its own runtime, held against JAX, and takes its place only then:
an export that computes something else is an error and not a file.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bertjax import manifest
from bertjax.bundle import Bundle, is_empty_folder, load, resolve
from bertjax.errors import UserError
from bertjax.export.litert import answer_each, litert_model
from bertjax.export.onnx import onnx_model
from bertjax.export.stablehlo import program_and_weights
from bertjax.export.twin import stock_twin
from bertjax.measure.onnx import answer, open_session
from bertjax.model.huggingface import config_to_json, write_model
from bertjax.paths import at, is_remote, relative, replaced
from bertjax.predict import forward
from bertjax.processor import thread_count

Target = Literal["onnx", "stablehlo", "huggingface", "litert"]
FILES = {
    "onnx": "model.onnx",
    "stablehlo": "model.stablehlo",
    "huggingface": "model.safetensors",
    "litert": "model.tflite",
}
EXPORTED = tuple(name for target, name in FILES.items() if target != "huggingface")
"""Files that no bundle has."""
SHAPES = ((1, 7), (8, 33), (8, 64))
CLOSE, ROUNDED = 1e-4, 0.05
"""How far an export may be from JAX, as a share of the size of the outputs: sums in another order; and, where inputs of
products are rounded, numbers that lie between two integers and fall to another side."""


def export(model: str | os.PathLike[str], to: Target, out: str | os.PathLike[str], dequantise: bool = False) -> float:
    """Writes a bundle as a folder for another runtime; returns how far its outputs are from those in JAX, see
    `farthest`. `dequantise` is about integers in a folder for plain transformers, see `stock_twin`.

    Raises:
      UserError: The model cannot be expressed, the folder cannot be written, or what was written computes something
        else.
    """
    if to not in FILES:
        raise UserError(f"--to {to}: expected one of {', '.join(FILES)}.")
    bundle, target = load(model), at(out) if is_remote(out) else Path(out).resolve()
    if bundle.fresh:
        raise UserError(f"{model} has no trained head ({', '.join(bundle.fresh[:3])}); fine-tune it first.")
    if bundle.config.exits is not None and bundle.config.exits.leaving is not None:
        raise UserError(
            f"{model} lets each text leave at an exit of its own, which no exported program can decide; export the "
            "model that was given to bertjax calibrate, whose answers are those of the last layer."
        )
    if (
        target.exists()
        and not is_empty_folder(target)
        and not any((target / name).is_file() for name in (FILES[to], *EXPORTED))
    ):
        raise UserError(f"{target} exists and is no exported folder, so it is not replaced; choose another name.")
    origin = at(model) if is_remote(model) else resolve(model).resolve()
    if target == origin:
        raise UserError(f"--out {out} is the model itself; choose another folder.")
    try:
        with replaced(target) as folder:
            write(bundle, to, folder, dequantise)
            if to != "huggingface":  # whose config is the twin's
                (folder / "config.json").write_text(json.dumps(config_to_json(bundle.config)))
                write_origin(folder, relative(origin, target))
            if bundle.tokenizer is not None:
                bundle.tokenizer.save(folder)
            manifest.write(folder)
            distance = farthest(bundle, to, folder)
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error.strerror or error}. Free space or choose another folder."
        ) from error
    return distance


def write_origin(folder: Path, bundle: str) -> None:
    """Says in `config.json` from which bundle an exported folder comes, by its path from where the folder will stand:
    there the gate and reports look for it."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["bertjax"] = content.get("bertjax", {}) | {"bundle": bundle}
    manifest.put_text(folder, "config.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write(bundle: Bundle, to: Target, folder: Path, dequantise: bool) -> None:
    """The model file, and the weights where they are not in it."""
    if to == "huggingface":
        write_model(folder, *stock_twin(bundle.config, bundle.params, dequantise))
        return
    if to == "onnx":
        model = onnx_model(bundle.config, bundle.params)
        (folder / FILES[to]).write_bytes(model.SerializeToString())
        return
    if to == "litert":
        (folder / FILES[to]).write_bytes(litert_model(bundle.model, bundle.params))
        return
    from safetensors.numpy import save_file

    program, weights = program_and_weights(bundle.model, bundle.params)
    (folder / FILES[to]).write_bytes(program)
    save_file(weights, folder / "model.safetensors")


def farthest(bundle: Bundle, to: Target, folder: Path) -> float:
    """The largest difference to JAX over batches of several shapes with padding, as a share of the outputs' size; where
    inputs are rounded, that of the median text."""
    run, found = open_export(to, folder), []
    rounds = bundle.config.quantization is not None and bool(bundle.config.quantization.activations)
    limit = ROUNDED if rounds else CLOSE
    for number, (rows, length) in enumerate(SHAPES):
        inputs = sample(bundle.config, rows, min(length, bundle.config.max_position_embeddings), number)
        expected, given = expected_output(bundle, inputs), run(*inputs)
        real = inputs[1][..., None] if expected.ndim == 3 else np.ones_like(expected)
        size = np.sqrt(np.mean(np.square(expected)))
        difference = np.abs(given - expected) * real / size
        found += difference.reshape(len(difference), -1).max(axis=1).tolist()
    # Where inputs are rounded, one that falls to the other side changes all that follows in its text, so it is the bulk
    # of the texts that is looked at: what was written down wrongly is wrong for all.
    worst = float(np.median(found)) if rounds else max(found)
    if not worst <= limit:
        raise UserError(
            f"the export differs from JAX by {worst:.2g} of its outputs' size, which is more than {limit}; nothing was "
            "written. This is a defect: please report it with the model's config.json."
        )
    return worst


def sample(config: Any, rows: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, mask and types of random pieces; all rows but the first end in padding."""
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(0, config.vocab_size, (rows, length)), np.ones((rows, length))
    for row in range(1, rows):
        mask[row, length - row * length // (rows + 1) :] = 0
    types = rng.integers(0, max(config.type_vocab_size, 1), (rows, length))
    return ids.astype(np.int32), mask.astype(np.int32), types.astype(np.int32)


def expected_output(bundle: Bundle, inputs: tuple[Any, ...]) -> np.ndarray:
    """What JAX computes: the logits, or the hidden states of a model without a head."""
    if bundle.config.architecture.endswith("Model"):
        return np.asarray(bundle.model.apply({"params": bundle.params}, *inputs).hidden_states[-1])  # type: ignore[union-attr]
    return np.asarray(forward(bundle.model, bundle.device_params, *inputs))


def open_export(to: Target, folder: Path) -> Any:
    """`(ids, mask, types) -> the same output` of the written folder, in its own runtime."""
    if to == "huggingface":
        twin = load(folder)
        return lambda *inputs: expected_output(twin, inputs)
    if to == "litert":
        return partial(answer_each, folder / FILES[to])
    if to == "stablehlo":
        import jax
        from jax import export as jax_export
        from safetensors.numpy import load_file

        program = jax_export.deserialize(bytearray((folder / FILES[to]).read_bytes()))
        stored = load_file(folder / "model.safetensors")
        weights = [stored[name] for name in sorted(stored)]
        return lambda *inputs: np.asarray(jax.jit(program.call)(weights, *inputs))
    session = open_session(folder, threads=thread_count())
    return lambda *inputs: answer(session, *inputs)
