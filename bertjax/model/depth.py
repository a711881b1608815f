"""Adaptive depth as data: recurrence with halting, and early exits. No jax.

A recurrence sets how often a block is repeated, and when a position halts (Adaptive Computation Time). Exits set after
which depth steps an example may exit early, with which head, and by which rule. `bertjax.adaptive` executes them, and
continues with the examples that remain.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from bertjax.errors import UserError
from bertjax.storage.typed_json import Rate, Within, check

DEEPEST = 10_000
"""The maximum number of depth steps, more than ten times that of any trained model."""
Signal = Literal["none", "sinusoid", "learned"]


@dataclass(frozen=True)
class Halting:
    """When a position halts: Adaptive Computation Time (Graves 2016), as in the Universal Transformer.

    Each step computes a halting probability for each position, from its state before the step. A position halts at the
    step where their sum exceeds `1 - epsilon`. The fields are the choices that the paper does not specify, or that
    paper and official code make differently.
    """

    output: Literal["basic", "accumulated"] = "basic"
    """basic: a running average, output = p * result + (1 - p) * output, as in paper and official code. accumulated: the
    weighted sum of all results, as in Graves (2016)."""
    halted: Literal["evolving", "frozen"] = "evolving"
    """The state of a halted position. evolving: it keeps changing, as in the listings of paper and official code.
    frozen: it is copied, as in the paper's text."""
    remainder_at_end: bool = False
    """True: a position that has not halted at the last step gives it the remaining weight, so that its weights sum to
    1. Neither listing does this."""
    epsilon: Rate = 0.01
    bias: float = 1.0
    """Initial bias of the halting logit. 1 gives a probability of 0.73, so an untrained model halts at the second
    step."""
    scope: Literal["position", "example"] = "position"
    """What halts: each position, or a whole example by the mean of its probabilities."""

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Recurrence:
    """All layers of a model form one block, applied `steps` times (Dehghani et al. 2018)."""

    steps: Annotated[int, Within(1, DEEPEST)] = 6
    """The number of steps, or with `halting` the maximum."""
    positions: Signal = "sinusoid"
    """Position signal, added to the state at every step."""
    times: Signal = "sinusoid"
    """Time signal, added to the state at every step: the number of the step."""
    first: Literal[0, 1] = 1
    """The number of the first position and of the first step, for sinusoids."""
    layout: Literal["interleaved", "halves"] = "interleaved"
    """interleaved: sine and cosine of each frequency side by side (Dehghani et al. 2018, eq. 6-7). halves: all sines,
    then all cosines, with another scale of frequencies (official code)."""
    halting: Halting | None = None

    def __post_init__(self):
        check(self)


Rule = Literal["entropy", "normalised_entropy", "max_probability", "margin", "patience"]


@dataclass(frozen=True)
class ExitRule:
    """When an example exits: at the first exit whose prediction is confident enough, by a rule of
    `bertjax.adaptive.policies`."""

    rule: Rule = "entropy"
    threshold: float = 0.0
    """An example exits below it by entropy, above it by probability or margin; for patience, the number of agreeing
    predictions."""
    tolerance: Annotated[float, Within(0)] = 0.0
    """For patience in regression: predictions that differ by less than this agree."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Exits:
    """Heads after some depth steps, in addition to the model's own after the last."""

    after: tuple[Annotated[int, Within(-1, DEEPEST)], ...]
    """Depth steps, counted from 0; -1 is the embeddings, before the first step."""
    head: Literal["own_pooler", "shared_pooler", "shared"] = "own_pooler"
    """own_pooler: a pooler and a classifier per exit (DeeBERT, Xin et al. 2020). shared_pooler: a classifier per exit
    on the model's pooler (PABEE, Zhou et al. 2020). shared: the model's own head at every exit, which suits layers that
    share parameters."""
    exit_rule: ExitRule | None = None
    """None: no example exits early."""
    reads: Literal["first", "mean"] = "first"
    """What an exit's own pooler reads: the first row, as in both papers, or the mean over real tokens. In the lower
    layers of a model pre-trained with mean pooling, the first row holds almost no information about the input."""

    def __post_init__(self) -> None:
        check(self)
        if not self.after or list(self.after) != sorted(set(self.after)):
            raise UserError(
                f"exits after {self.after}: expected at least one layer, in ascending order and each once; layers "
                "count from 0, and -1 is the embeddings."
            )
        if self.after[0] == -1 and self.reads == "first":
            raise UserError(
                "an exit on the embeddings (-1) needs reads='mean', because the first row, [CLS], is the same for "
                "every text there."
            )
        if self.reads == "mean" and self.head != "own_pooler":
            raise UserError(
                f"head={self.head!r} uses the model's pooler, which reads the first row, so it cannot read the mean; "
                "use head='own_pooler' or reads='first'."
            )
