"""More text to learn from: how many copies of an example, and which words of it change."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Stage
from bertjax.text.augment import COPIES, GlueTask


@dataclass(frozen=True)
class Augment(Stage):
    """Data augmentation as a stage of `compress`, for the stages that follow."""

    job: ClassVar[str] = "bertjax.jobs.augment"
    adds_data: ClassVar[bool] = True

    name: str = "augmented"
    """Name of the stage."""
    model: str | None = None
    """The masked language model: a folder or hf:NAME. Default: the current model."""
    substitutes: Literal["predictions", "neighbours"] = "predictions"
    """predictions: words of one token are replaced by what a masked language model predicts in their place. neighbours:
    words are replaced by near ones in the model's embedding table, for a model without MLM head."""
    copies: int | GlueTask = 20
    """Copies tried per example; equal ones are kept once. A GLUE task's name: TinyBERT's number for it."""
    probability: float = 0.4
    """Probability of a word to be replaced."""
    candidates: int = 15
    """Candidates for a word: the likeliest or the nearest."""
    batch_size: int = 32
    """Masked words per batch."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("copies", "candidates", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UserError(f"--{name}={value}: expected at least 1")
        if not 0 < self.probability <= 1:
            raise UserError(f"--probability={self.probability}: expected a share of the words, 0.4 for one")

    @property
    def tried(self) -> int:
        return self.copies if isinstance(self.copies, int) else COPIES[self.copies]


@dataclass(frozen=True)
class Config(Augment):
    """Augmentation."""

    everyday: ClassVar[tuple[str, ...]] = (
        "model",
        "data.train",
        "out",
        "substitutes",
        "copies",
        "probability",
        "candidates",
        "seed",
        "data.text",
    )

    model: str = "demo"
    """The masked language model: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/augment"
    """Folder for the result."""
