"""The export stage: a model as an ONNX file with its tokenizer, checked against JAX.

It is the last stage of `bertjax compress`, and `bertjax export` on its own.
"""

import os
from pathlib import Path
from typing import Any, Literal

from bertjax.errors import UserError
from bertjax.recipes.export import Export
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path, is_remote


def export_once(model: str | os.PathLike[str], folder: Any, weights: Literal["int8", "uint8"] = "int8") -> None:
    """Exports a bundle unless the folder already holds its export. The folder appears only when the export is complete;
    an export of another model is replaced."""
    from bertjax.bundle import resolve
    from bertjax.engine.log import note
    from bertjax.export.folder import export
    from bertjax.measure.onnx import onnx_file, origin_of
    from bertjax.storage import manifest

    origin = as_path(model) if is_remote(model) else Path(model).resolve()
    if onnx_file(folder) is not None and origin_of(folder) == origin:
        known = manifest.read(folder).made_from
        if not known or known == manifest.fingerprint(resolve(model)):
            return
    distance = export(model, "onnx", folder, weights=weights)
    note(f"{folder}: its outputs differ from JAX by {distance:.1g} times their size")


def require_packages() -> None:
    """Refuses to start if a package that an export needs is missing.

    Raises:
      UserError: One of them is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"an export needs {' and '.join(missing)}: pip install 'bertjax[export]'.")


def run(recipe: Export, context: Context) -> StageResult:
    """The stage: exports the context's model into its folder."""
    from bertjax.engine.hosts import on_main_process

    folder = as_path(context.out) / "bundle"
    on_main_process(lambda: export_once(context.model, folder, recipe.weights))
    return StageResult(folder, context.data)
