"""What was measured of two models, and what must hold of it: numbers and texts, nothing that computes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from bertjax.errors import UserError
from bertjax.measure.latency import Timing
from bertjax.measure.onnx import INTEGER_PRODUCTS, Graph


@dataclass(frozen=True)
class Bounds:
    """What NEW must keep to, beside OLD. None: no bound."""

    min_speedup: float | None = None
    """OLD's median milliseconds for one text over NEW's."""
    max_drop: float | None = None
    """Points of the score (times 100) that NEW may lie below OLD."""
    max_mb: float | None = None
    """Megabytes (10^6) of all that ships."""

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            if bound is not None and not math.isfinite(bound):
                raise UserError(f"--{name.replace('_', '-')}={bound}: expected a number, or nothing for no bound")


def exceeds(drop: float, bound: float | None) -> bool:
    """Whether so many points lost are more than the bound. A tolerance far below one example of any evaluation set
    keeps 18 of 600 examples, 3.0000000000000027 points as float64 subtracts them, within a bound of 3. NaN exceeds."""
    return bound is not None and not drop <= bound + 1e-9


class Weights(NamedTuple):
    """The arrays of a model as they are stored."""

    bytes: int
    shapes: tuple[tuple[int, ...], ...]
    """Of the arrays with two dimensions or more; the sides of each, and the arrays, in order of size."""
    zeros: float
    """Share of exact zeros in them."""
    makeup: str
    """Which types the bytes are of, and which array takes most of them, for a sentence."""


class Claim(NamedTuple):
    """A number that a model's own papers give."""

    file: str
    what: str
    """"score", "speed-up" or "bytes"."""
    value: float
    interval: tuple[float, float] | None = None


class Parity(NamedTuple):
    """NEW held against the bundle that it was exported from, run in JAX."""

    bundle: str
    largest: float
    """Largest difference of two logits."""
    distance: float
    """Of the farthest text, or of the median one where NEW rounds, as a share of the logits' size."""
    agreement: float | None


@dataclass(frozen=True)
class Side:
    """One of the two models. Scores are fractions."""

    folder: str
    score: float
    interval: tuple[float, float]
    timing: Timing
    bytes: int
    """Of all files."""
    weights: Weights
    graph: Graph | None = None
    """None for what JAX runs."""
    truncated: int = 0
    """Texts that lost their end."""
    finite: bool = True
    answers: int | None = None
    """How many different answers it gives; None for numbers."""
    claims: tuple[Claim, ...] = ()
    file_bytes: int = 0
    """Of the file or files that the weights are in."""
    inexact: tuple[str, ...] = ()
    """Its matrices of integers whose products this runtime gets wrong on this processor."""

    @property
    def holds_integers(self) -> bool:
        """Whether the file has products of integers, or weights stored as such."""
        kinds = (*INTEGER_PRODUCTS, "DequantizeLinear")
        return self.graph is not None and any(self.graph.stored.get(kind) for kind in kinds)


@dataclass(frozen=True)
class Measured:
    """Both models on the same texts."""

    metric: str
    texts: int
    labels: int | None
    """Different labels that the texts carry; None for numbers."""
    old: Side
    new: Side
    difference: tuple[float, float]
    """95 % interval of NEW's score less OLD's."""
    p_value: float
    agreement: float | None
    """Share of texts that both answer alike; None for numbers."""
    same_tokens: float
    """Share of texts that both tokenizers cut into the same ids."""
    renamed: float | None = None
    """Agreement if each class of NEW is called what OLD mostly says there; None where that renames nothing."""
    parity: Parity | None = None
    features: frozenset[str] | None = None
    """What the processor says it can do; None where it does not say."""
    unheld: str = ""
    """Why NEW was not held against the bundle that it names."""

    @property
    def speed_up(self) -> float:
        """How many times less time NEW takes for one text."""
        return self.old.timing.latency.batch_1.p50 / self.new.timing.latency.batch_1.p50

    @property
    def speed_up_range(self) -> tuple[float, float]:
        """Lowest and highest of the repeats."""
        repeats = [old / new for old, new in zip(self.old.timing.repeats, self.new.timing.repeats, strict=True)]
        return min(repeats, default=self.speed_up), max(repeats, default=self.speed_up)

    @property
    def change(self) -> float:
        """Points that NEW lies above OLD."""
        return 100 * (self.new.score - self.old.score)

    @property
    def throughput_ratio(self) -> float:
        """How many times more texts NEW answers in batches of 32."""
        return self.new.timing.throughput_per_s / self.old.timing.throughput_per_s


class Failure(NamedTuple):
    """A bound that does not hold or a claim that is not true, and what the measurement says of why."""

    what: str
    causes: tuple[str, ...] = ()
