"""Training on labelled examples."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Stage, TrainingStage
from bertjax.student import Student


@dataclass(frozen=True)
class Finetune(TrainingStage):
    """Fine-tuning as a stage of `compress`: the recipe, without model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.finetune"
    finetunes: ClassVar[bool] = True

    name: str = "teacher"
    """What the result is called in the report."""
    student: Student | None = None
    """In a config file: cut the model down to this shape before it is trained."""
    packed: bool = False
    """Several short examples in one row of data.max_length pieces, so that next to nothing is padding. batch_size
    counts rows: divide it by the examples that share one, which a run says at its start, or a step learns from so many
    times more. Two runs compare by the examples they saw and by their scores: a step's loss is its own batch's."""
    ponder: float = 0.01
    """Price of a step, for a model whose positions halt by themselves."""
    model_soup: int = 1
    """Train so often, with the seeds from seed * runs on, and take the mean of the weights (Wortsman et al. 2022): as
    small and fast as one run, and it need not be known beforehand which of them is good."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_soup < 1:
            raise UserError(f"--model_soup={self.model_soup}: expected 1, or more whose weights are averaged")

    def with_student(self, shape: Student) -> Stage:
        return dataclasses.replace(self, student=shape)


@dataclass(frozen=True)
class Config(Finetune):
    """Fine-tuning."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/finetune"
    """Folder for the model, its metrics and its checkpoints."""
