"""Calibration examples, stored as token ids in the folder of a quantised model: `calibration.json`.

Activation ranges are valid for inputs like those they were calibrated on. An export compares the exported model with
the original on these examples, because random tokens have other activations. The price is privacy: 32 training texts
can be read out of the folder. Delete the file if they must not be published; checks then use random tokens.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError

FILE = "calibration.json"
TEXTS = 32


class Calibration(NamedTuple):
    """Token ids and token types, one unpadded row per example."""

    input_ids: tuple[tuple[int, ...], ...]
    token_type_ids: tuple[tuple[int, ...], ...]


def calibration_of(encoded: Any, texts: int = TEXTS) -> Calibration:
    """Evenly spaced rows of an `Encoded`, at most `texts` of them."""
    rows = np.unique(np.linspace(0, len(encoded) - 1, min(len(encoded), texts)).round().astype(np.int64))
    parts = [slice(encoded.offsets[row], encoded.offsets[row + 1]) for row in rows]
    return Calibration(*(tuple(tuple(a[part].tolist()) for part in parts) for a in (encoded.ids, encoded.type_ids)))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes `calibration.json` into the folder."""
    (folder / FILE).write_text(json.dumps(calibration._asdict()) + "\n", encoding="utf-8")


def read_calibration(folder: Path, vocab_size: int, type_vocab_size: int, longest: int) -> Calibration | None:
    """The calibration examples of a folder, or None if it has none.

    Raises:
      UserError: The file is not in the format of `write_calibration`, has ids that the model does not have, or rows
        longer than `longest`.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        calibration = Calibration(*(tuple(map(tuple, content[name])) for name in Calibration._fields))
    except (ValueError, TypeError, KeyError, RecursionError):
        calibration = None
    limits = (vocab_size, max(type_vocab_size, 1))
    if calibration is None or not is_valid(calibration, limits, longest):
        raise UserError(
            f"{path}: expected rows of input_ids and token_type_ids, with at most {longest} tokens per row, input_ids "
            f"below {limits[0]} and token_type_ids below {limits[1]}.\n"
            "Delete the file: an export is then checked with random tokens."
        )
    return calibration


def is_valid(calibration: Calibration, limits: tuple[int, int], longest: int) -> bool:
    """True if every row is a valid input: 1 to `longest` tokens, with ids and types below `limits`."""
    ids, types = calibration
    rows = [*zip(ids, [limits[0]] * len(ids), strict=True), *zip(types, [limits[1]] * len(types), strict=True)]
    return (
        len(ids) > 0
        and [len(row) for row in ids] == [len(row) for row in types]
        and all(0 < len(row) <= longest for row in ids)
        and all(type(number) is int and 0 <= number < limit for row, limit in rows for number in row)
    )
