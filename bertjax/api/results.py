"""What a call gives: a run that is finished in its folder, an exported file, a verdict. The model and the report of a
run are read from its folder when they are first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.report.run import RunReport
    from bertjax.verify import Failure, Measured


Numbers = TypeVar("Numbers", covariant=True)
"""What the report of a run holds."""


@dataclass(frozen=True)
class Result(Generic[Numbers]):
    """A run, finished in its folder."""

    out: Path
    """The folder."""
    problem: str | None = None
    """What was missed or left out, in a sentence: a bound that no model keeps, or a stage that failed."""

    @property
    def scores(self) -> dict[str, float]:
        """The numbers that the run ended with, by metric or by model."""
        from bertjax.engine.record import read_record

        if result := (read_record(self.out) or {}).get("result"):
            return result
        return {row.name: row.score for row in getattr(self.report.numbers, "rows", ())}

    @cached_property
    def report(self) -> RunReport[Numbers]:
        """The report: `.table`, `.numbers`, `.show()`.

        Raises:
          UserError: This run wrote none; `evaluate` measures its model.
        """
        from bertjax.report.run import read_run_report

        return read_run_report(self.out)


@dataclass(frozen=True)
class Trained(Result[Numbers]):
    """A run that made a model."""

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return self.out / "bundle"

    @cached_property
    def bundle(self) -> Bundle:
        """The model."""
        from bertjax.bundle import load

        return load(self.path)

    @property
    def exported(self) -> Path | None:
        """The folder with the exported file, where the last stage of a compression exports."""
        folder = self.out / "exported"
        return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Exported:
    """An exported folder, which was compared with JAX."""

    path: Path
    file: Path
    """The model file in it."""
    distance: float
    """How far its outputs are from those in JAX, as a share of their size."""


@dataclass(frozen=True)
class Verdict:
    """What was measured of two models, and what of it breaks a bound."""

    measured: Measured
    failures: tuple[Failure, ...]

    @property
    def accepted(self) -> bool:
        """Whether every bound is met, and no claim of the new model is contradicted."""
        return not self.failures

    def __str__(self) -> str:
        from bertjax.verify.text import lines

        return "\n".join(lines(self.measured, self.failures))
