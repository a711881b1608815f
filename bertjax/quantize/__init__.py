"""Quantisation: weights and activations in fewer bits.

A weight matrix of a BERT has a few million numbers of similar size, so each can be stored as an integer of 8, 4, 3 or 2
bits times a shared scale. Three things improve, each under its own condition: size on disk (always), memory traffic
(where weights stay integers until they are used), and speed (only where the processor multiplies int8 by int8). The
price is a rounding error of at most half a step; quantisation-aware training recovers most of the loss in accuracy.

    ../quantized/formats.py   bits, scheme and block size (no jax)
    ../quantized/grid.py      the blocks of a matrix that share a scale
    ../quantized/rounding.py  quantise and dequantise, with straight-through gradients
    ../quantized/packing.py   2, 3 and 4-bit and ternary integers packed into bytes
    ../quantized/stored.py    a matrix as the arrays of a file, without its zeros where that is smaller
    ../quantized/tensor.py    a matrix of integers with its scales, as one leaf of a parameter tree
    ../model/quantized.py     matrix products of a quantised model, in integers or simulated in floating point
    ranges.py                 weight ranges
    weights.py                post-training quantisation of the weights, by rules over parameter paths
    tables.py                 the word table in a given size: its width and its bits
    activations.py            activation ranges, from calibration examples
    corrections.py            smooth quantisation and bias correction
    training.py               quantisation-aware training: straight-through rounding, learned scales
    sensitivity.py            how much quantising each layer hurts: Hessian (Q-BERT), or the measured loss
    assignment.py             mixed precision: bits per layer, optimal for a size budget

The trade-off is the number of scales. One per matrix must cover the largest weight, and the small ones lose precision.
One per channel or group is more accurate, and each takes four bytes. Below four bits, clipping the range matters more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.callable_package import make_callable
from bertjax.quantized.formats import Activation, Format, Quantization

if TYPE_CHECKING:
    from bertjax.quantize.weights import quantise_weights
    from bertjax.quantized.tensor import Quantized, dequantised

__all__ = ["Activation", "Format", "Quantization", "Quantized", "dequantised", "quantise_weights"]

_HOMES = {"Quantized": "quantized.tensor", "dequantised": "quantized.tensor", "quantise_weights": "quantize.weights"}

make_callable(__name__)


def __getattr__(name: str) -> Any:
    """Imports lazily: config files use `formats`, which needs no jax; everything else is imported at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax.quantize' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bertjax.{_HOMES[name]}"), name)
    return value
