"""What a model folder holds, read without running it: runtime, classes, size, weights and claims."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bertjax.errors import UserError
from bertjax.measure.onnx import described, onnx_file, read_arrays
from bertjax.model.config import labels_by_id
from bertjax.report.models import BASELINES
from bertjax.storage.tensors import stored_arrays
from bertjax.storage.typed_json import Within, read_json, value
from bertjax.verify.measured import Claim, Weights

REPORT_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("name", "bundle", "exported_from", "metric", "baseline"), str | None),
    **dict.fromkeys(("score", "size_bytes", "bytes", "speed_up", "speedup"), float | None),
    "score_ci95": tuple[float, float] | None,
    "latency_ms": dict | None,
    "rows": list | None,
}
"""The fields that are read from a report, and their types."""


def runtime_of(folder: Path) -> str:
    """What runs a folder: a runtime of ONNX files ("onnx") if it has such a file, "jax" for a bundle."""
    if onnx_file(folder) is not None:
        return "onnx"
    if any(folder.glob("*.safetensors")):
        return "jax"
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise UserError(f"{folder}: expected onnx/model.onnx or a bundle (model.safetensors); found: {there}.")


def config_of(folder: Path) -> dict[str, Any]:
    """`config.json`, merged with the content of its key `bertjax`."""
    content, ours = described(folder)
    return content | ours


def classes_of(folder: Path) -> dict[int, str]:
    """The name of each output."""
    names = config_of(folder).get("id2label")
    if names is None:
        raise UserError(
            f"{folder}/config.json has no class names (id2label), so its predictions cannot be compared with labels."
        )
    try:
        return dict(enumerate(labels_by_id(names)))
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from None


def shipped_bytes(folder: Path) -> int:
    """The size of all files, reports and card included, because a file's name does not tell what it holds."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_files(folder: Path) -> None:
    """Refuses a folder that holds anything but folders and files inside it, before any of it is opened.

    Raises:
      UserError: A link leads out of the folder; or there is a pipe, a device or the like.
    """
    top = os.path.realpath(folder)
    for path in folder.rglob("*"):
        place = os.path.realpath(path)
        if path.is_symlink() and not place.startswith(top + os.sep):
            raise UserError(
                f"{path} is a link to {place}, which is outside the folder. A folder must ship with all its files.\n"
                f"Copy it together with the files that it links to:  cp -rL {shlex.quote(str(folder))} COPY"
            )
        if not os.path.isfile(place) and not os.path.isdir(place):
            raise UserError(f"{path} is neither a file nor a folder; remove it from the folder that ships.")


def named_bundle(folder: Path) -> tuple[Path | None, str]:
    """The bundle that a folder names as its origin, or None; and, if the named one may not be used, a sentence with the
    reason.

    The folder is not trusted. It can only name a bundle on this machine, by a path relative to itself. Nothing is
    downloaded, no link is followed, and a folder that names itself is not compared with itself.
    """
    own = read_json(folder / "config.json").get("bertjax")
    named = own.get("bundle") if isinstance(own, dict) else None
    if not named:
        return None, ""
    place = os.path.normpath(os.path.join(os.path.realpath(folder), str(named)))
    if not isinstance(named, str) or "://" in named or "\0" in named or os.path.isabs(named):
        why = "is not a relative path on this machine"
    elif place == os.path.realpath(folder):
        why = "is that folder itself"
    elif not os.path.isdir(place):
        why = "does not exist"
    elif os.path.realpath(place) != place:
        why = "is reached through a link"
    else:
        why = not_a_bundle(Path(place), check_files)
    if not why:
        return Path(place), ""
    return None, f"{folder}/config.json names {str(named)[:200]!r} as the bundle it was exported from, which {why}"


def not_a_bundle(folder: Path, check: Callable[[Path], None] = lambda folder: None) -> str:
    """Why a folder cannot be run in JAX or does not pass `check`; empty if it can."""
    try:
        check(folder)
        return "" if runtime_of(folder) == "jax" else "is not a bundle, but a folder with an ONNX file"
    except UserError as mistake:
        return f"is not a bundle ({str(mistake).splitlines()[0]})"


def given_bundle(bundle: Path, new: Path) -> Path:
    """The bundle given as `--parity`, after a check that NEW can be compared with it.

    Raises:
      UserError: It is NEW, or not a bundle.
    """
    why = "is NEW itself" if os.path.realpath(bundle) == os.path.realpath(new) else not_a_bundle(bundle)
    if why:
        raise UserError(f"--parity={bundle} {why}. Expected the bundle that NEW was exported from.")
    return bundle


def weights_of(folder: Path) -> Weights:
    """Size, shapes, zeros and dtypes of the model's arrays."""
    arrays = read_arrays(folder) if runtime_of(folder) == "onnx" else _stored_arrays(folder)
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


def _stored_arrays(folder: Path) -> dict[str, np.ndarray]:
    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in stored_arrays(file).items()}


def claims_of(folder: Path, old: Path, metric: str) -> tuple[Claim, ...]:
    """The score, the speed-up over `old`, and the size that the folder's own `report.json` and model card claim."""
    return (*_of_report(folder, old, metric), *_of_card(folder, metric))


def _of_report(folder: Path, old: Path, metric: str) -> Iterator[Claim]:
    path = folder / "report.json"
    if not path.is_file():
        return
    content = _typed_row(read_json(path), metric, str(path))
    rows = [_typed_row(row, metric, f"{path}: rows[{number}]") for number, row in enumerate(content.get("rows") or ())]
    row, baseline = _rows_of_folder(rows, content.get("baseline"), folder) if "rows" in content else (content, None)
    name = path.name
    if (content.get("metric") or metric) == metric and (score := _first(row, "score", metric)) is not None:
        interval = row.get("score_ci95")
        yield Claim(name, "score", _fraction(score), interval and (_fraction(interval[0]), _fraction(interval[1])))
    if (size := _first(row, "size_bytes", "bytes")) is not None:
        yield Claim(name, "bytes", size)
    if (speed_up := _first(row, "speed_up", "speedup")) is not None:
        yield Claim(name, "speed-up", speed_up)
    elif baseline and _is_same(path.parent, baseline.get("bundle"), old):
        before, after = (one.get("latency_ms") for one in (_baseline_of(rows, row, baseline), row))
        if before and after:
            yield Claim(name, "speed-up", _median(before, path) / _median(after, path))


def _typed_row(row: Any, metric: str, where: str) -> dict[str, Any]:
    """A report or one of its rows, after a check of the types of the fields that are read."""
    kinds = REPORT_FIELDS | {metric: float | None}
    given = value(dict, row, where)
    return given | {name: value(kind, given[name], f"{where}: {name}") for name, kind in kinds.items() if name in given}


def _median(latency: dict[str, Any], path: Path) -> float:
    """The median milliseconds for one text at a time."""
    both = value(dict, latency.get("batch_1"), f"{path}: latency_ms.batch_1")
    return value(Annotated[float, Within(1e-6)], both.get("p50"), f"{path}: latency_ms.batch_1.p50")


def _rows_of_folder(
    rows: list[dict[str, Any]], baseline: Any, folder: Path
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The row of this folder in a report of several models (empty if it is ambiguous), and the baseline's row."""
    mine = [row for row in rows if _is_same(folder, row.get("bundle"), folder)]
    exactly = [row for row in mine if (folder / row["bundle"]).resolve() == folder.resolve()]
    others = [row for row in rows if row.get("name") not in (baseline, *BASELINES)]
    chosen = exactly or mine or (others if len(others) == 1 else [{}])
    return chosen[0], next((row for row in rows if row.get("name") == baseline is not None), None)


def _baseline_of(rows: Sequence[dict[str, Any]], row: Mapping[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """The baseline in the same runtime as a row, as `Report.against` chooses it."""
    if row.get("exported_from") is None:
        return baseline
    return next((one for one in rows if one.get("exported_from") == baseline.get("bundle")), baseline)


def _is_same(folder: Path, named: str | None, model: Path) -> bool:
    """Whether a path in a report in `folder` is the model or the bundle that it was exported from."""
    return (
        named is not None
        and "\0" not in named
        and (folder / named).resolve() in (model.resolve(), named_bundle(model)[0])
    )


def _of_card(folder: Path, metric: str) -> Iterator[Claim]:
    """The result in the model card that the Hugging Face hub reads, rounded to four digits as `write_card` does."""
    path = folder / "README.md"
    if not path.is_file() or not path.read_bytes().startswith(b"---"):
        return
    from huggingface_hub import ModelCard

    from bertjax.report.card import METRIC_TYPES

    try:
        data: Any = ModelCard.load(path).data
    except Exception as error:  # YAML raises many classes, and the card its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the front matter is not that of a model card ({reason}); correct or remove the file"
        ) from None
    for result in data.eval_results or ():
        if result.metric_type == METRIC_TYPES.get(metric, metric):
            score = _fraction(value(float, result.metric_value, f"{path}: metric value"))
            yield Claim(path.name, "score", score, (score - 5e-5, score + 5e-5))


def _first(row: Mapping[str, Any], *names: str) -> float | None:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _fraction(score: float) -> float:
    """A score above 1 is taken as a percentage."""
    return score / 100 if abs(score) > 1 else score
