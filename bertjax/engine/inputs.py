"""What a run begins from: the models and texts that its config names, by what is in them and not by their names.

A folder may hold another teacher tomorrow under the same name. Half of a run with each is nobody's student, so their
fingerprints stand in the run's record, of every field of every config that names a model or a text.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from bertjax.errors import UserError

MODELS = ("model", "teacher", "teachers", "trained", "init_from")
"""Fields that name models: a folder, hf:NAME, or demo."""
TEXTS = ("train", "eval", "held_out")
"""Fields that name texts: a file, or a folder of them. What a data set's own name says (tfds:, demo) is no file."""
NO_MODELS = ("teacher", "random")
"""What `start` may be besides a model."""


def inputs(config: Any) -> dict[str, dict[str, str]]:
    """The fingerprints of everything that a config (as JSON) names, by the path of its field. What is not there has
    none: whoever needs it will say so."""
    found = {}
    for path, name, value in named(config):
        try:
            found[path] = of_model(value) if name in MODELS else of_text(value)
        except (UserError, OSError):
            continue
    return {path: parts for path, parts in found.items() if parts}


def changes(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> list[str]:
    """What differs, one phrase for each field; of what either side does not know, nothing."""
    differing = {
        path: [part for part, digest in parts.items() if now.get(path, parts).get(part) != digest]
        for path, parts in before.items()
    }
    return [f"--{path} has other {' and '.join(parts)}" for path, parts in differing.items() if parts]


def named(config: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, name and value of each field that names a model or a text."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        place = f"{path}{key}"
        if key in MODELS or key in TEXTS:
            several = value if isinstance(value, list) else [value]
            for number, one in enumerate(several):
                if isinstance(one, str) and not (key == "init_from" and one in NO_MODELS):
                    yield (f"{place}.{number}" if several is value else place), key, one
        yield from named(value, f"{place}.")


def of_model(name: str) -> dict[str, str]:
    """Of a model's weights, its config and its tokenizer."""
    from bertjax.bundle import resolve
    from bertjax.storage import manifest

    return manifest.fingerprint(resolve(name))


def of_text(name: str) -> dict[str, str]:
    """Of a file, or of the files in a folder, byte for byte."""
    from bertjax.storage.manifest import digests_of
    from bertjax.storage.paths import local

    if name == "demo" or name.startswith("tfds:"):
        return {}
    path = local(name).expanduser()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return {"text": hashlib.sha256(" ".join(digests_of(files)).encode()).hexdigest()[:16]}
