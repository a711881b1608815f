"""Training on labelled examples."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.distill.terms.answers import check_class_weights
from bertjax.errors import UserError
from bertjax.recipes.data import EVERYDAY, OF_TRAINING, Data
from bertjax.recipes.stage import Stage, TrainingStage
from bertjax.student import Student


@dataclass(frozen=True)
class Finetune(TrainingStage):
    """Fine-tuning as a stage of `compress`: everything but model, data and folder."""

    job: ClassVar[str] = "bertjax.jobs.finetune"
    finetunes: ClassVar[bool] = True

    name: str = "teacher"
    """Name of the result in the report."""
    student: Student | None = None
    """In a config file: change the model to this shape before training."""
    packed: bool = False
    """Pack several short examples into one row of data.max_length tokens, so that hardly anything is padding.
    batch_size counts rows, so that a step learns from more examples; how many is printed at the start. Compare packed
    and unpacked runs by examples, not by steps."""
    ponder: float = 0.01
    """Weight of the ponder cost, for a model with adaptive computation time."""
    class_weights: tuple[float, ...] = ()
    """For classification: how much an example of each class counts in the loss, in the order of the labels. Default:
    all alike."""
    model_soup: int = 1
    """Train this many times, with different seeds, and average the weights (Wortsman et al. 2022)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_class_weights("--class_weights", self.class_weights)
        if self.model_soup < 1:
            raise UserError(f"--model_soup={self.model_soup}: expected 1, or more whose weights are averaged")
        if self.model_soup > 1 and self.transforms:
            raise UserError(
                f"--model_soup={self.model_soup} averages weights, and transforms prune or round those of each run in "
                "another way: leave out one of the two."
            )

    def with_student(self, shape: Student) -> Stage:
        return dataclasses.replace(self, student=shape)


@dataclass(frozen=True)
class Config(Finetune):
    """Fine-tuning."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "steps", *OF_TRAINING, "data.text", "data.label")

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/finetune"
    """Folder for the model, its metrics and its checkpoints."""
