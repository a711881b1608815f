"""The pictures of reports: of models, score against time with stored size as area; of methods, score with its interval.

Up and to the left is better. Time is on a logarithmic axis because what matters is the ratio; the bars are the scores'
95 % intervals. Labels are put beside their circles greedily, in the first of a ring of places that overlaps nothing.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertjax.report.methods import BUILT_IN, NO_TEACHER, TEACHER, MethodComparison, MethodRow, title
from bertjax.report.models import BASELINES, ModelRow, Report
from bertjax.report.number_text import bytes_text, metric_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _GREY, _ORANGE = "#2a6fbb", "#6b7280", "#c2640c"
_LARGEST = 2600.0  # area of the largest circle, in square points


def draw_models(report: Report, path: str | os.PathLike) -> None:
    """Write the picture; its format follows the file's suffix."""
    figure(report).savefig(path)


def figure(report: Report) -> "Figure":
    """The picture as a matplotlib figure. Rows without a measured time are left out."""
    rows = [row for row in report.rows if row.latency_ms is not None]
    axes = _axes(f"{report.task}   (area: bytes stored)", height=5)
    circles = [_circle(axes, report, row) for row in sorted(rows, key=lambda row: -row.size_bytes)]
    _scales(axes, report)
    axes.figure.canvas.draw()  # settles the layout, which the places of the labels depend on
    _label(axes, report, circles)
    return axes.figure


def _axes(title: str, height: float) -> Any:
    """The axes of a new figure, with a frame on two sides."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot, whose global state belongs to the caller
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _circle(axes: Any, report: Report, row: ModelRow) -> tuple[ModelRow, float, float, float]:
    """Draw one model; returns it with its position and radius (in points)."""
    assert row.latency_ms is not None
    x, y = row.latency_ms.batch_1.p50, 100 * row.score
    area = max(_LARGEST * row.size_bytes / max(r.size_bytes for r in report.rows), 12.0)
    colour = _colour(report, row)
    axes.errorbar(x, y, _error(row.score, row.score_ci95), color=colour, capsize=3, linewidth=1.2, zorder=3)
    axes.scatter(x, y, s=area, color=colour, alpha=0.35, linewidth=0, zorder=2)
    axes.scatter(x, y, s=10, color=colour, zorder=3)
    return row, x, y, (area / 3.1416) ** 0.5


def _error(score: float, ends: tuple[float, float]) -> list[list[float]]:
    """How far an interval reaches below and above its score, in points."""
    low, high = (100 * end for end in ends)
    return [[max(100 * score - low, 0)], [max(high - 100 * score, 0)]]


def _colour(report: Report, row: ModelRow) -> str:
    return _ORANGE if row.name == report.baseline else _GREY if row.name in BASELINES else _BLUE


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis of times."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _scales(axes: Any, report: Report) -> None:
    _logarithmic(axes)
    axes.margins(x=0.25, y=0.12)
    axes.set_xlabel(f"milliseconds for one text (median; {report.device}, {report.threads} threads)")
    axes.set_ylabel(f"{metric_name(report.metric)} times 100, with 95 % interval")
    axes.grid(alpha=0.25)


def _label(axes: Any, report: Report, circles: list[tuple[ModelRow, float, float, float]]) -> None:
    """Write each name beside its circle where it covers neither a centre, an interval nor another name."""
    from matplotlib.transforms import Bbox

    pixels = axes.figure.dpi / 72  # per point
    taken = []
    for row, x, y, _ in circles:
        ends = axes.transData.transform([(x, 100 * row.score_ci95[0]), (x, y), (x, 100 * row.score_ci95[1])])
        taken.append(Bbox.from_extents(*(ends.min(0) - 5 * pixels), *(ends.max(0) + 5 * pixels)))
    for row, x, y, radius in circles:
        name = f"{row.name}\n{bytes_text(row.size_bytes)}"
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8.5, color=_colour(report, row))
        for dx, dy, horizontal, vertical in _places(radius):
            text.set(position=(dx, dy), ha=horizontal, va=vertical)
            box = text.get_window_extent()
            inside = (
                axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            )
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _places(radius: float) -> Iterator[tuple[float, float, str, str]]:
    """Offsets in points with the alignment of the text: right, left, above and below first, then further out."""
    sides = ((1, 0), (-1, 0), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7), (0, 1), (0, -1))
    for ring, (right, up) in itertools.product((4, 14, 28, 44), sides):
        horizontal = "left" if right > 0 else "right" if right < 0 else "center"
        vertical = "bottom" if up > 0 else "top" if up < 0 else "center"
        yield right * (radius + ring), up * (radius + ring), horizontal, vertical


def draw_front(
    trials: Sequence[tuple[float, float, bool]],
    files: Sequence[tuple[float, float, str]],
    allowed: float | None,
    path: str | os.PathLike,
) -> None:
    """The trials of a search, (milliseconds, change in points, whether on the front), and the measured files with the
    names that are to be shown. The dashed line is the allowed loss."""
    axes = _axes("trials by predicted time (blue: the front), and files as measured (orange)", height=5)
    for milliseconds, change, front in sorted(trials):
        axes.scatter(milliseconds, change, s=36, color=_BLUE if front else _GREY, linewidth=0, zorder=2 + front)
    axes.plot(*zip(*[trial[:2] for trial in sorted(trials) if trial[2]], strict=True), color=_BLUE, linewidth=1)
    for milliseconds, change, name in files:
        axes.scatter(milliseconds, change, s=20, color=_ORANGE, zorder=4)
        axes.annotate(name, (milliseconds, change), (4, 4), textcoords="offset points", fontsize=7, color=_ORANGE)
    if allowed is not None:
        axes.axhline(-allowed, color=_GREY, linewidth=1, linestyle="--", zorder=1)
    _logarithmic(axes)
    axes.set_xlabel("milliseconds for one text (median)")
    axes.set_ylabel("score on held-out text against the teacher's, in points")
    axes.figure.savefig(path)


def draw_methods(report: MethodComparison, path: str | os.PathLike) -> None:
    """Every method's score with its interval, a dot for each seed, and a dashed line at the score without a teacher."""
    rows = [row for row in report.rows if row.score is not None][::-1]
    axes = _axes(f"{report.task}   (dashed: no teacher)", height=1.4 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        _method_interval(axes, place, row)
    axes.set_yticks(range(len(rows)), [title(row.name) for row in rows])
    axes.set_xlabel(f"{metric_name(report.metric)} times 100, average over seeds with 95 % interval; small dots: seeds")
    axes.grid(alpha=0.25, axis="x")
    axes.figure.savefig(path)


def _method_interval(axes: Any, place: int, row: MethodRow) -> None:
    assert row.score is not None
    assert row.score_ci95 is not None
    colour = _ORANGE if row.name == TEACHER else _GREY if row.name in BUILT_IN else _BLUE
    error = _error(row.score, row.score_ci95)
    axes.errorbar(100 * row.score, place, xerr=error, fmt="o", color=colour, capsize=3, linewidth=1.4, zorder=3)
    if row.name == NO_TEACHER:
        axes.axvline(100 * row.score, color=_GREY, linewidth=1, linestyle="--", zorder=1)
    seeds = [100 * value for value in row.seeds.values()] if len(row.seeds) > 1 else []
    axes.scatter(seeds, [place - 0.22] * len(seeds), s=9, color=colour, alpha=0.7, linewidth=0, zorder=2)
