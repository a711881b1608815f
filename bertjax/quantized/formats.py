"""How finely what is rounded, in numbers: a model that was quantised is described by these, in its `config.json`.

A weight has a `Format`, by its parameter path; an input of a product has an `Activation`, by the name of its site. Two
sizes say who shares a scale: so many inputs and so many outputs of a matrix [inputs, outputs]. All of both is one scale
for the matrix, one output is the usual scale per channel, six are Q-BERT's groups (Shen et al. 2020), one input of a
word table is a row of it, 32 inputs by one output are what formats of 4 bits have elsewhere.
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
    """Of a weight matrix or table."""

    bits: int = 8
    scheme: Scheme = "symmetric"
    """symmetric: as many steps below 0 as above, 0 exact. asymmetric: from the smallest number to the largest.
    ternary: -a, 0 and a, at 1.6 bits, whatever `bits` says."""
    block_rows: int | None = None
    """Neighbouring rows of [inputs, outputs] that share a scale; None means all. No group reaches from one attention
    head into the next."""
    block_cols: int | None = 1
    """Neighbouring columns that do."""

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
    """Of what a product reads: one range for every text, found on text and then fixed, or one for each token."""

    bits: int = 8
    low: float | None = None
    """The range, which holds 0; None for both ends: each token has its own, symmetric."""
    high: float | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits, ACTIVATION_BITS)
        if (self.low is None) != (self.high is None):
            raise UserError(f"low is {self.low} and high {self.high}; give both ends of a range, or neither.")
        if self.low is not None and self.high is not None and not -math.inf < self.low <= 0 <= self.high < math.inf:
            raise UserError(
                f"the range is {self.low} to {self.high}; it has to be finite and to hold 0, which padding is."
            )


@dataclasses.dataclass(frozen=True)
class Quantization:
    """What of a model is rounded: weights by parameter path, inputs of products by site."""

    weights: tuple[tuple[str, Format], ...] = ()
    activations: tuple[tuple[str, Activation], ...] = ()


TABLE = Format(block_rows=1, block_cols=None)
INT8: tuple[tuple[str, Format | None], ...] = (
    (r"^embeddings/.*/embedding$", TABLE),
    (r"^(encoder|embeddings|pooler)/.*kernel$", Format(bits=7)),
)
"""What ships as int8: tables by row in 8 bits, kernels by output channel in 7. Heads stay in floating point: they are a
few hundred numbers that decide everything.

Kernels have 7 bits because processors without VNNI add products of int8 weights and uint8 activations in pairs, in 16
bits: 2 x 255 x 63 fits there and 2 x 255 x 127 does not, so ONNX Runtime and OpenVINO give wrong sums for weights of 8
bits (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). With 7 bits one file is exact on
all of them, and as fast."""


def full_int8(rules: tuple[tuple[str, Format | None], ...]) -> tuple[tuple[str, Format | None], ...]:
    """The rules with 8 bits where they say 7. Exported, such kernels are exact on processors that add products of bytes
    in 32 bits (VNNI, AMX, the dot products of Arm); on others only as unsigned bytes, which are slower."""
    return tuple(
        (path, dataclasses.replace(format, bits=8) if format and format.bits == 7 else format) for path, format in rules
    )
