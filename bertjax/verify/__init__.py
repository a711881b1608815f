"""The last gate before shipping: is NEW as good as promised, beside OLD, here, as files?

    python -m bertjax.verify exports/int8 --against exports/float32 --data dev.tsv --min-speedup 2 --max-drop 1

    folder.py      what lies in a folder, read without running it
    comparison.py  both models on the same texts, each in its own runtime and process
    measured.py    the numbers
    causes.py      the numbers against the bounds, and why one does not hold
    words.py       the same in lines of text

A report describes the model that was measured, on the machine that measured it; between it and what is shipped lie an
export, a rounding, a copy and another processor. So nothing stored is believed: scores, times and bytes are taken anew,
and a folder whose own report says otherwise is refused for that alone, as is an export that does not compute what the
bundle it names does. It takes a minute or two, most of them spent waiting for clean times. A pair of ONNX folders is
verified without jax, flax, torch or transformers, where no bundle lies beside them.
"""

from bertjax.verify.causes import verdict
from bertjax.verify.comparison import compare
from bertjax.verify.measured import Bounds, Failure, Measured

__all__ = ["Bounds", "Failure", "Measured", "compare", "verdict"]
