"""Which layers, heads, neurons or weights are removed, by which scores, and the training afterwards."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.stage import Stage
from bertjax.student import Student

PARTS = ("layers", "heads", "neurons", "weights")


@dataclass(frozen=True)
class Prune(Distill):
    """Removal as a stage of `compress`, and the recipe of the recovery; the student is the model without its parts."""

    job: ClassVar[str] = "bertjax.jobs.prune"

    name: str = "pruned"
    """What the result is called in the report."""
    student: Student = field(default_factory=Student, init=False)  # decided here, and so no flags
    keep_zeros: str | None = field(default=None, init=False)
    layers: float = 0.0
    """Which part of the layers goes; first, before anything else does."""
    heads: float = 0.0
    """Which part of the heads goes, over all layers; each keeps one at least."""
    neurons: float = 0.0
    """Which part of the neurons of the feed-forward layers goes; each keeps one at least."""
    speedup: float | None = None
    """Instead of the two: how many times as fast the model is to be, in JAX on this machine, for one training text at a
    time. The same part of heads and of neurons goes, the smallest that is enough, found by measuring."""
    weights: float = 0.0
    """Which part of the encoder's weights becomes 0. They stay in their places, which saves no time."""
    criterion: Literal["importance", "official", "transformers", "magnitude", "activity", "random"] = "importance"
    """What says how much a part is worth. importance: the gradient of its gate, example by example (Michel et al.
    2019), which needs labels; official and transformers: what their programs compute instead, for heads. activity: the
    variance of what it says. Weights go by magnitude."""
    pruning_end: float = 0.0
    """Over which part of the recovery's steps weights become 0, more and more of the smallest (Zhu & Gupta 2017), from
    its start on. 0: all at once, before it."""
    iterations: int = 1
    """In how many rounds, each with the worth of what is left measured anew."""
    multiple: int = 1
    """The neurons that a layer keeps, and the columns of its heads, are a multiple of this in number (8, 64, 128), for
    the hardware's sake; then fewer go."""
    pattern: Literal["global", "matrix", "row", "2:4"] = "global"
    """Of weights: compared over all matrices, within each, within what makes one output; or two of every four go, and
    `weights` need not be said."""
    calibration_examples: int = 512
    """Training texts by which the worth is measured."""
    finetune_after: bool = True
    """Whether to train afterwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in PARTS:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected a part of the whole, from 0 to below 1")
        for name in ("iterations", "multiple", "calibration_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected 1 or more")
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(f"--speedup={self.speedup}: expected more than 1, as 2 for half of the time")
        if self.speedup is not None and (self.heads or self.neurons):
            raise UserError(f"--speedup={self.speedup} finds how many --heads and --neurons go: leave these two out")
        if not 0 <= self.pruning_end <= 1:
            raise UserError(f"--pruning_end={self.pruning_end}: expected a part of the steps, from 0 to 1")
        if self.pattern == "2:4" and self.weights not in (0.0, 0.5):
            raise UserError(f"--weights={self.weights}: with --pattern=2:4 half of the weights go; leave it out")
        if self.pruning_end and not (self.zeros and self.finetune_after):
            raise UserError(
                f"--pruning_end={self.pruning_end} is about --weights that become 0 while the rest recovers: give both"
            )
        if self.criterion in ("official", "transformers") and (self.neurons or self.speedup):
            raise UserError(f"--criterion={self.criterion} is about heads; neurons have importance or another.")
        if self.layers and self.criterion not in ("importance", "random"):
            raise UserError(f"--criterion={self.criterion}: whole layers go by importance, or at random as the control")

    @property
    def zeros(self) -> float:
        """Which part of the weights becomes 0."""
        return 0.5 if self.pattern == "2:4" else self.weights

    @property
    def student_shape(self) -> Student | None:
        return None

    def with_student(self, shape: Student) -> Stage:
        return self

    @property
    def trains(self) -> bool:
        return self.finetune_after


@dataclass(frozen=True)
class Config(Prune):
    """Removal and recovery."""

    model: str = "runs/finetune/bundle"
    """The model: a folder or hf:NAME, in floating point, with a head for the task."""
    teacher: str | None = None
    """Who is learned from: a folder or hf:NAME. None is the whole model."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. None is OUT/recovery/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/prune"
    """Folder for the model; OUT/cut holds it as it was before the recovery."""
