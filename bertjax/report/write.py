"""Where reports go: `report.json` for programs, `report.md` and its picture for people, and the terminal."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from bertjax.report import method_text, model_text, plot
from bertjax.report.method_report import MethodComparison
from bertjax.report.model_report import Report
from bertjax.report.table import Table
from bertjax.storage.paths import as_path, staged, write_text


def write_report(report: Report, folder: str | os.PathLike) -> Any:
    """Writes `report.json`, `report.md` and `report.png` into `folder`; returns the path of `report.md`."""
    with staged(folder) as here:
        (here / "report.json").write_text(report.json_text(folder), encoding="utf-8")
        plot.draw_models(report, here / "report.png")
        (here / "report.md").write_text(model_text.markdown(report, picture="report.png"), encoding="utf-8")
    return as_path(folder) / "report.md"


def write_comparison(comparison: MethodComparison, folder: str | os.PathLike) -> Any:
    """Writes `report.png`, `report.md` and, last of all, `report.json`, which says that the comparison is finished;
    returns the path of `report.md`."""
    with staged(folder) as here:
        plot.draw_methods(comparison, here / "report.png")
        (here / "report.md").write_text(method_text.markdown(comparison, picture="report.png"), encoding="utf-8")
    content = json.dumps(dataclasses.asdict(comparison), indent=2, allow_nan=False)
    write_text(as_path(folder) / "report.json", content + "\n")
    return as_path(folder) / "report.md"


def print_report(table: Table, sentences: Sequence[str]) -> None:
    """The table and what it means, on the terminal."""
    from rich.console import Console

    console = Console()
    console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence.replace('**', '')}", markup=False)
