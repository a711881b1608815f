"""How many tokens go on after each layer, how that is found, and the training afterwards."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.distill.terms import HardLabels, Loss, SoftTargets
from bertjax.errors import UserError
from bertjax.model.retention import After, RankedBy, Retention
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.distill import Recovery
from bertjax.token_dropping.search import LADDER


@dataclass(frozen=True)
class DropTokens(Recovery):
    """Token dropping as a stage of `compress`, with the training afterwards."""

    job: ClassVar[str] = "bertjax.jobs.drop_tokens"

    name: str = "fewer-tokens"
    """Name of the result in the report."""
    packed: bool = field(default=False, init=False)
    losses: tuple[Loss, ...] = (SoftTargets(0.9, temperature=2.0), HardLabels(0.1))
    shares: tuple[float, ...] = ()
    """For each layer the share of a text's tokens that go on after it, as 1,0.7,0.5,0.5,0.3,0.3. Default: searched."""
    flops: float | None = None
    """In place of shares: the fraction of the encoder's arithmetic to remove, as 0.5 for half, at the lengths of the
    text that is searched on."""
    bound: float | None = None
    """In place of shares and flops: the largest loss of score, 0.01 for one point. Of the fractions 0.1, 0.15 ... 0.9
    of the arithmetic the largest is removed that --held_out certifies to lose no more. That holds for the model before
    the training afterwards. A bound of one point needs at least 368 texts."""
    held_out: str | None = None
    """For flops: text to search on, without labels. Default: the training text. For bound: labelled text to certify on,
    which was not trained on; the training text is searched on. Never give --data.eval."""
    examples: int = 256
    """Texts that each candidate of the search is tried on."""
    evaluations: int = 100
    """Candidates to try; for bound, of all fractions together. Each is a pass over these texts without any saving."""
    ranked_by: RankedBy = "others"
    """The significance of a token: the attention that it gets. others: from other tokens (PoWER-BERT). all: from itself
    too (Length-Adaptive Transformer). Two controls do without attention: first, the earlier tokens, and random."""
    after: After = "attention"
    """Where in a layer tokens are dropped: between attention and feed-forward layer, or after the whole layer."""
    multiple: int = 1
    """Round numbers of tokens up to a multiple of this, for the hardware."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {name: getattr(self, name) for name in ("shares", "flops", "bound")}
        given = {name: value for name, value in given.items() if value not in ((), None)}
        if len(given) > 1:
            flags = " and ".join(f"--{name}={value}" for name, value in given.items())
            raise UserError(f"{flags}: give one of --shares, --flops and --bound")
        if self.flops is not None and not 0 < self.flops < 1:
            raise UserError(f"--flops={self.flops}: expected the fraction to remove, above 0 and below 1")
        if self.bound is not None:
            if not 0 < self.bound < math.inf:
                raise UserError(f"--bound={self.bound}: expected a loss of score above 0, as 0.01 for one point")
            if not self.held_out:
                raise UserError(f"--bound={self.bound} needs labelled text that certifies it: give --held_out")
            if self.evaluations < len(LADDER):
                raise UserError(
                    f"--evaluations={self.evaluations}: with --bound expected {len(LADDER)} or more, one for each "
                    "fraction of the arithmetic"
                )
        for name in ("examples", "evaluations", "multiple"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected 1 or more")
        if self.held_out and self.flops is None and self.bound is None:
            raise UserError(
                f"--held_out={self.held_out} is the text that --flops searches on or --bound is certified on: give one "
                "of them too"
            )
        if self.shares:
            self.retention(self.shares)

    def retention(self, shares: tuple[float, ...]) -> Retention:
        return Retention(shares, self.ranked_by, self.after, self.multiple)


@dataclass(frozen=True)
class Config(DropTokens):
    """Token dropping."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "flops", "bound", "shares", "held_out", *OF_TRAINING)

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, with a trained head."""
    teacher: str | None = None
    """The teacher of the training afterwards: a folder or hf:NAME. Default: the model itself."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. Default: OUT/recovery/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/drop_tokens"
    """Folder for the model. OUT/cut holds it as it was before training."""
