"""Quantisation formats: bits, scheme and block size of weights and activations, as stored in `config.json`. No jax.

A weight has a `Format`, by parameter path. An input of a matrix product has an `Activation`, by site name. The weights
of a matrix [inputs, outputs] share scales in blocks of `block_rows` x `block_cols`:

    all x all    one scale for the matrix
    all x 1      per output channel, the usual choice
    all x 6      groups of Q-BERT (Shen et al. 2020)
    1 x all      per row, for embedding tables
    32 x 1       common in 4-bit formats of other libraries

Smaller blocks round more accurately, and each of their scales takes four bytes.
"""

import dataclasses
import math
from typing import Literal, get_args

from bertjax.errors import UserError

Scheme = Literal["symmetric", "asymmetric", "ternary"]


WEIGHT_BITS, ACTIVATION_BITS = (2, 3, 4, 7, 8), (2, 3, 4, 8)


def check_bits(bits: int, known: tuple[int, ...]) -> None:
    if bits not in known:
        *most, last = map(str, known)
        raise UserError(f"bits is {bits}; expected {', '.join(most)} or {last}.")


@dataclasses.dataclass(frozen=True)
class Format:
    """The format of a weight matrix or an embedding table."""

    bits: int = 8
    scheme: Scheme = "symmetric"
    """symmetric: integers from -n to n, with 0 exact. asymmetric: the range from the smallest to the largest weight.
    ternary: -a, 0 and a, stored in 1.6 bits; `bits` is ignored."""
    block_rows: int | None = None
    """Neighbouring rows of [inputs, outputs] that share a scale; None means all. With a number, no block spans two
    attention heads."""
    block_cols: int | None = 1
    """Neighbouring columns that share a scale, likewise."""

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise UserError(f"scheme is {self.scheme!r}; expected one of {', '.join(get_args(Scheme))}.")
        if self.scheme == "ternary":
            object.__setattr__(self, "bits", 2)
        check_bits(self.bits, WEIGHT_BITS)
        for name in ("block_rows", "block_cols"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise UserError(f"{name} is {size}; expected at least 1, or None for all of them.")

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return -(2 ** (self.bits - 1)) if self.scheme == "asymmetric" else -self.highest

    @property
    def highest(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1


@dataclasses.dataclass(frozen=True)
class Activation:
    """The format of an input of a product: either a fixed range from calibration, or a dynamic range per token."""

    bits: int = 8
    low: float | None = None
    """Lower end of the fixed range, which must contain 0. None for both ends: dynamic and symmetric, per token."""
    high: float | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits, ACTIVATION_BITS)
        if (self.low is None) != (self.high is None):
            raise UserError(
                f"low is {self.low} and high is {self.high}; give both ends of a range, or neither for a dynamic range."
            )
        if self.low is not None and self.high is not None and not -math.inf < self.low <= 0 <= self.high < math.inf:
            raise UserError(
                f"the activation range is {self.low} to {self.high}; expected finite numbers with low <= 0 <= high, "
                "because 0 must be represented exactly."
            )


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What is quantised in a model: weights by parameter path, inputs of products by site."""

    weights: tuple[tuple[str, Format], ...] = ()
    activations: tuple[tuple[str, Activation], ...] = ()


TABLE = Format(block_rows=1, block_cols=None)
INT8: tuple[tuple[str, Format | None], ...] = (
    (r"^embeddings/.*/embedding$", TABLE),
    (r"^(encoder|embeddings|pooler)/.*kernel$", Format(bits=7)),
)
"""The default int8 rules: embedding tables per row in 8 bits, kernels per output channel in 7. Heads stay in floating
point: they have a few hundred weights, and the output depends on each of them.

Kernels have 7 bits because processors without VNNI add products of int8 weights and uint8 activations in pairs, in 16
bits: 2 x 255 x 63 fits there and 2 x 255 x 127 overflows, so ONNX Runtime and OpenVINO give wrong sums for 8-bit
weights (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). With 7 bits the same file is
exact on all processors, at the same speed.
"""


def full_int8(rules: tuple[tuple[str, Format | None], ...]) -> tuple[tuple[str, Format | None], ...]:
    """The rules with 8 bits in place of 7.

    Exported, such kernels are exact on processors that accumulate int8 products in 32 bits (VNNI, AMX, the dot products
    of Arm). On others they are exact only as unsigned bytes, which are slower.
    """
    return tuple(
        (path, dataclasses.replace(format, bits=8) if format and format.bits == 7 else format) for path, format in rules
    )
