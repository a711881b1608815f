"""How the threshold of early exit is found, and on what."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data


@dataclass(frozen=True)
class Config:
    """Calibration."""

    everyday: ClassVar[tuple[str, ...]] = ("model", "held_out", "data.eval", "out", "rule", "bound", "data.max_length")

    model: str = "runs/exits/bundle"
    """A model with exits, or one that answers questions: a folder or hf:NAME."""
    held_out: str = "demo"
    """Labelled examples that were not used in training: a file, tfds:NAME/SPLIT, or demo (its validation split)."""
    data: Data = field(default_factory=Data)
    rule: Literal["entropy", "normalised_entropy", "max_probability", "margin", "patience"] = "entropy"
    """Confidence measure of an exit: entropy, normalised entropy, largest probability, margin of the two largest, or
    patience (PABEE)."""
    tolerance: float = 0.0
    """For patience in regression: predictions of two exits that differ by less than this agree."""
    bound: float = 0.01
    """Largest loss of score: 0.01 is one point. A smaller bound needs more held-out examples."""
    sample: int = 256
    """Examples of --data.eval to time."""
    out: str = "runs/calibrate"
    """Folder for the model and the report."""

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise UserError(f"--sample={self.sample}: expected at least 1 text to time")
        if not 0 <= self.bound < math.inf:
            raise UserError(f"--bound={self.bound}: expected a loss of score that may be had, 0.01 for one point")
