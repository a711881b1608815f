"""How to train, whatever it is that is trained."""

import re
from dataclasses import dataclass, field
from typing import Literal

from bertjax.errors import UserError
from bertjax.machine.chips import topology
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding


@dataclass(frozen=True)
class Training:
    """How to train, whatever it is that is trained."""

    steps: int | None = None
    """Number of steps. Give this or epochs."""
    epochs: float | None = None
    """Passes over the training data, if steps is not given. 3 if neither is."""
    batch_size: int = 32
    """Rows per step, over all devices: examples, or several of them each where a script packs."""
    micro_batches: int = 1
    """Parts of a batch that are computed one after the other, to save memory; the update is the same."""
    seed: int = 0
    """Decides new parameters, dropout, the order of the data and what is hidden, each by numbers of its own."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    sharding: Sharding = field(default_factory=Sharding)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the model: bfloat16 on TPU, GPU and processors with AMX."""
    remat: bool = False
    """Recompute layers in the backward pass, to save memory, on TPU and GPU: for CPUs, XLA finds what is computed twice
    and computes it once."""
    attention: Literal["xla", "cudnn", "flash"] = "xla"
    """Attention kernel: cudnn on an NVIDIA GPU, in bfloat16; flash on a TPU. Neither drops attention probabilities."""
    save_every: int = 200
    """Steps between checkpoints."""
    profile: str | None = None
    """Steps to record, as in 20:25, for TensorBoard and Perfetto: OUT/profile. They are counted from where this process
    begins, so that a resumed run is recorded as well."""
    compile_only: str | None = None
    """Train nothing and write nothing: compile the step for so many TPUs, v5e:2x4 for one, on any machine, and say what
    it takes and whether it fits."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise UserError(f"--steps={self.steps} and --epochs={self.epochs}: give one of the two")
        for name in ("steps", "epochs", "batch_size", "micro_batches", "save_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name}={value}: expected a number above 0")
        if not -(2**63) <= self.seed < 2**63:
            raise UserError(f"--seed={self.seed}: expected a number of 64 bits")
        if self.profile is not None and not re.fullmatch(r"\d+:\d+", self.profile):
            raise UserError(f"--profile={self.profile}: expected START:STOP, as in 20:25")
        if self.batch_size % self.micro_batches:
            raise UserError(f"--micro_batches={self.micro_batches} does not divide --batch_size={self.batch_size}")
        if self.compile_only is not None:
            topology(self.compile_only)

    def total_steps(self, steps_per_epoch: int) -> int:
        if self.steps is not None:
            return self.steps
        return max(1, round((3.0 if self.epochs is None else self.epochs) * steps_per_epoch))
