"""Writes a model for another runtime and checks the result against JAX.

A quantised bundle (`bertjax quantize`) becomes a file with integers in the formats that the bundle defines. The exit
code is 0 if the export passed the check, and 2 if the model cannot be exported or the folder cannot be written.
"""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None, prog: str = "python -m bertjax.export") -> NoReturn:
    """Runs the export and exits with its exit code."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=inspect.cleandoc(__doc__ or ""), formatter_class=layout)
    parser.add_argument("model", metavar="BUNDLE", help="the model: a folder, or hf:NAME")
    parser.add_argument(
        "--to", default="onnx", metavar="FORMAT", help="onnx (default), stablehlo, huggingface or litert"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    about = "huggingface: floating point for integers, which plain transformers does not know"
    parser.add_argument("--dequantise", action="store_true", help=about)
    about = "onnx, kernels of 8 bits: int8 (default) is exact with VNNI, AMX or on Arm; uint8 everywhere, and slower"
    parser.add_argument("--weights", default="int8", choices=("int8", "uint8"), help=about)
    given = parser.parse_args(argv)
    from bertjax.errors import UserError
    from bertjax.export.litert import INSTALL
    from bertjax.storage.paths import local

    try:
        from bertjax.export.folder import export, exported_file

        distance = export(given.model, given.to, given.out, given.dequantise, given.weights)
    except UserError as mistake:
        print(*str(mistake).strip().splitlines()[:5], sep="\n", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as missing:
        install = INSTALL if given.to == "litert" else "pip install 'bertjax[export]'"
        print(f"an export to {given.to} needs {missing.name}: {install}", file=sys.stderr)
        sys.exit(2)
    folder = local(given.out)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    name = exported_file(given.to, folder).relative_to(folder)
    print(f"{given.out}/{name}: the folder has {size:.1f} MB; differs from JAX by {distance:.1g} of its output")
    sys.exit(0)


if __name__ == "__main__":
    main()
