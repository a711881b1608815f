"""The stage that leaves what ships: the model before it as an ONNX file with its tokenizer, held against JAX.

It is the last stage of `bertjax compress`; alone it is `bertjax export`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertjax.errors import UserError
from bertjax.paths import at, is_remote


@dataclass(frozen=True)
class Export:
    """An export as a stage of `compress`."""

    name: str = "onnx"
    """What the result is called in the report."""
    weights: Literal["int8", "uint8"] = "int8"
    """Of kernels of 8 bits. int8 is exact on processors with VNNI, AMX or the dot product of Arm, uint8 on all, and
    slower. Kernels of 7 bits, the default of quantisation, are int8 and exact on all."""

    def run(self, context: Any) -> None:
        """The stage: exports the context's model into its folder."""
        from .processes import alone

        alone(lambda: export_once(context.model, at(context.out) / "bundle", self.weights))


def export_once(model: str | os.PathLike[str], folder: Any, weights: Literal["int8", "uint8"] = "int8") -> None:
    """Exports a bundle unless the folder holds it already: an export stands in its place only when it is finished, and
    one of another model that stood there before is made anew."""
    from bertjax import manifest
    from bertjax.bundle import resolve
    from bertjax.export.folder import export
    from bertjax.measure.onnx import onnx_file, origin_of

    from .log import note

    origin = at(model) if is_remote(model) else Path(model).resolve()
    if onnx_file(folder) is not None and origin_of(folder) == origin:
        known = manifest.read(folder).made_from
        if not known or known == manifest.fingerprint(resolve(model)):
            return
    distance = export(model, "onnx", folder, weights=weights)
    note(f"{folder}: differs from JAX by {distance:.1g} of its output")


def require_packages() -> None:
    """Says before any work is done that an export needs packages of its own.

    Raises:
      UserError: One of them is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"an export needs {' and '.join(missing)}: pip install 'bertjax[export]'.")
