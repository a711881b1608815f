"""The one table type: compression, comparison, early exit, the gate and the README all print this.

A cell is text that is ready to be read. What it may not contain in Markdown or in a terminal is escaped here and
nowhere else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Table:
    """Headings, rows of cells, and notes below them. Columns are aligned to the right, except those named in `left`."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    left: tuple[str, ...] = ()
    terminal: tuple[str, ...] = ()
    """The columns that a terminal has room for; none named: all."""
    bold: tuple[bool, ...] = ()
    """The rows that stand out in a terminal."""
    notes: tuple[str, ...] = ()

    def column(self, heading: str) -> list[str]:
        """The cells below a heading."""
        place = self.headings.index(heading)
        return [row[place] for row in self.rows]

    def markdown(self) -> str:
        ruler = ["---" if heading in self.left else "---:" for heading in self.headings]
        lines = [self.headings, ruler, *self.rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([table, *self.notes])

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.markdown()

    def text(self, indent: str = "", gap: str = "  ") -> str:
        """Columns of equal width, for docstrings and for output that a program may read."""
        lines = [self.headings, *self.rows] if any(self.headings) else self.rows
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = [heading in self.left for heading in self.headings]

        def line(cells: Sequence[str]) -> str:
            padded = (c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(cells, widths, left, strict=True))
            return (indent + gap.join(padded)).rstrip()

        return "\n".join(map(line, lines))

    def rich(self) -> "RichTable":
        """For a terminal; print it with rich."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table as RichTable

        shown = [i for i, heading in enumerate(self.headings) if heading in (self.terminal or self.headings)]
        table = RichTable(title=self.title, box=SIMPLE_HEAD, pad_edge=False)
        for i in shown:
            heading, left = self.headings[i], self.headings[i] in self.left
            words = " ".join([heading, *(row[i] for row in self.rows)]).split()
            longest = max(map(len, words), default=0)
            table.add_column(heading, justify="left" if left else "right", min_width=longest, no_wrap=i > 0)
        for row, bold in zip(self.rows, self.bold or [False] * len(self.rows), strict=True):
            table.add_row(*(escape(row[i]) for i in shown), style="bold" if bold else None)
        return table


def cells_of(
    rows: Iterable[_Row], columns: Mapping[str, Callable[[_Row], str]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headings and cells of a table that has a line for each row; the functions say what stands below each heading."""
    return tuple(columns), tuple(tuple(cell(row) for cell in columns.values()) for row in rows)


def one_line(text: str, limit: int = 240) -> str:
    """The text as one line that Markdown leaves as it is."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in short)
