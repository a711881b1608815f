"""What a model folder holds, read without running it: its runtime, its classes, its bytes, its weights, its claims."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.onnx import onnx_file, origin_of, read_arrays
from bertjax.measure.report import HONEST
from bertjax.text.tokenizer_files import read_json
from bertjax.verify.measured import Claim, Weights

REPORTS = ("report.json", "report.md", "report.png", "README.md")
"""About a model, and no part of it."""


def runtime_of(folder: Path) -> str:
    """ "onnx" for a folder with an ONNX file, "jax" for a bundle."""
    if onnx_file(folder) is not None:
        return "onnx"
    if any(folder.glob("*.safetensors")):
        return "jax"
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise UserError(f"{folder}: expected onnx/model.onnx or a bundle (model.safetensors); found: {there}.")


def config_of(folder: Path) -> dict[str, Any]:
    """`config.json`, with what it says under our own key beside the rest."""
    content = read_json(folder / "config.json")
    return content | content.get("bertjax", {})


def classes_of(folder: Path) -> dict[int, str]:
    """The name of each output."""
    names = config_of(folder).get("id2label")
    if not names:
        raise UserError(f"{folder}/config.json names no classes (id2label), so its answers cannot be read.")
    return {int(number): str(name) for number, name in names.items()}


def shipped_bytes(folder: Path) -> int:
    """Of all files, but of reports."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in REPORTS)
    return sum(file.stat().st_size for file in files)


def weights_of(folder: Path) -> Weights:
    """What the arrays of the model take and hold."""
    arrays = read_arrays(folder) if runtime_of(folder) == "onnx" else _stored(folder)
    total = sum(array.nbytes for array in arrays.values())
    wide = [array for array in arrays.values() if array.ndim > 1]
    countable = [array for array in wide if array.dtype.kind == "f" or array.dtype == np.int8]
    zeros = sum(array.size - np.count_nonzero(array) for array in countable)
    return Weights(
        total,
        tuple(sorted(tuple(sorted(array.shape)) for array in wide)),
        zeros / max(sum(array.size for array in countable), 1),
        _makeup(arrays, total),
    )


def _makeup(arrays: Mapping[str, np.ndarray], total: int) -> str:
    types: Counter[str] = Counter()
    for array in arrays.values():
        types[str(array.dtype)] += array.nbytes
    shares = ", ".join(
        f"{size / max(total, 1):.0%} {name}" for name, size in types.most_common() if size > 0.01 * total
    )
    name, largest = max(arrays.items(), key=lambda item: item[1].nbytes)
    return f"{shares}; the largest array is {name} ({list(largest.shape)}, {largest.nbytes / max(total, 1):.0%})"


def _stored(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in load_file(file).items()}


def claims_of(folder: Path, old: Path, metric: str) -> tuple[Claim, ...]:
    """What the folder's own `report.json` and model card say of score, speed-up over `old`, and bytes."""
    return (*_of_report(folder, old, metric), *_of_card(folder, metric))


def _of_report(folder: Path, old: Path, metric: str) -> Iterator[Claim]:
    path = folder / "report.json"
    if not path.is_file():
        return
    content = read_json(path)
    row, baseline = _rows(content, folder) if "rows" in content else (content, None)
    name = path.name
    if content.get("metric", metric) == metric and (score := _first(row, "score", metric)) is not None:
        interval = row.get("score_ci95")
        yield Claim(name, "score", _fraction(score), interval and (_fraction(interval[0]), _fraction(interval[1])))
    if (size := _first(row, "size_bytes", "bytes")) is not None:
        yield Claim(name, "bytes", size)
    if (speed_up := _first(row, "speed_up", "speedup")) is not None:
        yield Claim(name, "speed-up", speed_up)
    elif baseline and _is_same(path.parent, baseline.get("bundle"), old):
        before, after = (one.get("latency_ms") for one in (_beside(content["rows"], row, baseline), row))
        if before and after:
            yield Claim(name, "speed-up", before["batch_1"]["p50"] / after["batch_1"]["p50"])


def _rows(content: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The row of this folder in a report of several models (empty if it is not sure which), and the baseline's."""
    rows, baseline = content["rows"], content.get("baseline")
    mine = [row for row in rows if _is_same(folder, row.get("bundle"), folder)]
    exactly = [row for row in mine if (folder / row["bundle"]).resolve() == folder.resolve()]
    others = [row for row in rows if row["name"] not in (baseline, *HONEST)]
    chosen = exactly or mine or (others if len(others) == 1 else [{}])
    return chosen[0], next((row for row in rows if row["name"] == baseline), None)


def _beside(rows: Sequence[dict[str, Any]], row: Mapping[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """The baseline in the runtime of a row, as `Report.against` has it."""
    if row.get("exported_from") is None:
        return baseline
    return next((one for one in rows if one.get("exported_from") == baseline["bundle"]), baseline)


def _is_same(folder: Path, named: str | None, model: Path) -> bool:
    """Whether a path that a report in `folder` names is the model or the bundle it was exported from."""
    return named is not None and (folder / named).resolve() in (model.resolve(), origin_of(model))


def _of_card(folder: Path, metric: str) -> Iterator[Claim]:
    """The result that the hub reads, rounded to four digits as `write_card` does it."""
    path = folder / "README.md"
    if not path.is_file() or not path.read_text(encoding="utf-8").startswith("---"):
        return
    from huggingface_hub import ModelCard

    from bertjax.measure.card import METRIC_TYPES

    data: Any = ModelCard.load(path).data
    for result in data.eval_results or ():
        if result.metric_type == METRIC_TYPES.get(metric, metric):
            value = _fraction(float(result.metric_value))
            yield Claim(path.name, "score", value, (value - 5e-5, value + 5e-5))


def _first(row: Mapping[str, Any], *names: str) -> float | None:
    return next((float(row[name]) for name in names if isinstance(row.get(name), int | float)), None)


def _fraction(score: float) -> float:
    """A score above 1 was meant as a percentage."""
    return score / 100 if abs(score) > 1 else score
