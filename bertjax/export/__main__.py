"""Writes a model for another runtime and checks the result against JAX.

    bertjax export --model=runs/quickstart/bundle --to=onnx --out=exports/int8

A quantised bundle (`bertjax quantize`) becomes a file with integers in the formats that the bundle defines. The exit
code is 0 if the export passed the check, and 2 if the model cannot be exported or the folder cannot be written.
"""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import NoReturn

from bertjax.machine.spelling import with_underscores


def main(argv: Sequence[str] | None = None, prog: str = "python -m bertjax.export") -> NoReturn:
    """Runs the export and exits with its exit code."""
    layout = argparse.RawDescriptionHelpFormatter
    usage = "%(prog)s --model=BUNDLE --out=DIR [--FIELD=VALUE ...]"
    parser = argparse.ArgumentParser(prog, usage, inspect.cleandoc(__doc__ or ""), formatter_class=layout)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--model", metavar="BUNDLE", help="the model: a folder, or hf:NAME")
    parser.add_argument(
        "--to", default="onnx", metavar="FORMAT", help="onnx (default), stablehlo, huggingface or litert"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    about = "huggingface: store a quantised model in floating point, because transformers cannot read integers"
    parser.add_argument("--dequantise", action="store_true", help=about)
    about = (
        "onnx, type of 8-bit weights: int8 (default) is exact with VNNI, AMX or on Arm; uint8 everywhere, but slower"
    )
    parser.add_argument("--weights", default="int8", choices=("int8", "uint8"), help=about)
    arguments = parser.parse_args(with_underscores(sys.argv[1:] if argv is None else argv))
    arguments.model = arguments.model or arguments.bundle
    if arguments.model is None:
        parser.error("which model is to be exported? Give its folder: --model=BUNDLE")
    from bertjax.errors import UserError
    from bertjax.export.litert import INSTALL
    from bertjax.storage.paths import local

    try:
        from bertjax.export.folder import export, exported_file

        distance = export(arguments.model, arguments.to, arguments.out, arguments.dequantise, arguments.weights)
    except UserError as error:
        print(*str(error).strip().splitlines()[:5], sep="\n", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as missing:
        install = INSTALL if arguments.to == "litert" else "pip install 'bertjax[export]'"
        print(f"an export to {arguments.to} needs {missing.name}: {install}", file=sys.stderr)
        sys.exit(2)
    folder = local(arguments.out)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    name = exported_file(arguments.to, folder).relative_to(folder)
    print(
        f"{arguments.out}/{name}: the folder has {size:.1f} MB; its outputs differ from JAX by {distance:.1g} "
        "times their size"
    )
    sys.exit(0)


if __name__ == "__main__":
    main()
