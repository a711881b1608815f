"""AdamW or LAMB with warm-up and decay, as numbers."""

from dataclasses import dataclass
from typing import Literal

from bertjax.errors import UserError


@dataclass(frozen=True)
class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) or LAMB (You et al. 2020, algorithm 2)."""

    rule: Literal["adamw", "lamb"] = "adamw"
    """adamw, or lamb for batches of thousands."""
    learning_rate: float = 5e-5
    """Peak learning rate."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate rises from 0."""
    decay: Literal["linear", "constant", "cosine"] = "linear"
    """What follows the warm-up: down to 0 at the last step, or constant."""
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 1.0
    """Largest global norm of the gradient."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Rules (regex, multiplier of the learning rate) over params/... and extra/...; the first match wins."""
    swa_fraction: float = 0.0
    """Over which part of the steps, the last ones, weights are averaged; the model is then that average."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"--optimiser.learning_rate={self.learning_rate}: expected a positive number, 5e-5 for one")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--optimiser.warmup={self.warmup}: expected a fraction of the steps, from 0 to 1")
        if not self.clip > 0:
            raise UserError(f"--optimiser.clip={self.clip}: expected a positive norm")
        for name in ("b1", "b2"):
            if not 0 <= (decay := getattr(self, name)) < 1:
                raise UserError(f"--optimiser.{name}={decay}: expected a number from 0 to below 1")
        if not self.epsilon > 0:
            raise UserError(f"--optimiser.epsilon={self.epsilon}: expected a positive number, 1e-8 for one")
        if not self.weight_decay >= 0:
            raise UserError(f"--optimiser.weight_decay={self.weight_decay}: expected 0 or more")
        if not 0 <= self.swa_fraction <= 1:
            raise UserError(f"--optimiser.swa_fraction={self.swa_fraction}: expected a part of the steps, from 0 to 1")
