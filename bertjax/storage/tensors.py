"""The arrays of a safetensors file, in NumPy alone."""

import errno
import os
import re
from pathlib import Path

import ml_dtypes  # noqa: F401  (with it, NumPy knows bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bertjax.errors import UserError


def stored_arrays(file: Path) -> dict[str, np.ndarray]:
    """Every array by its name.

    Raises:
      UserError: The file is damaged, or has a dtype that NumPy lacks.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                try:
                    arrays[name] = opened.get_tensor(name)
                except (AttributeError, TypeError):  # a dtype that NumPy lacks
                    kind = opened.get_slice(name).get_dtype()
                    raise UserError(
                        f"{file}: {name} has dtype {kind}; expected floating point of 16 bits or more. "
                        "Store the weights as float32, bfloat16 or float16."
                    ) from None
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({str(error)[:200]}); download or write it again.") from None
    return arrays


def stored_metadata(file: Path) -> dict[str, str]:
    """What the header of a file says besides its arrays; empty for a damaged file."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return opened.metadata() or {}
    except SafetensorError:
        return {}


def count_arrays(file: Path) -> int:
    """The number of arrays according to the file's header; 0 for a missing or damaged file."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return len(opened.keys())
    except (OSError, SafetensorError):
        return 0


def save_tensors(arrays: dict[str, np.ndarray], file: Path) -> None:
    """Writes a file. Errors of the disk are raised as `OSError`, not as `SafetensorError`."""
    # `save_file` writes the memory as it is, whatever the order of the axes in it.
    in_order = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(in_order, file, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        reason = (int(code[1]), os.strerror(int(code[1]))) if code else (errno.EIO, str(error))
        raise OSError(*reason) from error
