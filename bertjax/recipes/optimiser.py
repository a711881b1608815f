"""AdamW or LAMB, with warm-up and learning-rate decay, as numbers."""

from dataclasses import dataclass
from typing import Literal

from bertjax.errors import UserError


@dataclass(frozen=True)
class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) or LAMB (You et al. 2020, algorithm 2)."""

    rule: Literal["adamw", "lamb"] = "adamw"
    """Update rule: adamw, or lamb for batches of thousands of examples."""
    learning_rate: float = 5e-5
    """Peak learning rate, reached at the end of the warm-up."""
    warmup: float = 0.1
    """Fraction of the steps over which the learning rate rises from 0 to its peak."""
    decay: Literal["linear", "constant", "cosine"] = "linear"
    """Learning rate after the warm-up: linear or cosine decay to 0 at the last step, or constant."""
    min_lr_ratio: float = 0.0
    """Linear and cosine decay end at this fraction of the peak learning rate instead of 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay. By default not applied to biases, LayerNorm scales and parameters that do not ship."""
    decay_rules: tuple[tuple[str, float], ...] = ()
    """Rules (regex, multiplier of weight_decay) over the paths params/... and extra/...; the first match wins. Without
    a match: 0 for biases, LayerNorm scales and all of extra/... (projections of losses, learned step sizes), else 1."""
    b1: float = 0.9
    """Decay rate of Adam's first moment (mean of the gradients)."""
    b2: float = 0.999
    """Decay rate of Adam's second moment (mean of the squared gradients)."""
    epsilon: float = 1e-8
    """Added to the denominator of Adam's update."""
    clip: float = 1.0
    """Gradient clipping: largest global norm of the gradient."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Rules (regex, multiplier of the learning rate) over the paths params/... and extra/...; the first match wins;
    0 freezes."""
    swa_fraction: float = 0.0
    """Stochastic weight averaging: the final model is the average of the weights over this last fraction of the steps;
    0 takes the last weights."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"--optimiser.learning_rate={self.learning_rate}: expected a positive number, 5e-5 for one")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"--optimiser.warmup={self.warmup}: expected a fraction of the steps, from 0 to 1")
        if not 0 <= self.min_lr_ratio <= 1:
            raise UserError(f"--optimiser.min_lr_ratio={self.min_lr_ratio}: expected a fraction of the peak, 0 to 1")
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
            raise UserError(
                f"--optimiser.swa_fraction={self.swa_fraction}: expected a fraction of the steps, from 0 to 1"
            )
        for name in ("decay_rules", "lr_multipliers"):
            if bad := [rule for rule in getattr(self, name) if not rule[1] >= 0]:
                raise UserError(
                    f"--optimiser.{name}: the multiplier of {bad[0][0]!r} is {bad[0][1]}; expected 0 or more"
                )
