"""What a student learns, from whom, and in which shape."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import HiddenStates, Loss, SoftTargets
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Stage, TrainingStage
from bertjax.student import Student


@dataclass(frozen=True)
class Distill(TrainingStage):
    """Distillation as a stage of `compress`: the recipe, without teacher, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.distill"
    distils: ClassVar[bool] = True

    name: str = "student"
    """What the result is called in the report."""
    student: Student = field(default_factory=Student)
    losses: tuple[Loss, ...] = (SoftTargets(), HiddenStates())
    """What the student learns from; in a config file, any dataclasses with a weight and a method build."""
    packed: bool = False
    """Several short texts in one row, as in finetune; for losses that read nothing of the teacher but its answers, as
    SoftTargets and HardLabels do. batch_size counts rows."""
    ponder: float = 0.01
    """Price of a step, for a student whose positions halt by themselves."""
    teachers: tuple[str, ...] = ()
    """More teachers, beside the model: folders or hf:NAME, with its vocabulary and labels. Each loss is averaged over
    all of them, which for soft targets is to learn the mean of their probabilities at the temperature."""
    progressive: Progressive | None = None
    """In a config file: first learn layer by layer from the model, and from the losses in the steps that are left."""
    keep_zeros: str | None = None
    """A regex over parameter paths: what of these matrices of the student is 0 at the start stays so."""
    store: bool = True
    """Compute the teacher's outputs once and store them, where the losses say what they need."""

    @property
    def student_shape(self) -> Student | None:
        return self.student

    def with_student(self, shape: Student) -> Stage:
        return dataclasses.replace(self, student=shape)


@dataclass(frozen=True)
class Config(Distill):
    """Distillation."""

    model: str = "runs/finetune/bundle"
    """The teacher: a folder or hf:NAME, with a head for the task."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, which several runs may share. None is OUT/teacher."""
    data: Data = field(default_factory=Data)
    out: str = "runs/distill"
    """Folder for the student, its metrics and its checkpoints."""
