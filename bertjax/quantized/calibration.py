"""Some of the texts that a model was quantised with, as token ids, in its folder: `calibration.json`.

Ranges of activations hold for texts like those that they were found on. Whoever checks the model elsewhere (an export
does) needs such texts, and random tokens are none. The price: so many of your training texts can be read out of the
folder. Delete the file where they must not leave the house; a check then falls back on random tokens.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.errors import UserError

FILE = "calibration.json"
TEXTS = 32


class Calibration(NamedTuple):
    """Rows of token ids, and of their types, each of the text's real length."""

    input_ids: tuple[tuple[int, ...], ...]
    token_type_ids: tuple[tuple[int, ...], ...]


def calibration_of(encoded: Any, texts: int = TEXTS) -> Calibration:
    """So many rows from all over an `Encoded`."""
    rows = np.unique(np.linspace(0, len(encoded) - 1, min(len(encoded), texts)).round().astype(np.int64))
    parts = [slice(encoded.offsets[row], encoded.offsets[row + 1]) for row in rows]
    return Calibration(*(tuple(tuple(a[part].tolist()) for part in parts) for a in (encoded.ids, encoded.type_ids)))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """The file."""
    (folder / FILE).write_text(json.dumps(calibration._asdict()) + "\n", encoding="utf-8")


def read_calibration(folder: Path, vocab_size: int, type_vocab_size: int, longest: int) -> Calibration | None:
    """The texts of a folder, or None where it has none.

    Raises:
      UserError: Not what `write_calibration` writes, or ids that the model does not have.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Calibration(*(tuple(map(tuple, content[name])) for name in Calibration._fields))
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    limits = (vocab_size, max(type_vocab_size, 1))
    if found is None or not is_valid(found, limits, longest):
        raise UserError(
            f"{path}: expected rows of input_ids and token_type_ids, up to {longest} a row, below {limits[0]} and "
            f"{limits[1]}.\nDelete the file: an export is then checked with random tokens."
        )
    return found


def is_valid(calibration: Calibration, limits: tuple[int, int], longest: int) -> bool:
    """Whether every row is one that the model can read."""
    ids, types = calibration
    rows = [*zip(ids, [limits[0]] * len(ids), strict=True), *zip(types, [limits[1]] * len(types), strict=True)]
    return (
        len(ids) > 0
        and [len(row) for row in ids] == [len(row) for row in types]
        and all(0 < len(row) <= longest for row in ids)
        and all(type(number) is int and 0 <= number < limit for row, limit in rows for number in row)
    )
