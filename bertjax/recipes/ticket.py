"""How a lottery ticket is found, and how it is trained afterwards."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Stage
from bertjax.student import Student


@dataclass(frozen=True)
class LotteryTicket(Finetune):
    """A lottery ticket as a stage of `compress`: it is found by iterations of training and pruning, then trained from
    the weights that it belongs to. Steps or epochs are those of one iteration, and of the training at the end."""

    job: ClassVar[str] = "bertjax.jobs.ticket"
    finetunes: ClassVar[bool] = False  # a model with a trained head is not to be taken in its place

    name: str = "ticket"
    """Name of the result in the report."""
    student: Student | None = field(default=None, init=False)  # decided here, and so no flags
    model_soup: int = field(default=1, init=False)
    method: Literal["iterative", "one_shot", "random", "shuffled"] = "iterative"
    """How the masks are made. iterative: train, prune the smallest weights, rewind, several times (Chen et al. 2020).
    The controls, which train nothing before the end: one_shot: the smallest weights of the model as given. random: as
    many weights at random. shuffled: the masks of --ticket, on a model whose matrices have their entries in random
    order."""
    ticket: str | None = None
    """For --method=shuffled: the ticket whose masks are kept. It belongs to --model."""
    sparsity: float = 0.6
    """Fraction of the prunable weights that are 0 in the ticket: kernels of attention and feed-forward layers, and the
    pooler's. Zeros save no time."""
    iterations: int = 6
    """Iterations of training and pruning. Each prunes an equal part of the original weights."""
    rewind: float | None = 0.0
    """Where the remaining weights go back to after each pruning. 0: to the model as given. A fraction: to what they
    were after this part of the first iteration. none: nowhere, which is ordinary iterative pruning."""
    head: Literal["kept", "rewound"] = "kept"
    """The task head after each pruning. kept: it stays as trained, as in the official code. rewound: it goes back
    with the other weights."""
    decay_over: Literal["iteration", "all"] = "iteration"
    """What the learning rate decays over. iteration: each iteration, down to --optimiser.min_lr_ratio. all: all
    iterations, but each begins at the peak again (after its warm-up, which the official code has none of), so that it
    falls by 1/iterations of it, as in the official code. The training at the end decays completely."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise UserError(f"--sparsity={self.sparsity}: expected a fraction of the weights, above 0 and below 1")
        if self.iterations < 1:
            raise UserError(f"--iterations={self.iterations}: expected 1 or more")
        if self.rewind is not None and not 0 <= self.rewind < 1:
            raise UserError(f"--rewind={self.rewind}: expected a fraction of an iteration, from 0 to below 1, or none")
        if self.method == "shuffled" and not self.ticket:
            raise UserError("--method=shuffled keeps the masks of a ticket: give its file as --ticket")
        if self.method != "shuffled" and self.ticket:
            raise UserError(
                f"--ticket={self.ticket}: only --method=shuffled begins with a ticket. To train one: bertjax finetune "
                f"--ticket={self.ticket}"
            )
        if integers := [type(one).__name__ for one in self.transforms if one.stores_integers]:
            raise UserError(f"transforms: {integers[0]} leaves integers, which cannot be pruned; quantise the ticket.")
        if removing := [type(one).__name__ for one in self.transforms if one.removes_parts]:
            raise UserError(
                f"transforms: {removing[0]} removes parts, and a ticket's masks are for all of them; leave it out."
            )
        if self.decay_over == "all" and self.optimiser.min_lr_ratio:
            raise UserError(
                f"--optimiser.min_lr_ratio={self.optimiser.min_lr_ratio}: --decay_over=all decides it; leave it out."
            )

    def with_student(self, shape: Student) -> Stage:
        return self

    def planned_steps(self, examples: int) -> int:
        return self.trainings * super().planned_steps(examples)

    @property
    def trainings(self) -> int:
        """Trainings of the whole command."""
        return 1 + self.iterations * (self.method == "iterative")


@dataclass(frozen=True)
class Config(LotteryTicket):
    """A lottery ticket."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "method", "sparsity", "iterations", "rewind", *OF_TRAINING)

    model: str = "demo"
    """The pre-trained model that the ticket is for: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/ticket"
    """Folder for the ticket, OUT/ticket.safetensors, and for the model that is trained from it, OUT/bundle. Each
    iteration has a folder of its own."""
