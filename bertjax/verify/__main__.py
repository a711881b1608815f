"""Measures NEW and OLD as they ship, and refuses NEW if a bound is not met or its own report is not true.

    bertjax verify --model=runs/quickstart/exported --against=runs/quickstart/stages/teacher-onnx/bundle \\
        --data.eval=demo --min_speedup=4 --max_drop=1

The exit code is 0 if everything holds, 3 if something does not (with what and the likely cause, as far as the
measurement shows it), and 2 for input that cannot be measured.
"""

import argparse
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bertjax.machine.spelling import spellings, with_underscores

MISSED = 3


def main(argv: Sequence[str] | None = None, prog: str = "python -m bertjax.verify") -> NoReturn:
    """Runs the check and exits with its exit code."""
    parser = _parser(prog)
    given = parser.parse_args(with_underscores(sys.argv[1:] if argv is None else argv))
    given.new = given.new or given.model
    if given.new is None:
        parser.error("which model is to be verified? Give its folder: --model=NEW")
    from bertjax.errors import UserError

    try:
        sys.exit(run(given))
    except UserError as mistake:
        print(*str(mistake).strip().splitlines()[:5], sep="\n", file=sys.stderr)
        sys.exit(2)


def run(given: argparse.Namespace) -> int:
    from bertjax.errors import UserError
    from bertjax.storage.paths import is_remote
    from bertjax.text.tasks import Task
    from bertjax.verify import Bounds, compare, verdict
    from bertjax.verify.text import lines

    for folder in (given.new, given.against, given.parity):
        if folder and is_remote(folder):
            raise UserError(
                f"{folder}: only folders of this machine can be verified. Copy the whole run here first:\n"
                "  gcloud storage cp --recursive gs://BUCKET/RUN ."
            )
    bounds = Bounds(given.min_speedup, given.max_drop, given.max_mb, given.min_agreement)
    measured = compare(
        Path(given.new),
        Path(given.against),
        given.data,
        Task(kind=given.kind, text=given.text, text_pair=given.text_pair, label=given.label, metric=given.metric),
        parity=Path(given.parity) if given.parity else None,
        max_length=given.max_length,
        threads=given.threads,
        repeats=given.repeats,
        runtime=given.runtime,
        notify=lambda message: print(message, file=sys.stderr, flush=True),
    )
    failures = verdict(measured, bounds)
    print(*lines(measured, failures), sep="\n", flush=True)
    return MISSED if failures else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    usage = "%(prog)s --model=NEW --against=OLD --data.eval=FILE [--FIELD=VALUE ...]"
    about = inspect.cleandoc(__doc__ or "")
    parser = argparse.ArgumentParser(prog, usage, about, formatter_class=layout)
    add = parser.add_argument
    add("new", metavar="NEW", nargs="?", help=argparse.SUPPRESS)
    add("--model", metavar="NEW", help="exported folder (onnx/model.onnx), or a bundle")
    add("--against", metavar="OLD", required=True, help="what NEW is compared with: a folder of either kind")
    about = "labelled texts: a file, tfds:NAME/SPLIT, or demo"
    add(*spellings("data.eval"), "--data", dest="data", metavar="FILE", required=True, help=about)
    add("--min_speedup", metavar="X", type=float, help="lower bound on OLD's median time for one text divided by NEW's")
    add("--max_drop", metavar="POINTS", type=float, help="most points of the score that NEW may lose compared with OLD")
    about = "least percent of the texts with OLD's prediction: class, all tags of a text, or answer"
    add("--min_agreement", metavar="PERCENT", type=float, help=about)
    add("--max_mb", metavar="N", type=float, help="most megabytes (10^6 bytes) that all files of NEW may take")
    add(
        "--parity",
        metavar="BUNDLE",
        help="the bundle NEW was exported from; its outputs in JAX are compared with NEW's",
    )
    about = {
        "text": "column of the text; by default found by its usual names",
        "text_pair": "column of the second text, for tasks on pairs",
        "label": "column of the label; by default found by its usual names",
    }
    for name, meaning in about.items():
        add(*spellings(f"data.{name}"), dest=name, metavar="COLUMN", help=meaning)
    about = "kind of task; by default inferred from the data"
    add(*spellings("data.kind"), dest="kind", metavar="KIND", default="auto", help=about)
    about = "the metric to compare; by default the usual one of the kind of task"
    add(*spellings("data.metric"), dest="metric", metavar="METRIC", default="auto", help=about)
    about = "longest input in tokens, if the model allows as many"
    add(*spellings("data.max_length"), dest="max_length", metavar="N", type=int, default=512, help=about)
    add("--threads", metavar="N", type=int, default=1, help="processors that each model may use (default 1)")
    choices = ("onnxruntime", "openvino", "auto")
    add("--runtime", choices=choices, default=choices[0], help="of ONNX files; auto: the faster one here, for each")
    add("--repeats", metavar="N", type=int, default=3, help="how often each model is timed, at least 3 (default 3)")
    return parser


if __name__ == "__main__":
    main()
