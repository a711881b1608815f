"""The fields that every training command has."""

import re
from dataclasses import dataclass, field
from typing import Literal

from bertjax.errors import UserError
from bertjax.learn.loss import Penalty
from bertjax.learn.transform import Transform
from bertjax.machine.chips import topology
from bertjax.prune.ticket import Ticket
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding


@dataclass(frozen=True)
class Training:
    """The fields that every training command has."""

    steps: int | None = None
    """Number of training steps (updates). Give this or epochs."""
    epochs: float | None = None
    """Passes over the training data. Default 3, if steps is not given either."""
    batch_size: int = 32
    """Rows per step over all devices. A row is one example, or several if the command packs short ones together."""
    micro_batches: int = 1
    """Gradient accumulation: split each batch into this many parts, to save memory. The update is the same."""
    seed: int = 0
    """Random seed of new parameters, dropout, masking and data order (independent streams)."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    sharding: Sharding = field(default_factory=Sharding)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the model; parameters stay float32. Use bfloat16 on TPUs, GPUs and processors with AMX."""
    remat: bool = False
    """Gradient checkpointing: recompute each layer in the backward pass, to save memory on TPUs and GPUs. No effect on
    CPUs, where XLA removes the recomputation."""
    attention: Literal["xla", "cudnn", "flash"] = "xla"
    """Attention kernel: xla anywhere, cudnn on NVIDIA GPUs in bfloat16, flash on TPUs. cudnn and flash have no dropout
    on attention probabilities."""
    transforms: tuple[Transform, ...] = ()
    """In a config file: what changes the model inside the training step, in this order: masks, dropped layers, frozen
    parts, rounding last. Subclasses of `bertjax.learn.Transform`, also your own."""
    penalties: tuple[Penalty, ...] = ()
    """In a config file: terms on the parameters alone. Subclasses of `bertjax.learn.Penalty`, also your own."""
    ticket: str | None = None
    """Lottery ticket: the file that `bertjax ticket` writes. Its zeros stay zeros, which saves no time. Training has to
    begin with the weights that the ticket belongs to; others are refused."""
    save_every: int = 200
    """Steps between checkpoints."""
    profile: str | None = None
    """Range of steps START:STOP, such as 20:25, to record in OUT/profile for TensorBoard and Perfetto. Counted from the
    first step of this process, also in a resumed run."""
    compile_only: str | None = None
    """Train nothing: compile the step for a TPU slice such as v5e:2x4, on any machine, and print its memory and FLOPs
    and whether it fits."""

    def __post_init__(self) -> None:
        check_parts("transforms", self.transforms, Transform)
        check_parts("penalties", self.penalties, Penalty)
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

    @property
    def all_transforms(self) -> tuple[Transform, ...]:
        """The masks of the ticket, and then the transforms."""
        return (*((Ticket(self.ticket),) if self.ticket else ()), *self.transforms)

    def total_steps(self, steps_per_epoch: int) -> int:
        if self.steps is not None:
            return self.steps
        return max(1, round((3.0 if self.epochs is None else self.epochs) * steps_per_epoch))


def check_parts(field_name: str, parts: tuple[object, ...], base: type) -> None:
    """Refuses parts of a training step that do not subclass their base."""
    for number, part in enumerate(parts):
        if not isinstance(part, base):
            raise UserError(
                f"{field_name}[{number}] is {part!r}; expected a frozen dataclass that subclasses "
                f"bertjax.learn.{base.__name__}."
            )
