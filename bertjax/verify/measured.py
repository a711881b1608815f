"""The measurements of two models and the bounds on them: data only, no computation."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from bertjax.errors import UserError
from bertjax.measure.latency import Timing
from bertjax.measure.onnx import DECISIONS, INTEGER_PRODUCTS, Graph


@dataclass(frozen=True)
class Bounds:
    """The limits that NEW must keep, compared with OLD. None: no limit."""

    min_speedup: float | None = None
    """OLD's median milliseconds for one text, divided by NEW's."""
    max_drop: float | None = None
    """Points of the score (times 100) that NEW may lie below OLD."""
    max_mb: float | None = None
    """Megabytes (10^6 bytes) of all files that ship."""
    min_agreement: float | None = None
    """Percent of the texts for which NEW predicts what OLD does: the class, all tags, the answer."""

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            if bound is not None and not math.isfinite(bound):
                raise UserError(f"--{name}={bound}: expected a finite number; leave the flag out to set no bound")


def exceeds(drop: float, bound: float | None) -> bool:
    """Whether a loss of `drop` points is more than the bound; NaN exceeds any bound. The tolerance is far below one
    example of any evaluation set. It accepts 18 of 600 examples, which are 3.0000000000000027 points in float64, for a
    bound of 3."""
    return bound is not None and not drop <= bound + 1e-9


class Weights(NamedTuple):
    """The arrays of a model as they are stored."""

    bytes: int
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the arrays with two dimensions or more; the sides of each shape are sorted, and so are the shapes."""
    zeros: float
    """Share of exact zeros in these arrays."""
    makeup: str
    """The share of bytes per dtype and the largest array, as part of a sentence."""


class Claim(NamedTuple):
    """A number that a model's own report or card states."""

    file: str
    what: str
    """"score", "speed-up" or "bytes"."""
    value: float
    interval: tuple[float, float] | None = None


class InOther(NamedTuple):
    """NEW's file in ONNX Runtime, where NEW is measured in OpenVINO."""

    largest: float
    """Largest difference of a logit."""
    agreement: float | None


class Parity(NamedTuple):
    """NEW compared with the bundle that it was exported from, which is run in JAX."""

    bundle: str
    largest: float
    """Largest difference of a logit."""
    distance: float
    """The difference as a share of the logits' size: the largest over the texts, or the median text's if NEW has
    quantised activations, exits or dropped tokens."""
    agreement: float | None


class WorstCase(NamedTuple):
    """The longest text that was tried, exiting nowhere."""

    tokens: int
    depth: int
    ms: float
    usual_ms: float
    """The time of the same text with the file's own threshold."""


class Behaviour(NamedTuple):
    """How a file's work depends on the text and on its batch, on a sample of the rows."""

    rows: int
    changed: int
    """Rows that get another answer, or another depth, in a batch than alone."""
    largest: float
    """Largest difference of a logit of the other rows."""
    depths: tuple[int, ...] = ()
    """The depth steps that each row took; empty for a file without early exits or halting."""
    tokens: tuple[tuple[int, float], ...] = ()
    """Layers that drop tokens, with the mean number of tokens after them."""
    worst: WorstCase | None = None


class LengthTimes(NamedTuple):
    """Median milliseconds of single texts of at most `tokens` tokens, and of more than half as many."""

    tokens: int
    texts: int
    old_ms: float
    new_ms: float


@dataclass(frozen=True)
class Side:
    """One of the two models. Scores are fractions."""

    folder: str
    score: float
    interval: tuple[float, float]
    timing: Timing
    bytes: int
    """The size of all files."""
    weights: Weights
    graph: Graph | None = None
    """None for a bundle, which runs in JAX."""
    truncated: int = 0
    """Number of truncated texts."""
    finite: bool = True
    answers: int | None = None
    """Number of different predictions; None for regression."""
    claims: tuple[Claim, ...] = ()
    file_bytes: int = 0
    """Size of the file or files with the weights."""
    inexact: tuple[str, ...] = ()
    """Quantised matrices whose products this runtime computes wrongly on this processor."""

    @property
    def holds_integers(self) -> bool:
        """Whether the file has integer products, or weights stored as integers."""
        kinds = (*INTEGER_PRODUCTS, "DequantizeLinear")
        return self.graph is not None and any(self.graph.stored.get(kind) for kind in kinds)

    @property
    def decides(self) -> bool:
        """Whether texts exit early or tokens are dropped in the file."""
        return self.graph is not None and any(self.graph.stored.get(kind) for kind in DECISIONS)


@dataclass(frozen=True)
class Measured:
    """Both models on the same texts."""

    metric: str
    texts: int
    labels: int | None
    """Number of different labels in the data; None for regression."""
    old: Side
    new: Side
    difference: tuple[float, float]
    """95 % interval of NEW's score minus OLD's."""
    p_value: float
    agreement: float | None
    """Share of texts with the same prediction; None for regression."""
    same_tokens: float
    """Share of texts with the same token ids for both models."""
    renamed: float | None = None
    """Agreement if each class of NEW is renamed to the class that OLD predicts most often for the same texts; None if
    that renames nothing."""
    parity: Parity | None = None
    features: frozenset[str] | None = None
    """The features that the processor reports; None if it does not report any."""
    no_parity: str = ""
    """Why NEW was not compared with the bundle that it names."""
    behaviour: Behaviour | None = None
    """That of NEW; None for a bundle."""
    by_length: tuple[LengthTimes, ...] = ()
    in_other: InOther | None = None
    runtimes: tuple[str, ...] = ()
    """Why the files are measured in their runtimes."""

    @property
    def speed_up(self) -> float:
        """OLD's time for one text, divided by NEW's."""
        return self.old.timing.latency.batch_1.p50 / self.new.timing.latency.batch_1.p50

    @property
    def speed_up_range(self) -> tuple[float, float]:
        """Lowest and highest speed-up of the repeats."""
        repeats = [old / new for old, new in zip(self.old.timing.repeats, self.new.timing.repeats, strict=True)]
        return min(repeats, default=self.speed_up), max(repeats, default=self.speed_up)

    @property
    def change(self) -> float:
        """NEW's score minus OLD's, in points."""
        return 100 * (self.new.score - self.old.score)

    @property
    def throughput_ratio(self) -> float:
        """NEW's texts per second in batches of 32, divided by OLD's."""
        return self.new.timing.throughput_per_s / self.old.timing.throughput_per_s


class Failure(NamedTuple):
    """A bound that is not met or a claim that is not true, and the likely causes."""

    what: str
    causes: tuple[str, ...] = ()
