"""The last check before shipping: is NEW as good as required, compared with OLD, on this machine, as files?

    python -m bertjax.verify exports/int8 --against exports/float32 --data dev.tsv --min-speedup 2 --max-drop 1

    folder.py      what a folder holds, read without running the model
    comparison.py  both models on the same texts, each in its own runtime and process
    measured.py    the measured numbers
    behaviour.py   what of a file depends on the text and on its batch
    causes.py      the numbers compared with the bounds, and likely causes of a failure
    text.py        the result as lines of text

A report describes the model that was measured, on the machine that measured it. Between that and the shipped files
there is an export, quantisation, a copy and another processor. So no stored number is trusted: scores, times and sizes
are measured again. A folder whose own report contradicts the measurement is refused for that alone, and so is an export
whose outputs differ from those of the bundle it names.

It takes a minute or two, most of which is waiting for undisturbed timings. A pair of ONNX folders without a bundle
beside them is verified without jax, flax, torch or transformers.
"""

from bertjax.callable_package import make_callable
from bertjax.verify.causes import verdict
from bertjax.verify.comparison import compare
from bertjax.verify.measured import Bounds, Failure, Measured

__all__ = ["Bounds", "Failure", "Measured", "compare", "verdict"]

make_callable(__name__)
