"""A comparison of methods for people: the table, what it says in words, and the picture.

A difference counts only where its corrected p-value is below 5 %; everything else is called noise, because a reader
who sees eight rows will find the best of them whether or not it is better.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bertjax.measure.latency import Latency
from bertjax.metrics.scores import RIGHT_OR_WRONG
from bertjax.report.comparison import BAG_OF_WORDS, BUILT_IN, MORE_EPOCHS, NO_TEACHER, TEACHER, Comparison, MethodRow
from bertjax.report.text import (
    BOOTSTRAP,
    LEVEL,
    SPEED_UP,
    bytes_text,
    cell_text,
    equals,
    interval_name,
    metric_name,
    one_line,
    p_text,
    short_number,
)
from bertjax.text.facts import overlap, paragraph

if TYPE_CHECKING:
    from rich.table import Table

_IN_TERMINAL = ("row", "- no teacher", "p", "passes", "ms")  # and the score: what 80 columns hold


def columns(report: Comparison) -> dict[str, Callable[[MethodRow], str]]:
    """Headings, and what stands below them for a row."""
    return {
        "row": lambda row: title(row.name),
        f"{metric_name(report.metric)} [95 %]": score_text,
        "by seed": lambda row: " ".join(points(value) for seed, value in row.seeds.items() if seed != "None") or "-",
        "- teacher": lambda row: difference_text(row, TEACHER),
        "- no teacher": lambda row: difference_text(row, NO_TEACHER),
        "p": lambda row: p_text(row.differences[NO_TEACHER].p_value) if NO_TEACHER in row.differences else "-",
        "paper": lambda row: "-" if row.paper is None else f"{row.paper:g}",
        "passes": lambda row: short_number(row.passes),
        "of the teacher": lambda row: short_number(row.asked) if row.asked else "-",
        "seconds": lambda row: "-" if row.seconds is None else f"{row.seconds:.0f}",
        "ms": lambda row: milliseconds(row.latency_ms),
        "FLOPs": lambda row: short_number(row.flops_per_example),
        "parameters": lambda row: short_number(row.parameters),
        "size": lambda row: bytes_text(row.size_bytes),
        "run it again": lambda row: "-" if row.name in (TEACHER, BAG_OF_WORDS) else f"`--row={row.name}`",
    }


def title(name: str) -> str:
    return name.replace("_", " ")


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def score_text(row: MethodRow) -> str:
    if row.score is None or row.score_ci95 is None:
        return "failed"
    low, high = map(points, row.score_ci95)
    tried = len(row.seeds) + len(row.failures)
    return f"{points(row.score)} [{low}, {high}]" + (f" ({len(row.seeds)} of {tried} seeds)" if row.failures else "")


def difference_text(row: MethodRow, other: str) -> str:
    found = row.differences.get(other)
    if found is None:
        return "-"
    return f"{100 * found.value:+.1f} [{100 * found.ci95[0]:+.1f}, {100 * found.ci95[1]:+.1f}]"


def milliseconds(latency: Latency | None) -> str:
    return "-" if latency is None else short_number(latency.batch_1.p50)


def table_cells(report: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and one list of cells per row."""
    found = columns(report)
    return list(found), [[cell(row) for cell in found.values()] for row in report.rows]


def rich_table(report: Comparison) -> "Table":
    """The table for a terminal; print it with rich."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    headings, rows = table_cells(report)
    shown = [i for i, heading in enumerate(headings) if heading in _IN_TERMINAL or heading.endswith("[95 %]")]
    table = Table(title=report.task, box=SIMPLE_HEAD, pad_edge=False)
    for i in shown:
        table.add_column(headings[i], justify="left" if i == 0 else "right", no_wrap=True)
    for row, cells in zip(report.rows, rows, strict=True):
        table.add_row(*(escape(cells[i]) for i in shown), style=None if row.name in BUILT_IN else "bold")
    return table


def verdicts(report: Comparison) -> list[str]:
    """What the numbers say: each row against no teacher, the rows against more epochs, the best, the seeds."""
    rows = [row for row in report.rows if row.name not in (TEACHER, NO_TEACHER)]
    said = [_against_no_teacher(row, len(rows)) for row in rows if row.score is not None]
    if warning := overlap(report.texts):
        said.insert(0, f"**Mind that {warning}**.")
    said += [_against_more_epochs(report), _best(report), _teacher(report), _seeds(report), _time(report)]
    said += [
        f"**{title(row.name)}**, seed {seed}, failed: {one_line((why.splitlines() or [why])[0])}"
        for row in report.rows
        for seed, why in row.failures
    ]
    return [sentence for sentence in said if sentence]


def _against_no_teacher(row: MethodRow, count: int) -> str:
    found = row.differences.get(NO_TEACHER)
    if found is None:
        return ""
    low, high = (f"{100 * end:+.1f}" for end in found.ci95)
    evidence = (
        f"{100 * found.value:+.1f} points, 95 % interval {low} to {high}, "
        f"p {equals(p_text(found.p_value))} corrected for {count} rows"
    )
    name, other = f"**{title(row.name)}**", f"*{title(NO_TEACHER)}*"
    if found.p_value >= LEVEL:
        return f"{name} next to {other}: noise, as far as these examples can tell ({evidence})."
    return f"{name} is **{'better' if found.value > 0 else 'worse'}** than {other} ({evidence})."


def _against_more_epochs(report: Comparison) -> str:
    compared = {row.name: row.differences[MORE_EPOCHS] for row in report.rows if MORE_EPOCHS in row.differences}
    if not compared:
        return ""
    more = report.row(MORE_EPOCHS)
    better = [title(name) for name, found in compared.items() if found.value > 0 and found.p_value < LEVEL]
    worse = [title(name) for name, found in compared.items() if found.value < 0 and found.p_value < LEVEL]
    said = (
        f"Labels alone with all the passes that teaching costs ({short_number(more.passes)}) get {score_text(more)}: "
    )
    parts = [f"better than that: {', '.join(better) or 'no row'}"] + [f"worse: {', '.join(worse)}"] * bool(worse)
    return said + "; ".join(parts) + "."


def _best(report: Comparison) -> str:
    best = report.best or ""
    compared = {row.name: row.differences[best] for row in report.rows if best in row.differences}
    if not compared:
        return ""
    near = [title(name) for name, found in compared.items() if found.p_value >= LEVEL]
    if len(near) == len(compared):
        return f"No row stands out: that **{title(best)}** is above the others may be noise."
    said = f"The best row is **{title(best)}**"
    return (
        f"{said}; that it is better than {', '.join(near)} may be noise." if near else f"{said}, and no other is near."
    )


def _teacher(report: Comparison) -> str:
    words = [row.score for row in report.rows if row.name == BAG_OF_WORDS and row.score is not None]
    teacher = report.row(TEACHER).score
    if not words or teacher is None or teacher > words[0]:
        return ""
    return "The teacher is no better than a bag of words: there is nothing to be learnt from it that matters."


def _seeds(report: Comparison) -> str:
    spreads = {row.name: max(row.seeds.values()) - min(row.seeds.values()) for row in report.rows if len(row.seeds) > 1}
    if not spreads:
        return "One seed a row: how far another seed would lie apart is not known, and no p-value here includes it."
    widest = max(spreads, key=lambda name: spreads[name])
    return (
        f"Seeds of one row lie up to {points(spreads[widest])} points apart ({title(widest)}); p-values leave that out."
    )


def _time(report: Comparison) -> str:
    found = {row.name: row.latency_ms for row in report.rows if row.name not in (TEACHER, BAG_OF_WORDS)}
    times = [latency.batch_1.p50 for latency in found.values() if latency is not None]
    teacher = report.row(TEACHER).latency_ms
    if not times or teacher is None:
        return ""
    ratios = [teacher.batch_1.p50 / time for time in (max(times), min(times))]
    if ratios[1] < SPEED_UP:
        return "No row is faster than the teacher."
    low, high = (f"{ratio:.1f}" for ratio in ratios)
    return (
        f"One text takes a small model {low if low == high else f'{low} to {high}'} times less time than the teacher."
    )


def markdown(report: Comparison, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    headings, rows = table_cells(report)
    ruler = ["---", *["---:"] * (len(headings) - 2), "---"]
    table = "\n".join("| " + " | ".join(map(cell_text, cells)) + " |" for cells in [headings, ruler, *rows])
    parts = [f"# Methods compared: {report.task}", table, f"![{metric_name(report.metric)} of every row]({picture})"]
    parts += ["## What this says", "\n".join(f"- {sentence}" for sentence in verdicts(report))]
    again = "Add the row's flag; with a seed (`--row=NAME/seed0`) it is one run, bit for bit the same:"
    parts += ["## To run a row again", f"{again}\n\n```sh\n{report.command}\n```"]
    sources = [f"- {title(row.name)}: {row.paper:g}, {row.source}" for row in report.rows if row.paper is not None]
    if sources:
        heading = "Published figures, of other models and other data than here: what to expect in kind, not in size."
        parts += ["## Papers", f"{heading}\n\n" + "\n".join(sources)]
    return "\n\n".join([*parts, "## How it was measured", how_measured(report)]) + "\n"


def how_measured(report: Comparison) -> str:
    """One paragraph that says what the columns mean."""
    exact = f"; of one seed it is {interval_name(report.metric)}" if report.metric in RIGHT_OR_WRONG else ""
    texts = f"{paragraph(report.texts)} ".lstrip()
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"Scores are times 100, means over the seeds; the 95 % interval is {BOOTSTRAP}, each with the answers of all "
        f"seeds{exact}. *- teacher* and *- no teacher* are differences of the means on the same seeds, p a "
        "paired test of the latter (McNemar's exact test for the accuracy of one seed, else a permutation test that "
        "swaps an example's answers in all seeds), corrected for the number of rows (Holm). *Passes* are training "
        "examples seen by the small model, *of the teacher* those that the teacher read for the row; *seconds* are for "
        "both, without "
        f"compiling the training step. What all rows share stands in none: {report.teacher_cost}. *ms* is the median "
        "time of one text, measured once for all rows of one shape, each shape in a process of its own, the processes "
        "taking turns. "
        f"FLOPs are those of one text of the median length. Device: {report.device}, {report.threads} threads; texts "
        f"have {report.lengths.p50:g} tokens in the median, {report.lengths.p95:g} at the 95th percentile. {texts}"
        f"Versions: {versions}."
    )


def draw(report: Comparison, path: str | os.PathLike) -> None:
    """The picture: every row's score with its interval, a dot for each seed, and a line where no teacher is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.score is not None][::-1]
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, whose global state belongs to the caller
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        _interval(axes, place, row)
    reference = report.row(NO_TEACHER).score if any(row.name == NO_TEACHER for row in rows) else None
    if reference is not None:
        axes.axvline(100 * reference, color="#6b7280", linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(range(len(rows)), [title(row.name) for row in rows])
    axes.set_xlabel(f"{metric_name(report.metric)} times 100, mean over seeds with 95 % interval; small dots: seeds")
    axes.set_title(f"{report.task}   (dashed: no teacher)", loc="left", fontsize=11)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _interval(axes: Any, place: int, row: MethodRow) -> None:
    assert row.score is not None
    assert row.score_ci95 is not None
    colour = {TEACHER: "#c2640c"}.get(row.name, "#6b7280" if row.name in BUILT_IN else "#2a6fbb")
    score, (low, high) = 100 * row.score, (100 * end for end in row.score_ci95)
    errors = [[max(score - low, 0)], [max(high - score, 0)]]
    axes.errorbar(score, place, xerr=errors, fmt="o", color=colour, capsize=3, linewidth=1.4, zorder=3)
    seeds = [100 * value for value in row.seeds.values()] if len(row.seeds) > 1 else []
    axes.scatter(seeds, [place - 0.22] * len(seeds), s=9, color=colour, alpha=0.7, linewidth=0, zorder=2)
