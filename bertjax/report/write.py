"""Where reports go: `report.json` for programs, `report.md` and its picture for people, and the terminal."""

import os
from collections.abc import Sequence
from typing import Any

from bertjax.machine.notebook import in_notebook
from bertjax.report import methods, models, plot
from bertjax.report.methods import MethodComparison
from bertjax.report.models import Report
from bertjax.report.parts import bullets, json_text
from bertjax.report.table import Table
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
    """Shows the table, what it means, and which model was kept."""
    if isinstance(report, Report):
        display(models.model_table(report), models.verdicts(report), report.conclusion)
    else:
        display(methods.method_table(report), methods.verdicts(report))


def display(table: Table, sentences: Sequence[str], conclusion: str = "", picture: Any = None) -> None:
    """Prints a table, sentences and a conclusion; in a notebook, shows them with the picture, if there is such a
    file."""
    if in_notebook():
        from IPython.display import Image, Markdown  # pyright: ignore[reportMissingImports]
        from IPython.display import display as put  # pyright: ignore[reportMissingImports]

        put(Markdown(table.markdown()))
        if picture is not None and picture.is_file():
            put(Image(data=picture.read_bytes()))
        if said := [*filter(None, [bullets(sentences), conclusion and f"**{conclusion}**"])]:
            put(Markdown("\n\n".join(said)))
        return
    from rich.console import Console

    console = Console()
    console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence.replace('**', '')}", markup=False)
    if conclusion:
        console.out(conclusion, highlight=False)
