"""One table in Markdown, as plain text and in a terminal."""

import io

from rich.console import Console

from bertjax.report.table import Table, cells_of, one_line

ROWS = [("a|b", 1.5), ("[c]", 22.25)]
TABLE = Table(*cells_of(ROWS, {"name": lambda row: row[0], "ms": lambda row: f"{row[1]:.2f}"}), left=("name",))


def test_markdown_escapes_bars_and_aligns_numbers_to_the_right():
    assert TABLE.markdown() == "| name | ms |\n| --- | ---: |\n| a\\|b | 1.50 |\n| [c] | 22.25 |"


def test_plain_text_has_columns_of_equal_width():
    assert TABLE.text(indent="  ") == "  name     ms\n  a|b    1.50\n  [c]   22.25"


def test_a_terminal_shows_the_chosen_columns_and_no_markup():
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(Table(TABLE.headings, TABLE.rows, left=("name",), terminal=("name",), bold=(True, False)).rich())
    text = console.export_text()
    assert "[c]" in text
    assert "ms" not in text


def test_a_text_in_a_cell_is_one_line_without_markup():
    assert one_line("a *b*\n  c", limit=6) == "a \\*b\\*…"
