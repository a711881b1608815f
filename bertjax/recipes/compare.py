"""Methods held against each other: rows, seeds, and the budget that all share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bertjax.distill.terms import SoftTargets
from bertjax.errors import UserError, nearest
from bertjax.recipes.data import EVERYDAY, Data
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
    """The score of a method in its paper."""

    value: float
    """The score in points (0 to 100)."""
    source: str
    """Paper, table, model and data."""


@dataclass(frozen=True)
class Row:
    """A method: a name and stages."""

    name: str
    """Name of the row: letters, digits and _ - . only."""
    stages: tuple[Stage, ...]
    """The stages, in order; the first begins with the teacher."""
    student: Student | None = None
    """In a config file: another student shape than the comparison's."""
    paper: Published | None = None
    """In a config file: the score in the method's paper."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise UserError(f"a row is called {self.name!r}; expected letters, digits and _ - . only.")
        if not self.stages:
            raise UserError(f"row {self.name} has no stages; expected at least one.")
        check_different(f"stages of row {self.name}", [stage.name for stage in self.stages])


@dataclass(frozen=True)
class Config:
    """A comparison of methods."""

    everyday: ClassVar[tuple[str, ...]] = (
        *EVERYDAY,
        "trained",
        "seeds",
        "epochs",
        "steps",
        "batch_size",
        "student.num_hidden_layers",
        "row",
    )

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo. Students without a teacher are made from it."""
    data: Data = field(default_factory=Data)
    teacher: tuple[Stage, ...] = (Finetune(epochs=2),)
    """The stages that train the teacher, once for all rows."""
    trained: str | None = None
    """A finished teacher to use instead: a folder or hf:NAME."""
    student: Student = field(default_factory=Student)
    """The shape of every row's student."""
    rows: tuple[Row, ...] = (Row("soft_targets", (Distill(losses=(SoftTargets(),)),)),)
    """The methods to compare."""
    alone: Finetune = field(default_factory=lambda: Finetune(name="alone"))
    """The training of the no-teacher rows."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every row is trained once with each seed."""
    epochs: float | None = 3.0
    """Training budget of every row, in epochs."""
    steps: int | None = None
    """Training budget of every row in steps, in place of epochs."""
    batch_size: int | None = None
    """Overrides the batch size of every stage."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Overrides the compute dtype of every stage. bfloat16 is for TPU, GPU and processors with AMX."""
    row: str | None = None
    """Run only this row (NAME), or one seed of it (NAME/seed1), without a report."""
    out: str = "runs/compare"
    """Folder for the teacher, the rows and the report."""

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
