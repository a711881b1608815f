"""Where reports go: `report.json` for programs, `report.md` and its picture for people, and the terminal."""

import os
from typing import Any

from bertjax.report import methods, models, plot
from bertjax.report.methods import MethodComparison
from bertjax.report.models import Report
from bertjax.report.parts import json_text
from bertjax.storage.paths import as_path, staged, write_text


def write_report(report: Report | MethodComparison, folder: str | os.PathLike) -> Any:
    """Writes `report.png`, `report.md` and, last of all, `report.json`, which says that a comparison is finished;
    returns the path of `report.md`."""
    with staged(folder) as here:
        if isinstance(report, Report):
            plot.draw_models(report, here / "report.png")
            text, content = models.markdown(report, picture="report.png"), report.json_text(folder)
        else:
            plot.draw_methods(report, here / "report.png")
            text, content = methods.markdown(report, picture="report.png"), json_text(report)
        (here / "report.md").write_text(text, encoding="utf-8")
    write_text(as_path(folder) / "report.json", content)
    return as_path(folder) / "report.md"


def show(report: Report | MethodComparison) -> None:
    """Prints the table, what it means, and which model was kept."""
    from rich.console import Console

    if isinstance(report, Report):
        table, sentences = models.model_table(report), models.verdicts(report)
    else:
        table, sentences = methods.method_table(report), methods.verdicts(report)
    console = Console()
    console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence.replace('**', '')}", markup=False)
    if isinstance(report, Report) and report.conclusion:
        console.out(report.conclusion, highlight=False)
