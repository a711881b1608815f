"""A report on disk: `report.json` for programs, `report.md` for people, and its plot."""

import dataclasses
import json
import os
from typing import Any

from bertjax.report import comparison_text, plot, text
from bertjax.report.comparison import Comparison
from bertjax.report.report import Report
from bertjax.storage.paths import as_path, staged, write_text


def write_report(report: Report, folder: str | os.PathLike) -> Any:
    """Writes `report.json`, `report.md` and `report.png` into `folder`; returns the path of `report.md`."""
    with staged(folder) as here:
        (here / "report.json").write_text(report.json_text(folder), encoding="utf-8")
        plot.draw(report, here / "report.png")
        (here / "report.md").write_text(text.markdown(report, picture="report.png"), encoding="utf-8")
    return as_path(folder) / "report.md"


def write_comparison(comparison: Comparison, folder: str | os.PathLike) -> Any:
    """Writes `report.png`, `report.md` and, last of all, `report.json`, which says that the comparison is finished;
    returns the path of `report.md`."""
    with staged(folder) as here:
        comparison_text.draw(comparison, here / "report.png")
        (here / "report.md").write_text(comparison_text.markdown(comparison, picture="report.png"), encoding="utf-8")
    content = json.dumps(dataclasses.asdict(comparison), indent=2, allow_nan=False)
    write_text(as_path(folder) / "report.json", content + "\n")
    return as_path(folder) / "report.md"
