"""Writes the tables of README, docs and configs, and the README's picture, from the numbers in docs/results.

    python -m tests.benchmarks.tables

A Markdown file names its numbers in a comment above the table, `<!-- docs/results/NAME.json -->`; the docstring of a
config names them in the first line of the table, `docs/results/NAME.json`. A JSON file holds the columns and rows of
one table, with the command, seed, processor and versions that gave them. A cell is text, or a number or list of numbers
that `formats` says how to write.
"""

import json
import re
from pathlib import Path
from typing import Any

from bertjax.measure.latency import Latency, Percentiles
from bertjax.report.models import ModelRow, Report
from bertjax.report.number_text import bytes_text, ratio_text, short_number
from bertjax.report.plot import draw_models
from bertjax.report.table import Table

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").glob("*.py"))]
FILES.append(ROOT / "tests" / "benchmarks" / "lists.py")
PICTURE = ROOT / "docs" / "results" / "quickstart.png"
FORMATS: dict[str, Any] = {
    "score": lambda value: "{:.1f} [{:.1f}, {:.1f}]".format(*value),
    "bytes": bytes_text,
    "count": short_number,
    "ratio": ratio_text,
}


def read(path: str) -> dict[str, Any]:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def table(content: dict[str, Any]) -> Table:
    """The numbers of a file as a table."""

    def cell(heading: str, value: Any) -> str:
        return "-" if value is None else value if isinstance(value, str) else FORMATS[formats[heading]](value)

    formats, columns = content.get("formats", {}), content["columns"]
    rows = tuple(tuple(map(cell, columns, row)) for row in content["rows"])
    return Table(tuple(columns), rows, title=content["title"], left=tuple(content.get("left", columns[:1])))


def rendered(text: str) -> str:
    """A file's text with its tables written anew."""

    def markdown(found: re.Match) -> str:
        return f"{found[1]}\n{table(read(found[2])).markdown()}\n"

    def plain(found: re.Match) -> str:
        return f"{found[1]}\n{table(read(found[2])).text(indent='    ')}\n"

    text = re.sub(r"^(<!-- (docs/results/\w+\.json) -->)\n(?:\|.*\n)*", markdown, text, flags=re.M)
    return re.sub(r"^(    (docs/results/\w+\.json))\n(?:    .*\n)*", plain, text, flags=re.M)


def pictured(content: dict[str, Any]) -> Report:
    """The rows as a report to be drawn; what a picture does not show is left at zero."""
    rows = []
    for line in content["rows"]:
        row = dict(zip(content["columns"], line, strict=True))
        score, low, high = (number / 100 for number in row["accuracy [95 %]"])
        time = Percentiles(row["ms"], row["ms"])
        measured: Any = {"size_bytes": row["size"], "latency_ms": Latency(time, time), "parameters": 0}
        rows.append(ModelRow(row["model"], None, "", score, (low, high), None, **measured))
    about = (content["title"], "accuracy", content["processor"], content["threads"], Percentiles(0.0, 0.0))
    return Report(*about, rows[0].name, tuple(rows))


def main() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            file.write_text(new, encoding="utf-8")
            print(file.relative_to(ROOT))
    draw_models(pictured(read("docs/results/quickstart.json")), PICTURE)


if __name__ == "__main__":
    main()
