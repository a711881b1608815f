"""How deep an example goes, in numbers: recurrence and halting, exits and when to take one. No jax.

Depth is data. A recurrence says how often a block is repeated and by what rule a position stops (Adaptive Computation
Time); exits say after which depth steps an example may leave, with what head, and by what rule. Who carries that out,
and how the others go on without those who left, is `bertjax.adaptive`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from bertjax.errors import UserError
from bertjax.storage.typed_json import Rate, Within, check

DEEPEST = 10_000
"""Depth steps; nobody has trained a tenth of that."""
Signal = Literal["none", "sinusoid", "learned"]


@dataclass(frozen=True)
class Halting:
    """When a position stops: Adaptive Computation Time (Graves 2016), as the Universal Transformer uses it.

    Each step gives a position a halting probability, from its state before the step. It halts at the step that brings
    their sum above `1 - epsilon`. Paper and official code leave the rest open, or differ: the fields.
    """

    output: Literal["basic", "accumulated"] = "basic"
    """basic: each step's result replaces that share of the output before it, as in both; accumulated: the weighted sum
    of all steps' results, as in Graves (2016)."""
    halted: Literal["evolving", "frozen"] = "evolving"
    """Whether the state of a halted position goes on changing, as both listings do, or is copied, as the text says."""
    remainder_at_end: bool = False
    """Whether a position that has not halted at the last step gives that step the rest, so that its weights sum to 1.
    Neither listing does."""
    epsilon: Rate = 0.01
    bias: float = 1.0
    """Of the halting probability, at the start: sigmoid(1) = 0.73 halts everything at the second step."""
    scope: Literal["position", "example"] = "position"
    """Who halts: each position, or all of an example by the mean of their probabilities."""

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Recurrence:
    """The layers of a model form one block, applied `steps` times (Dehghani et al. 2018)."""

    steps: Annotated[int, Within(1, DEEPEST)] = 6
    """How often, or with `halting` how often at most."""
    positions: Signal = "sinusoid"
    """Added to the state at every step: where a token stands."""
    times: Signal = "sinusoid"
    """Added to the state at every step: which step it is."""
    first: Literal[0, 1] = 1
    """Number of the first position and of the first step, for sinusoids."""
    layout: Literal["interleaved", "halves"] = "interleaved"
    """Sine and cosine of each frequency side by side (Dehghani et al. 2018, eq. 6-7), or all sines before all cosines
    and another scale of frequencies (the official code)."""
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
    """For patience in regression: two numbers that differ by less agree."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Exits:
    """Heads after some depth steps, beside the model's own after the last."""

    after: tuple[Annotated[int, Within(-1, DEEPEST)], ...]
    """Depth steps, counted from 0; -1 is the embeddings, before the first of them."""
    head: Literal["own_pooler", "shared_pooler", "shared"] = "own_pooler"
    """A pooler and a classifier for each exit (DeeBERT, Xin et al. 2020), a classifier each behind the model's pooler
    (PABEE, Zhou et al. 2020), or the model's own head at every exit, which suits layers that share parameters."""
    exit_rule: ExitRule | None = None
    """None: no example exits early."""
    reads: Literal["first", "mean"] = "first"
    """What an exit's own pooler reads: the first row, as in both papers, or the mean over the real tokens. In the lower
    layers of a model that was pre-trained with mean pooling, the first row holds almost nothing of the text."""

    def __post_init__(self) -> None:
        check(self)
        if not self.after or list(self.after) != sorted(set(self.after)):
            raise UserError(
                f"exits after {self.after}: expected depth steps from 0 in rising order, at least one; "
                "-1 is the embeddings."
            )
        if self.after[0] == -1 and self.reads == "first":
            raise UserError(
                "an exit after -1, the embeddings, has to read the mean (reads='mean'): their first row never changes."
            )
        if self.reads == "mean" and self.head != "own_pooler":
            raise UserError(f"the model's pooler reads the first row, so head={self.head!r} cannot read the mean.")
