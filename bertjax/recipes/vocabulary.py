"""A vocabulary without the tokens that the texts never use."""

from dataclasses import dataclass, field
from typing import ClassVar

from bertjax.recipes.data import EVERYDAY, Data
from bertjax.recipes.stage import Stage


@dataclass(frozen=True)
class Vocabulary(Stage):
    """Pruning the vocabulary, as a stage of `compress`."""

    job: ClassVar[str] = "bertjax.jobs.vocabulary"

    name: str = "fewer-words"
    """Name of the result in the report."""


@dataclass(frozen=True)
class Config(Vocabulary):
    """Pruning of the vocabulary."""

    everyday: ClassVar[tuple[str, ...]] = (*EVERYDAY, "data.text", "data.max_length")

    model: str = "runs/quickstart/stages/2-student/bundle"
    """The model: a folder or hf:NAME."""
    data: Data = field(default_factory=Data)
    out: str = "runs/vocabulary"
    """Folder for the result."""
