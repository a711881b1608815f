"""The arrays of a safetensors file, in NumPy alone."""

from pathlib import Path

import ml_dtypes  # noqa: F401  (with it, NumPy knows bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from bertjax.errors import UserError


def stored_arrays(file: Path) -> dict[str, np.ndarray]:
    """Every array by its name.

    Raises:
      UserError: The file is damaged, or holds numbers of a type that NumPy has not.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                try:
                    arrays[name] = opened.get_tensor(name)
                except (AttributeError, TypeError):  # what NumPy says of a type that it has not
                    kind = opened.get_slice(name).get_dtype()
                    raise UserError(
                        f"{file}: {name} holds numbers of type {kind}; expected floating point of 16 bits or more. "
                        "Store the weights as float32, bfloat16 or float16."
                    ) from None
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({str(error)[:200]}); fetch or write it again.") from None
    return arrays
