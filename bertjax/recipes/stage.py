"""What every stage of a compression is: a recipe, what it is given, and what it hands on.

Recipes are data. The work is in `bertjax.jobs`, which imports jax, so a recipe names its job and imports it when it
runs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bertjax.recipes.data import Data
from bertjax.recipes.training import Training
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.text.reader import TextReader


class Context(NamedTuple):
    """What a stage is given."""

    model: str
    """The model to begin with: the bundle of the stage before, or the model that the user gave."""
    data: Data
    reader: TextReader
    """Reads the text of `data`, once for all stages."""
    out: str
    """The stage's own folder; its model is to be written to `out/bundle`."""
    teacher: str | None = None
    """The teacher of every stage. None: the model to begin with is the teacher, and the student is cut from it."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, if not in the stage's own."""
    finetuned: str | None = None
    """The first model of this run with a trained head: the default teacher of quantisation-aware training."""
    control: Control | None = None
    """The no-teacher baseline of the stages before."""


class Control(NamedTuple):
    """The no-teacher baseline of a distilled model: same architecture and number of steps, labels only."""

    stage: Stage
    model: str | None
    """The model that it begins with; None is the model of the whole run."""
    student: Student | None
    """Sizes that a later student takes over where it leaves them open."""


class StageResult(NamedTuple):
    """What a stage hands on, and what it cost."""

    bundle: Path | None
    """The folder of its model; None from a stage that makes text."""
    data: Data
    """What the stages that follow learn from."""
    epochs: float = 0.0
    """Passes over the training data."""
    seconds: float = 0.0
    """Time in training steps and for the teacher's outputs; compiling is left out."""
    teacher_epochs: float = 0.0
    """Passes of the teacher over the training data."""
    training_step_bytes: int | None = None
    """Peak memory of a training step."""
    control: Control | None = None


class Stage:
    """What `stages` in a config may hold: a frozen dataclass with a field `name`.

    A stage of your own subclasses this and defines `run`, which writes a model to `context.out/bundle`. The other
    members have defaults that fit a stage which does not train.
    """

    name: str
    job: ClassVar[str]
    """The module whose `run(recipe, context)` does the work."""
    packed: bool = False
    """Whether a row of a batch holds several examples."""
    finetunes: ClassVar[bool] = False
    """Whether it gives a model its trained head, which a model that has one does not need."""
    distils: ClassVar[bool] = False
    """Whether it learns from a teacher, so that the no-teacher baseline belongs beside it."""
    adds_data: ClassVar[bool] = False
    """Whether it makes training text for the stages that follow."""
    quantizes: ClassVar[bool] = False
    """Whether it leaves a model of integers."""
    exports: ClassVar[bool] = False
    """Whether it leaves a file for another runtime, which no stage can follow."""

    def run(self, context: Context) -> StageResult:
        return import_module(self.job).run(self, context)

    def check(self) -> None:
        """Raises a `UserError` for what it needs and is not there, before any stage begins."""

    @property
    def student_shape(self) -> Student | None:
        """The shape of the student that it trains; None where it trains none of a shape of its own."""
        return None

    def with_student(self, shape: Student) -> Stage:
        """The stage with a student of this shape, where it has one."""
        del shape
        return self

    def with_training(self, **settings: object) -> Stage:
        """The stage with these settings of its training, as steps or batch_size, where it trains."""
        del settings
        return self

    @property
    def trains(self) -> bool:
        """Whether it makes training steps."""
        return False

    @property
    def relative_length(self) -> float:
        """Its share of a budget, beside those of other stages: its steps or epochs."""
        return 0.0

    def planned_steps(self, examples: int) -> int:
        """Training steps for so many examples."""
        del examples
        return 0


@dataclass(frozen=True)
class TrainingStage(Training, Stage):
    """A stage that trains."""

    def with_training(self, **settings: Any) -> Stage:
        return dataclasses.replace(self, **settings)

    @property
    def trains(self) -> bool:
        return True

    @property
    def relative_length(self) -> float:
        return self.steps or self.epochs or 1.0

    def planned_steps(self, examples: int) -> int:
        return self.total_steps(-(-examples // self.batch_size)) if self.trains else 0
