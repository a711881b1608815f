"""How small a model's files are with low bits and zeros, and what unpacking them costs when they are loaded.

    python -m tests.benchmarks.small_files MODEL --data=dev.tsv --out=FOLDER [--sizes_only] [--sample=64]

MODEL is a classifier in floating point. Each row gets its format without training, so sizes and times are those of the
formats and scores mean nothing: for scores see configs/qbert_sst2.py and configs/movement.py, whose files have the same
bytes at the same bits and zeros. Zeros are those of the smallest weights of the encoder. Every row is exported, which
compares it with JAX, and runs on one thread in a process of its own: milliseconds for a text, time from the start of
the process to the first answer, and its peak memory.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import bertjax
from bertjax.export import export
from bertjax.measure.cold_start import measure_edge
from bertjax.measure.onnx import existing_file, read_graph
from bertjax.measure.processes import Candidate
from bertjax.model.huggingface import read_tensors
from bertjax.params import count, flatten, map_with_path, select
from bertjax.prune.masks import apply_masks, magnitude_masks
from bertjax.quantize import quantise_weights
from bertjax.quantized.formats import INT8, TABLE, Format, full_int8
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task

TABLES = (r"^embeddings/.*embedding$", TABLE)
WORDS = (r"^embeddings/word/embedding$", Format(4, "asymmetric", block_rows=1, block_cols=None))
POOLER = (r"^pooler/kernel$", Format())
LOWER = (r"^encoder/layer_[0-3]/.*kernel$", Format(3, "asymmetric", block_cols=6))
UPPER = (r"^encoder/.*kernel$", Format(2, "asymmetric", block_cols=6))
LAYERS = (r"^encoder/.*kernel$", Format(8))
ROWS: dict[str, tuple[float, Any]] = {
    "float32": (1.0, None),
    "int8": (1.0, full_int8(INT8)),
    "2 and 3 bits, tables 8": (1.0, (TABLES, POOLER, LOWER, UPPER)),
    "2 and 3 bits, words 4": (1.0, (WORDS, TABLES, POOLER, LOWER, UPPER)),
    "10 % kept, float": (0.1, None),
    "10 % kept, int8": (0.1, (TABLES, POOLER, LAYERS)),
    "10 % kept, 4 bits": (0.1, (WORDS, TABLES, POOLER, (r"^encoder/.*kernel$", Format(4)))),
    "3 % kept, int8": (0.03, (TABLES, POOLER, LAYERS)),
}
"""The share of the encoder's weights that is kept, and the formats."""


def made(model: bertjax.Bundle, kept: float, rules: Any, folder: Path) -> Path:
    """The folder of a row's bundle."""
    if kept < 1:
        masks = magnitude_masks(model.params, "^encoder/.*kernel$", 1 - kept, "global")
        zeros = map_with_path(lambda _, leaf: np.asarray(leaf), apply_masks(model.params, masks))
        model = dataclasses.replace(model, params=zeros)
    if rules:
        config, params = quantise_weights(model.config, model.params, rules)
        model = dataclasses.replace(model, config=config, params=params)
    bertjax.save(model, folder, without_zeros=kept < 1)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes_only", action="store_true")
    parser.add_argument("--sample", type=int, default=64)
    given = parser.parse_args()
    model, candidates = bertjax.load(given.model), {}
    dense = 4 * count(select("^encoder/", model.params))
    print(f"{count(model.params):,} parameters, {len(flatten(model.params))} arrays; the encoder has {dense:,} bytes")
    for name, (kept, rules) in ROWS.items():
        bundle = made(model, kept, rules, given.out / name.replace(" ", "-").replace("%", "percent"))
        exported = bundle.with_name(f"{bundle.name}-onnx")
        difference = export(bundle, "onnx", exported)
        tensors = read_tensors(bundle)
        encoder = sum(array.nbytes for key, array in tensors.items() if ".encoder." in key)
        stored, file = (bundle / "model.safetensors").stat().st_size, existing_file(exported).stat().st_size
        products = {kind: n for kind, n in read_graph(exported).executed.items() if "MatMul" in kind or "Gemm" in kind}
        print(
            f"{name:<24} encoder {encoder:,} ({dense / encoder:4.1f}x smaller), bundle {stored:,}, ONNX {file:,} "
            f"({file / stored - 1:+.1%}), difference {difference:.1g}, runs {products}",
            flush=True,
        )
        candidates[name] = Candidate("onnxruntime", exported)
    if given.sizes_only:
        return
    texts = load_examples(given.data, infer_task(given.data, Task()), "test", labelled=False).texts
    for name, edge in measure_edge(candidates, texts, max_length=64, sample=given.sample).items():
        print(
            f"{name:<24} {edge.latency_ms.p50:7.2f} ms   first answer after {edge.cold_start_ms:6.0f} ms   "
            f"{edge.peak_resident_bytes / 1e6:6.0f} MB"
        )


if __name__ == "__main__":
    main()
