"""Methods held against each other: rows, seeds, and the budget that all share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bertjax.distill.terms import SoftTargets
from bertjax.errors import UserError, nearest
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Stage
from bertjax.student import Student

NO_TEACHER, MORE_EPOCHS = "no_teacher", "more_epochs"
BUILT_IN = ("teacher", NO_TEACHER, MORE_EPOCHS, "bag_of_words")


def check_different(what: str, names: Sequence[str]) -> None:
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        built_in = " (rows which every comparison has by itself)" * any(name in BUILT_IN for name in doubled)
        raise UserError(f"{what} need names of their own; given twice: {', '.join(doubled)}{built_in}.")


@dataclass(frozen=True)
class Published:
    """What a paper says of a method, to stand beside ours."""

    value: float
    """In points, as our scores are printed."""
    source: str
    """Paper, table, model and data."""


@dataclass(frozen=True)
class Row:
    """A method: a name and stages."""

    name: str
    """Letters, digits and _ - . only: it names a folder."""
    stages: tuple[Stage, ...]
    """What is done, in order; the first stage begins with the teacher."""
    student: Student | None = None
    """In a config file: another shape than the suite's."""
    paper: Published | None = None
    """In a config file: what the method's paper reports."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise UserError(f"a row is called {self.name!r}; expected letters, digits and _ - . only.")
        if not self.stages:
            raise UserError(f"row {self.name} has no stages; expected at least one.")
        check_different(f"stages of row {self.name}", [stage.name for stage in self.stages])


@dataclass(frozen=True)
class Config:
    """A comparison of methods."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo. Students without a teacher are cut from it."""
    data: Data = field(default_factory=Data)
    teacher: tuple[Stage, ...] = (Finetune(epochs=2),)
    """How the teacher is made of the model, once for all rows."""
    trained: str | None = None
    """A finished teacher, instead of making one: its folder."""
    student: Student = field(default_factory=Student)
    """The shape of every row's student."""
    rows: tuple[Row, ...] = (Row("soft_targets", (Distill(losses=(SoftTargets(),)),)),)
    """The methods."""
    alone: Finetune = field(default_factory=lambda: Finetune(name="alone"))
    """How the rows without a teacher are trained."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each row is trained once with each."""
    epochs: float | None = 3.0
    """Budget of every row in passes over the training data."""
    steps: int | None = None
    """Budget of every row in steps, instead of epochs: for a short trial."""
    batch_size: int | None = None
    """Examples per step in every row, instead of what its stages say."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of every row's training, instead of what its stages say: bfloat16 on TPU, GPU and processors with
    AMX."""
    row: str | None = None
    """Run this row alone (NAME), or one seed of it (NAME/seed1), and report nothing."""
    out: str = "runs/compare"
    """Folder for everything: teacher, rows, report.md."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name}={value}: expected a number above 0")
        if self.epochs is None and self.steps is None:
            raise UserError("--epochs=none: give the budget of a row as --epochs or as --steps")
        for what in ("rows", "seeds"):
            if not getattr(self, what):
                raise UserError(f"{what} is empty; a comparison needs at least one.")
        check_different("rows", [*BUILT_IN, *(row.name for row in self.rows)])
        check_different("seeds", list(map(str, self.seeds)))
        self.chosen()

    def chosen(self) -> list[tuple[Row, int]]:
        """Every row with every seed, or what --row asks for; first seeds of all rows come first."""
        alone = [Row(name, (self.alone,)) for name in (NO_TEACHER, MORE_EPOCHS)]
        every = [(row, seed) for seed in self.seeds for row in (*alone, *self.rows)]
        if self.row is None:
            return every
        names = {f"{row.name}/seed{seed}": [(row, seed)] for row, seed in every}
        names |= {row.name: [(row, seed) for seed in self.seeds] for row, _ in every}
        if self.row not in names:
            known = ", ".join(dict.fromkeys(row.name for row, _ in every))
            raise UserError(
                f"--row={self.row}: no such row{nearest(self.row, list(names))}\n"
                f"rows: {known}; seeds: {', '.join(map(str, self.seeds))} (NAME/seed{self.seeds[0]})"
            )
        return names[self.row]
