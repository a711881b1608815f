"""More text to learn from: how many copies of an example, and which words of it change."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Stage
from bertjax.text.augment import COPIES, GlueTask


@dataclass(frozen=True)
class Augment(Stage):
    """Augmentation as a stage of `compress`: the stages that follow learn from what it makes."""

    job: ClassVar[str] = "bertjax.jobs.augment"
    adds_data: ClassVar[bool] = True

    name: str = "augmented"
    model: str | None = None
    """The model that knows other words: a folder or hf:NAME. None takes the model at hand."""
    substitutes: Literal["guesses", "neighbours"] = "guesses"
    """guesses: words of one piece become what a masked language model expects in their place. neighbours: all words
    become near ones of the model's word table, for a model that cannot guess."""
    copies: int | GlueTask = 20
    """Copies tried per text; those that turn out alike are kept once. A task's name: as many as TinyBERT has for it."""
    probability: float = 0.4
    """Of a word to become one of its candidates."""
    candidates: int = 15
    """Candidates of a word, the likeliest or the nearest."""
    batch_size: int = 32
    """Gaps that are guessed at once."""
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

    model: str = "demo"
    """The model that knows other words: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    out: str = "runs/augment"
    """Folder for the result."""
