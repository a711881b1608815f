"""What a student learns, from whom, and in which shape."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import HiddenStates, Loss, SoftTargets
from bertjax.errors import UserError
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.stage import Stage, TrainingStage
from bertjax.recipes.training import check_parts
from bertjax.student import Student


@dataclass(frozen=True)
class DistillationStage(TrainingStage):
    """The fields of every stage in which a student learns from a teacher."""

    losses: tuple[Loss, ...] = (SoftTargets(), HiddenStates())
    """What the student learns: subclasses of `bertjax.learn.Loss`, also your own in a config file."""
    packed: bool = False
    """Pack several short examples into one row, as in finetune. For losses that read the teacher's logits or the labels
    (SoftTargets, HardLabels), or each token by itself (MatchedStates). batch_size counts rows."""
    ponder: float = 0.01
    """Weight of the ponder cost, for a student with adaptive computation time."""
    teachers: tuple[str, ...] = ()
    """More teachers besides the main one: folders or hf:NAME, with its vocabulary and labels. Each loss is averaged
    over all teachers."""
    progressive: Progressive | None = None
    """In a config file: train layer by layer first (MobileBERT's progressive knowledge transfer), then all of the
    student with `losses`."""
    keep_zeros: str | None = None
    """A regex over parameter paths. Weights of these matrices that are 0 at the start stay 0. Rounding keeps them if
    its format has an integer for 0: symmetric or ternary."""
    store: bool = True
    """Compute the teacher's outputs once and store them, where every loss declares what it needs. False: the teacher
    runs in every step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parts("losses", self.losses, Loss)


@dataclass(frozen=True)
class Distill(DistillationStage):
    """Distillation as a stage of `compress`: everything but teacher, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.distill"
    distils: ClassVar[bool] = True

    name: str = "student"
    """Name of the result in the report."""
    student: Student = field(default_factory=Student)

    @property
    def student_shape(self) -> Student | None:
        return self.student

    def with_student(self, shape: Student) -> Stage:
        return dataclasses.replace(self, student=shape)


@dataclass(frozen=True)
class Recovery(Distill):
    """A stage that makes a model smaller and trains it afterwards, with the whole model as its teacher."""

    student: Student = field(default_factory=Student, init=False)  # the smaller model itself, and so no flags
    keep_zeros: str | None = field(default=None, init=False)
    finetune_after: bool = True
    """Train the model afterwards, with itself as it was before as its teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.all_transforms or self.penalties) and not self.finetune_after:
            raise UserError(
                "a ticket, transforms and penalties act in training, and --finetune_after=False trains nothing"
            )

    @property
    def student_shape(self) -> Student | None:
        return None

    def with_student(self, shape: Student) -> Stage:
        return self

    @property
    def trains(self) -> bool:
        return self.finetune_after


@dataclass(frozen=True)
class Config(Distill):
    """Distillation."""

    everyday: ClassVar[tuple[str, ...]] = (
        *EVERYDAY,
        "student.num_hidden_layers",
        "student.intermediate_size",
        *OF_TRAINING,
        "data.text",
    )

    model: str = "runs/finetune/bundle"
    """The teacher: a folder or hf:NAME, with a trained head."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. Default: OUT/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/distill"
    """Folder for the student, its metrics and its checkpoints."""
