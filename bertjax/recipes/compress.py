"""Stages in order, or bounds to keep to."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.measure.runtimes import FileRuntimes
from bertjax.recipes.data import EVERYDAY, Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Stage

BOUNDS = ("max_drop", "min_speedup", "max_mb")
"""The fields that each bound the result."""
LENGTH = ("epochs", "steps", "batch_size", "seed", "data.max_length")
"""Everyday flags on the training of all stages."""


@dataclass(frozen=True)
class Config:
    """Compression: stages, then the report."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, *BOUNDS, "minutes", *LENGTH, "data.text", "data.label")

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    stages: tuple[Stage, ...] = (Finetune(epochs=2), Distill(epochs=4))
    """The stages, in order. With a bound: the recipes of the search, which takes the first that trains a student and
    the first that quantises."""
    max_drop: float | None = None
    """Largest loss of score, in points. Searches among smaller models for the fastest."""
    min_speedup: float | None = None
    """Smallest speed-up of the exported model at batch 1. Searches among smaller models."""
    max_mb: float | None = None
    """Largest size of the exported folder, in megabytes (10^6 bytes). Searches among smaller models."""
    minutes: float | None = None
    """For a search: the minutes that it may take. Default: what reaches the end is trained as long as the recipe
    says."""
    held_out: str | None = None
    """For a search: labelled text to choose on, which the model was not trained on. Default: a sixth of the training
    text, at most 1000 examples."""
    max_memory: float | None = None
    """For a search: the most memory of a process, in gigabytes (Linux). A trial that needs more is left out."""
    candidates: tuple[tuple[Stage, ...], ...] = ()
    """For a search, in a config file: stages of your own, which begin with the teacher. What they make is measured with
    the last trials."""
    steps: int | None = None
    """Overrides the steps of every training stage, for a short trial."""
    epochs: float | None = None
    """Overrides the epochs of every training stage."""
    batch_size: int | None = None
    """Overrides the batch size of every training stage."""
    seed: int | None = None
    """Overrides the seed of every training stage."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Overrides the compute dtype of every training stage. bfloat16 is for TPU, GPU and processors with AMX."""
    out: str = "runs/compress"
    """Folder for the stages, the final bundle and the report."""
    runtime: FileRuntimes = "onnxruntime"
    """The runtime of exported models. auto: for each, the faster of both on this machine."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("stages is empty; a config for compress lists at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"every stage needs a name of its own; given: {', '.join(names)}.")
        if any(stage.exports for stage in self.stages[:-1]):
            raise UserError("an export is a file for another runtime, from which no stage goes on: make it the last.")
        for name in BOUNDS:
            if (bound := getattr(self, name)) is not None and not bound >= 0:
                raise UserError(f"--{name}={bound}: expected 0 or more.")
        only_search = self.minutes, self.held_out, self.max_memory, self.candidates or None
        if not self.chooses and any(given is not None for given in only_search):
            raise UserError(
                "--minutes, --held_out, --max_memory and candidates are for a search: give a bound as well, "
                "--max_drop, --min_speedup or --max_mb."
            )
        for name in ("minutes", "max_memory"):
            if (given := getattr(self, name)) is not None and not given > 0:
                raise UserError(f"--{name}={given}: expected more than 0.")
        if any(not stages for stages in self.candidates):
            raise UserError("candidates has an entry without stages; expected a tuple of one stage or more.")

    @property
    def chooses(self) -> bool:
        """Whether there is a bound to keep to."""
        return any(getattr(self, name) is not None for name in BOUNDS)

    def planned_stages(self) -> list[Stage]:
        """The stages with what this config says for all of them."""
        names = "batch_size", "seed", "dtype"
        common = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.steps is not None or self.epochs is not None:
            common |= {"steps": self.steps, "epochs": self.epochs}
        return [stage.with_training(**common) for stage in self.stages]
