"""The `bertjax` command: runs the scripts in `train/` and the commands of the library.

`bertjax distill ...` is `python train/distill.py ...` from any folder. The script is found by its location, inside the
installed package or beside it in a checkout, so that another `train` on the user's path does no harm.
"""

import difflib
import importlib
import runpy
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = {
    "compress": "all in one: fine-tune a teacher, distil it into a smaller student, measure both",
    "finetune": "train a model on labelled text",
    "distill": "train a smaller student to reproduce the outputs of a teacher",
    "augment": "data augmentation: copies of each example with some words replaced",
    "prune": "remove attention heads, FFN neurons or layers, or set weights to zero; then fine-tune",
    "drop_tokens": "let only the tokens go on that matter: fewer after each layer; then fine-tune",
    "latency": "measure how long the parts of a model take: the table for pruning to a speed-up",
    "ticket": "find a lottery ticket: a mask with which the pre-trained weights train as well as whole",
    "quantize": "quantise weights and activations, after training or during training (QAT)",
    "exits": "add and train early-exit classifiers after inner layers",
    "calibrate": "choose the early-exit threshold on held-out text, and measure the speed-up",
    "pretrain": "masked language modelling and sentence-pair tasks on raw text",
    "vocabulary": "remove tokens from the vocabulary that your text never uses",
    "evaluate": "compare models: score, size, speed, memory",
    "compare": "compare distillation methods: one teacher, one budget, several seeds, one table",
    "predict": "label text: labels and probabilities as JSON lines",
}
LIBRARY = {
    "export": "write ONNX, StableHLO, LiteRT or a folder for plain transformers, checked against JAX",
    "verify": "acceptance test: fail if an export is worse, slower or larger than required",
}
"""Commands without a script, `python -m bertjax.NAME`."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code; 2 and one line on stderr for an unknown command."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print("usage: bertjax COMMAND [--config=FILE] [--field=value ...]\n")
        print(*(f"  {name:<10} {meaning}" for name, meaning in (COMMANDS | LIBRARY).items()), sep="\n")
        print("\n`bertjax COMMAND --help` shows its everyday flags, `--help=all` every one with its default.")
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
    raise AssertionError(f"{script} exits by itself")


if __name__ == "__main__":
    main()
