"""A matrix as the arrays of a file, by the end of their names.

    (none)       a matrix in floating point with its zeros
    numbers      those of a matrix in floating point that are not zero: 16 bits each if that is exact, else 32
    integers     those of a quantised matrix, packed to the bits of its format
    scale        float32, one per block of the grid
    offset       the same, for asymmetric formats
    bitmap       the places of `numbers` or `integers`, if zeros are left out
    gaps_2 .. 8  the same by their distances

Whether zeros are left out, and how, is decided matrix by matrix by the number of bytes (bertjax/storage/zeros.py).
Arrays are in row-major order of [inputs, outputs].
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from bertjax.errors import UserError
from bertjax.quantized.packing import pack_bits, packed_size, unpack_bits
from bertjax.quantized.tensor import Quantized
from bertjax.storage.zeros import ENCODINGS, Nonzero, places_of, with_zeros, without_zeros

PARTS = ("numbers", "integers", "scale", "offset", *ENCODINGS)
Parts = dict[str, np.ndarray]
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def matrix_parts(leaf: Any) -> Parts | None:
    """The arrays of a matrix, without its zeros where that is smaller. None for a matrix in floating point that is
    smaller with them."""
    numbers, found = kept_numbers(leaf)
    if not isinstance(leaf, Quantized):
        return {"numbers": numbers, found.encoding: found.places} if found else None
    parts = {"integers": pack_bits(numbers, leaf.format), "scale": np.asarray(leaf.scale)}
    parts |= {found.encoding: found.places} if found else {}
    return parts if leaf.offset is None else parts | {"offset": np.asarray(leaf.offset)}


def kept_numbers(leaf: Any) -> tuple[np.ndarray, Nonzero | None]:
    """The numbers of a matrix that a file stores, integers or floating point, and where they stand: without zeros if
    that is smaller, else all of them, and None."""
    if isinstance(leaf, Quantized):
        numbers, format = np.asarray(leaf.values), leaf.format
        found = without_zeros(numbers, lambda count: packed_size(count, format))
    else:
        numbers = narrowed(np.asarray(leaf))
        found = without_zeros(numbers, lambda count: count * numbers.itemsize)
    return (found.numbers if found else numbers), found


def narrowed(matrix: np.ndarray) -> np.ndarray:
    """The same numbers in 16 bits if none of them changes, else as they are."""
    with np.errstate(over="ignore"):
        for half in HALVES:
            if np.array_equal(narrow := matrix.astype(half), matrix):
                return narrow
    return matrix


def parts_named(tensors: Mapping[str, np.ndarray], name: str) -> Parts:
    """The arrays of a matrix among those of a file."""
    return {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}


def from_parts(leaf: Any, parts: Parts, name: str) -> Any:
    """The matrix of the template's shape and format, or None if arrays of it are missing.

    Raises:
      UserError: An array has another shape or dtype than the template asks for, or places do not fit.
    """
    needed = ("integers", "scale", "offset") if isinstance(leaf, Quantized) else ("numbers",)
    if any(part not in parts for part in needed if part != "offset" or leaf.offset is not None):
        return None
    size = int(np.prod(leaf.shape))
    encoding = next((one for one in ENCODINGS if one in parts), None)
    try:
        count = size if encoding is None else len(places_of(encoding, parts[encoding], size))
    except ValueError as error:
        raise UserError(f"{name}.{encoding} is damaged: {error}; write the model again.") from None
    if not isinstance(leaf, Quantized):
        check(name, "numbers", parts["numbers"], (count,), (np.dtype(np.float32), *HALVES))
        return placed(encoding, parts, parts["numbers"].astype(np.float32), leaf.shape)
    check(name, "integers", parts["integers"], (packed_size(count, leaf.format),), (np.dtype(np.uint8),))
    for part in ("scale", "offset")[: 1 if leaf.offset is None else 2]:
        check(name, part, parts[part], tuple(leaf.scale.shape), (np.dtype(np.float32),))
    values = placed(encoding, parts, unpack_bits(parts["integers"], (count,), leaf.format), leaf.shape)
    return dataclasses.replace(leaf, values=values, scale=parts["scale"], offset=parts.get("offset"))


def placed(encoding: str | None, parts: Parts, numbers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers at their places."""
    return with_zeros(Nonzero(encoding, parts[encoding], numbers), shape) if encoding else numbers.reshape(shape)


def check(name: str, part: str, array: np.ndarray, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]) -> None:
    """Refuses an array of another shape or dtype."""
    if array.shape != shape or array.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise UserError(
            f"{name}.{part} is {array.dtype} {array.shape}; expected {expected} {shape}, by the format in config.json."
        )
