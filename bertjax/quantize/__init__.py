"""Fewer bits for the same numbers.

A weight matrix of a BERT has a few million numbers that lie close together, so each can be an integer of 8, 4, 3 or 2
bits times a scale that many share. Three things are gained, and they are not the same: bytes on disk (always), memory
traffic (where the integers stay integers until they are used), and time (only where the processor multiplies integers:
8 bits times 8 bits). The price is rounding, half a step at most; training with the rounding in place wins most back.

    formats.py     how finely what is rounded: bits, scheme, who shares a scale (no jax)
    grid.py        the blocks of a matrix that share a scale
    ranges.py      from numbers to the range that their integers have to cover
    rounding.py    numbers to integers and back; rounding that lets gradients through
    packing.py     integers of 2, 3 and 4 bits and ternary ones, close together in bytes
    tensor.py      a matrix of integers with its scales, as one leaf of a parameter tree
    weights.py     which parameters, by rules; and rounding them all
    activations.py ranges of what flows between products, from text
    products.py    what a model computes with: integers, or floating point that was rounded as they are
    coverage.py    which products a program really makes with integers
    training.py    rounding in the training step: formats as transforms, scales that learn
    sensitivity.py how much rounding hurts each layer: curvature (Q-BERT), or the loss itself
    assignment.py  bits for each layer, the best within a size

The trade-off: per matrix, one scale must serve the largest number, which rounds the small ones away; per channel or
group it serves fewer, and each costs four bytes. Below four bits it matters more where the range is cut off.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.quantized.formats import Activation, Format, Quantization

if TYPE_CHECKING:
    from bertjax.quantize.weights import quantise_weights
    from bertjax.quantized.tensor import Quantized, dequantised

__all__ = ["Activation", "Format", "Quantization", "Quantized", "dequantised", "quantise_weights"]

_HOMES = {"Quantized": "quantized.tensor", "dequantised": "quantized.tensor", "quantise_weights": "quantize.weights"}


def __getattr__(name: str) -> Any:
    """`formats` is for config files, which import no jax; the rest is imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax.quantize' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bertjax.{_HOMES[name]}"), name)
    return value
