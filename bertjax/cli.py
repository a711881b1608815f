"""The `bertjax` command: a thin door to the scripts in `train/`, and to the commands of the library itself.

`bertjax distill ...` is `python train/distill.py ...`, from any folder: the script is run by its location, inside the
installed package or beside it in a checkout, never whatever else is called `train` on the user's path.
"""

import difflib
import importlib
import runpy
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "compress": "the main job: fine-tune a teacher, distil it into a smaller student, measure both",
    "finetune": "train a model on labelled text",
    "distill": "teach a smaller model what a larger one answers",
    "augment": "more text for a student: copies of each example with other words",
    "prune": "take out heads, neurons, layers, and win back what that costs",
    "quantize": "fewer bits: integers for weights and products, with or without training",
    "exits": "heads after inner layers, so that easy texts can leave early",
    "calibrate": "find the threshold of leaving early on held-out text, and measure what it gains",
    "pretrain": "train a model on raw text: guess hidden words, tell the order of sentences",
    "vocabulary": "leave out of a model the words that the texts at hand never use",
    "evaluate": "measure models: score, size, speed, memory",
    "compare": "hold methods against each other: one teacher, one budget, several seeds, one table",
    "predict": "text in, labels and probabilities out",
}
LIBRARY = {
    "export": "a model as ONNX, StableHLO, LiteRT or a folder for plain transformers, checked against JAX",
    "verify": "the last gate: refuse an export that is worse, slower or larger than promised",
}
"""Commands that need no script, `python -m bertjax.NAME`."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code; 2 and one line on stderr for an unknown one."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print("usage: bertjax COMMAND [--config=FILE] [--field=value ...]\n")
        print(*(f"  {name:<10} {meaning}" for name, meaning in (COMMANDS | LIBRARY).items()), sep="\n")
        print("\n`bertjax COMMAND --help` lists every field.")
        sys.exit(0)
    if command == "--version":
        from bertjax import __version__

        print(f"bertjax {__version__}")
        sys.exit(0)
    if command in LIBRARY:
        from bertjax.machine.signals import Stopped, listening

        try:
            with listening():
                importlib.import_module(f"bertjax.{command}.__main__").main(rest, f"bertjax {command}")
        except Stopped as stop:
            print(stop, file=sys.stderr)
            raise
    if command not in COMMANDS:
        known = [*COMMANDS, *LIBRARY]
        near = difflib.get_close_matches(command, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of: {', '.join(known)}"
        print(f"unknown command {command}; {hint}", file=sys.stderr)
        sys.exit(2)
    from bertjax.engine.command_line import shipped_folder

    script = str(shipped_folder("train") / f"{command}.py")
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")
    raise AssertionError(f"{script} leaves by itself")


if __name__ == "__main__":
    main()
