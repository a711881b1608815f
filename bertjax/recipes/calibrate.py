"""How the threshold of early exit is found, and on what."""

import math
from dataclasses import dataclass, field
from typing import Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data


@dataclass(frozen=True)
class Config:
    """Calibration."""

    model: str = "runs/exits/bundle"
    """A model with exits: a folder or hf:NAME."""
    held_out: str = "demo"
    """Text with labels that trained nothing: a file, tfds:NAME/SPLIT, or demo (its validation split)."""
    data: Data = field(default_factory=Data)
    rule: Literal["entropy", "normalised_entropy", "max_probability", "margin", "patience"] = "entropy"
    """How sure an answer is: see bertjax.adaptive."""
    tolerance: float = 0.0
    """Of patience in regression: two numbers that differ by less agree."""
    bound: float = 0.01
    """Largest loss of score that may be: 0.01 is one point. The smaller, the more held-out text shows it."""
    sample: int = 256
    """Texts of --data.eval that are timed."""
    out: str = "runs/calibrate"
    """Folder for the model and the report."""

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise UserError(f"--sample={self.sample}: expected at least 1 text to time")
        if not 0 <= self.bound < math.inf:
            raise UserError(f"--bound={self.bound}: expected a loss of score that may be had, 0.01 for one point")
