"""The report of a finished run, read from its folder: the table, the numbers with all digits, and a way to see both."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from bertjax.errors import UserError
from bertjax.report.early_exit import EarlyExitReport, threshold_table
from bertjax.report.methods import MethodComparison, method_table
from bertjax.report.models import model_table, read_report
from bertjax.report.parts import Difference
from bertjax.report.table import Table
from bertjax.report.token_ladder import TokenLadder, ladder_table
from bertjax.report.write import display
from bertjax.storage.paths import local
from bertjax.storage.typed_json import build, read_json

Numbers = TypeVar("Numbers", covariant=True)
"""Report, MethodComparison, EarlyExitReport or TokenLadder."""


@dataclass(frozen=True)
class RunReport(Generic[Numbers]):
    """What a run measured."""

    folder: Path
    """The folder of report.md, report.json and, for models and methods, report.png."""
    numbers: Numbers
    table: Table

    @property
    def text(self) -> str:
        """The whole report, as Markdown."""
        return (self.folder / "report.md").read_text(encoding="utf-8")

    def show(self) -> None:
        """In a notebook the table, the picture and what the numbers say; in a terminal table and sentences."""
        said = re.search(r"^## What the numbers say\n\n(.*?)(?=\n\n## |\Z)", self.text, flags=re.M | re.S)
        sentences = re.findall(r"^- (.*)$", said[1], flags=re.M) if said else list(self.table.notes)
        display(self.table, sentences, getattr(self.numbers, "conclusion", ""), self.folder / "report.png")


def read_run_report(folder: Path) -> RunReport[Any]:
    """The report in the folder of a run.

    Raises:
      UserError: There is none.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise UserError(f"{folder} has no report; bertjax.evaluate measures finished models side by side.")
    content = read_json(local(file))
    key = next(key for key in (*READERS, "rows") if key in content)
    numbers, table = (read_report(file), model_table) if key == "rows" else READERS[key](content, str(file))
    return RunReport(folder, numbers, table(numbers))


def read_methods(content: dict[str, Any], name: str) -> tuple[MethodComparison, Callable[[Any], Table]]:
    rows = [{**row, "differences": typed_differences(row["differences"], name)} for row in content["rows"]]
    return build(MethodComparison, {**content, "rows": rows}, name), method_table


def typed_differences(stored: dict[str, Any], name: str) -> dict[str, Difference]:
    return {other: build(Difference, difference, f"{name}: {other}") for other, difference in stored.items()}


READERS: dict[str, Callable[[dict[str, Any], str], tuple[Any, Callable[[Any], Table]]]] = {
    "teacher_cost": read_methods,
    "calibrated": lambda content, name: (build(EarlyExitReport, content, name), threshold_table),
    "rungs": lambda content, name: (build(TokenLadder, content, name), ladder_table),
}
"""How a report is read, by a field that it alone has; any other is one of models."""
