"""Fingerprints of the models, texts and masks that a config names, by their contents and not by their names.

The model in a folder may be replaced between two parts of a run. A student that learned from two teachers in turn is
not reproducible, so the record of a run holds a fingerprint for every field that names a model or a text.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bertjax.errors import UserError
from bertjax.storage.typed_json import Json

if TYPE_CHECKING:
    from bertjax.text.reader import TextReader

MODELS = ("model", "teacher", "teachers", "trained", "init_from", "reference")
"""Fields that name models: a folder, hf:NAME, or demo."""
TEXTS = ("train", "eval", "held_out")
"""Fields that name texts: a file or a folder. Named data sets (tfds:..., demo) have no fingerprint."""
FILES = {"ticket": "masks", "table": "times"}
"""Fields that name a lottery ticket, or a table of latencies, and what is in the file."""
INIT_METHODS = ("teacher", "random")
"""Values of `init_from` that are not models."""


def inputs(config: Json, reader: "TextReader | None" = None) -> dict[str, dict[str, str]]:
    """The fingerprints of all models and texts in a config (as JSON), by the path of the field. Missing ones are left
    out: the code that opens them raises the error. The `reader` of a run opens each file of text once, for its
    fingerprint and to be read."""
    fingerprints = {}
    for path, name, value in named(config):
        try:
            fingerprints[path] = of_model(value) if name in MODELS else of_file(value, reader, name)
        except (UserError, OSError):
            continue
    return {path: parts for path, parts in fingerprints.items() if parts}


def changes(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> list[str]:
    """One phrase for each field whose fingerprint differs. Fields that only one side has are ignored."""
    differing = {
        path: [part for part, digest in parts.items() if now.get(path, parts).get(part) != digest]
        for path, parts in before.items()
    }
    return [f"--{path} has other {' and '.join(parts)}" for path, parts in differing.items() if parts]


def named(config: Json, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, name and value of each field that names a model or a text."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        place = f"{path}{key}"
        if key in (*MODELS, *TEXTS, *FILES):
            several = value if isinstance(value, list) else [value]
            for number, one in enumerate(several):
                if isinstance(one, str) and not (key == "init_from" and one in INIT_METHODS):
                    yield (f"{place}.{number}" if several is value else place), key, one
        yield from named(value, f"{place}.")


def of_model(name: str) -> dict[str, str]:
    """Fingerprints of a model's weights, config and tokenizer."""
    from bertjax.bundle import resolve
    from bertjax.storage import manifest

    return manifest.fingerprint(resolve(name))


def of_file(name: str, reader: "TextReader | None", field: str = "") -> dict[str, str]:
    """The fingerprint of the bytes of a file, or of all files in a folder, that a field names."""
    from bertjax.storage.manifest import digests_of
    from bertjax.storage.paths import local

    if name == "demo" or name.startswith("tfds:"):
        return {}
    path = local(name).expanduser()
    if reader and not path.is_dir():
        digests = [reader.digest(path)]
    else:
        digests = digests_of(sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path])
    return {FILES.get(field, "text"): hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]}
