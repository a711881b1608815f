"""The content of a folder when it was written: `digests.json`, with a SHA-256 of each file and each array in it.

A model with a flipped bit in a weight, or with another model's weights under the same file name, opens without an error
and gives other outputs. So `save` and `export` write digests, and opening the folder compares them with the files that
are read. A difference is an error that names file and array. Folders from other sources have no digests and open
without the check.

The digest of a file is that of `sha256sum`, and the only one that is computed when a folder is opened; the digests of
arrays are used to name the damaged ones. A file is hashed from the page cache that reading it fills anyway: 0.28 s of
one core for 440 MB, if the processor has SHA instructions.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.errors import UserError
from bertjax.storage.paths import as_path, names, write_text

FILE = "digests.json"
MODEL_FILES = (
    *("config.json", "model.safetensors*", "model-*.safetensors"),
    *("tokenizer*.json", "vocab*", "added_tokens.json", "special_tokens_map.json", "spiece.model"),
    *("merges.txt", "sentencepiece.bpe.model"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("*_Pooling/config.json", "*_Dense/config.json", "*_Dense/model.safetensors"),
)
"""Files that a model is loaded from."""
OUTPUT_FILES = (*MODEL_FILES, "*.onnx", "*.stablehlo", "*.tflite")
"""Files that determine the outputs of a bundle or an export."""
LOADED_FILES = (*OUTPUT_FILES, "calibration.json")
"""Files that are read when a bundle or an export is opened. The others (card, reports) describe it."""
ALL_FILES = ("*",)
WEIGHTS = (".safetensors", ".onnx", ".stablehlo", ".tflite")
MAX_NAMED = 3


class Manifest(NamedTuple):
    """The content of `digests.json`."""

    files: dict[str, str]
    """Digest by the file's path relative to the folder."""
    arrays: dict[str, dict[str, str]]
    """Digest of each array, for the files that hold arrays."""
    made_from: dict[str, str]
    """For an export, the fingerprint of its bundle."""


def write(folder: Path, made_from: dict[str, str] | None = None) -> None:
    """Writes the digests of all files that are in a folder now."""
    files = sorted(Path(name).as_posix() for name in names(folder) if name != FILE)
    arrays = {name: by_array for name in files if (by_array := digests_of_arrays(folder / name))}
    digests = dict(zip(files, digests_of([folder / name for name in files]), strict=True))
    _write(folder, Manifest(digests, arrays, made_from or {}))


def put_text(folder: str | os.PathLike[str], name: str, text: str) -> None:
    """Writes a text file into a finished folder, and updates its digest if the folder has digests."""
    write_text(as_path(folder) / name, text)
    if (as_path(folder) / FILE).is_file():
        manifest = read(as_path(folder))
        _write(folder, manifest._replace(files={**manifest.files, name: hashlib.sha256(text.encode()).hexdigest()}))


def check(folder: Path, patterns: Sequence[str] = LOADED_FILES) -> None:
    """Compares the files of a folder whose names match `patterns` with their digests.

    Raises:
      UserError: A file differs, or one that the model needs is missing, or the digests are damaged.
    """
    files, arrays, _ = read(folder)
    listed = [name for name in files if matches(name, patterns)]
    present = [name for name in listed if (folder / name).is_file()]
    advice = f"Restore it. If the change is intended, delete its line in {folder / FILE}."
    if missing := [name for name in listed if name not in present and matches(name, OUTPUT_FILES)]:
        raise UserError(f"{folder / missing[0]} is missing, but {FILE} lists it.\n{advice}")
    for name, digest in zip(present, digests_of([folder / name for name in present]), strict=True):
        if digest != files[name]:
            difference = differing_arrays(folder / name, arrays.get(name, {}))
            raise UserError(f"{folder / name} was changed after it was written{difference}.\n{advice}")


def fingerprint(folder: Path) -> dict[str, str]:
    """The identity of the model in a folder: digests of its weights, its config and its tokenizer. Other files (card,
    reports) do not affect it."""
    parts: dict[str, list[str]] = {"weights": [], "config": [], "tokenizer": []}
    files = sorted(file.name for file in folder.iterdir() if matches(file.name, OUTPUT_FILES) and file.is_file())
    for name, digest in zip(files, digests_of([folder / name for name in files]), strict=True):
        has_weights = any(suffix in name for suffix in WEIGHTS)
        parts["weights" if has_weights else "config" if name == "config.json" else "tokenizer"] += [name, digest]
    return {
        part: hashlib.sha256(" ".join(content).encode()).hexdigest()[:16] for part, content in parts.items() if content
    }


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def differing_arrays(path: Path, written: dict[str, str]) -> str:
    """The arrays of a file that differ from those that were written, as part of a sentence."""
    if not written:
        return ""
    try:
        current = digests_of_arrays(path)
    except Exception:  # every parser raises its own class for a damaged file
        return ": it can no longer be read"
    if differing := [name for name, digest in written.items() if current.get(name) != digest]:
        others = f" and {len(differing) - MAX_NAMED} more" if len(differing) > MAX_NAMED else ""
        return f": {', '.join(differing[:MAX_NAMED])}{others} differ{'s' if len(differing) == 1 else ''}"
    return ": its arrays are unchanged, but other content differs" if current else ""


def digests_of(files: Sequence[Path]) -> list[str]:
    """SHA-256 of several files, computed in parallel threads (hashing releases the GIL)."""

    def digest(file: Path) -> str:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest, files))


def digests_of_arrays(file: Path) -> dict[str, str]:
    """SHA-256 of each array in a weights file, over its dtype, shape and bytes; empty for other files."""
    if file.suffix == ".safetensors":
        return _of_safetensors(file)
    return _of_onnx(file) if file.suffix == ".onnx" else {}


def _of_safetensors(file: Path) -> dict[str, str]:
    """Digests of the arrays in a safetensors file. It is parsed by hand, because no array library has all dtypes that
    it may hold."""
    with file.open("rb") as content:
        start = 8 + (size := int.from_bytes(content.read(8), "little"))
        header = json.loads(content.read(size))
        digests = {}
        for name, about in header.items():
            if name == "__metadata__":
                continue
            begin, end = about["data_offsets"]
            digest = hashlib.sha256(f"{about['dtype']} {about['shape']}\n".encode())
            content.seek(start + begin)
            digest.update(content.read(end - begin))
            digests[name] = digest.hexdigest()
    return digests


def _of_onnx(file: Path) -> dict[str, str]:
    """Digests of the initialisers of an ONNX file; empty if the package onnx is not installed."""
    try:
        import onnx  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError:
        return {}
    stored = onnx.load(str(file), load_external_data=False).graph.initializer
    return {one.name: hashlib.sha256(one.SerializeToString()).hexdigest() for one in stored}


def read(folder: Any) -> Manifest:
    """The manifest of a folder; empty if it has no digests."""
    path = folder / FILE
    if not path.is_file():
        return Manifest({}, {}, {})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parsed = Manifest(content["files"], content["arrays"], content["made_from"])
        valid = all(re.fullmatch("[0-9a-f]{64}", digest) and is_inside(name) for name, digest in parsed.files.items())
        if not valid or not all(isinstance(one, dict) for one in (*parsed.arrays.values(), parsed.made_from)):
            raise ValueError("expected names of files in this folder, each with 64 digits of SHA-256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}).\n"
            "Restore it, or delete it; without it, the files of this folder are not checked for changes."
        ) from None
    return parsed


def is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _write(folder: str | os.PathLike[str], content: Manifest) -> None:
    listed = content._replace(files=dict(sorted(content.files.items())))
    write_text(as_path(folder) / FILE, json.dumps(listed._asdict(), indent=2, ensure_ascii=False) + "\n")
