"""The report in words: the table as cells, what the numbers mean in plain sentences, and `report.md`.

Numbers are rounded to what they are worth reading for; `report.json` keeps all digits. A difference counts as real only
where its paired 95 % interval excludes zero and its p-value is below 5 %, and time counts as saved only from a ratio of
1.05 on, which is about what two runs of one program differ by.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from bertjax.metrics.scores import RIGHT_OR_WRONG
from bertjax.report.report import BASELINES, Comparison, Flip, Report, Row
from bertjax.text.facts import overlap, paragraph

if TYPE_CHECKING:
    from rich.table import Table

SPEED_UP, LEVEL = 1.05, 0.05
_IN_TERMINAL = ("model", "size", "FLOPs", "ms", "speed")  # and the score: what 80 columns hold
_NAMES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "f1_micro": "micro F1",
    "entity_f1": "entity F1",
    "squad_f1": "SQuAD F1",
    "squad_em": "exact match",
}


def metric_name(metric: str) -> str:
    """How the metric is called in running text."""
    return _NAMES.get(metric, metric)


BOOTSTRAP = (
    "a bootstrap over the examples and one more, answered wrongly for its lower end and rightly for its upper one"
)
"""What the interval of a score is, as part of a sentence, where it is not exact."""


def interval_name(metric: str) -> str:
    """What the interval of a score is, as part of a sentence."""
    if metric not in RIGHT_OR_WRONG:
        return BOOTSTRAP
    return "exact (Clopper and Pearson), and of a difference joins those of the texts that one model alone gets right"


def change_text(points: float) -> str:
    """Points of a score that were gained, or lost, in words."""
    size = f"{abs(points):.1f}"
    return "no loss" if size == "0.0" else f"{size} points {'gained' if points > 0 else 'lost'}"


def speed_up(row: Row, baseline: Row) -> float | None:
    """How many times less time `row` takes for one text (median, from its token ids), or None where not measured."""
    if row.latency_ms is None or baseline.latency_ms is None:
        return None
    return baseline.latency_ms.batch_1.p50 / row.latency_ms.batch_1.p50


def table_cells(report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and one list of cells per row; missing numbers are a dash."""
    columns = _columns(report)
    return list(columns), [[cell(row) for cell in columns.values()] for row in report.rows]


def _columns(report: Report) -> dict[str, Callable[[Row], str]]:
    return {
        "model": lambda row: row.name,
        "runtime": lambda row: row.runtime,
        f"{metric_name(report.metric)} [95 %]": _score,
        "p": lambda row: "-" if row.p_value_vs_baseline is None else p_text(row.p_value_vs_baseline),
        "parameters": lambda row: short_number(row.parameters),
        "size": lambda row: bytes_text(row.size_bytes),
        "FLOPs": lambda row: short_number(row.flops_per_example),
        "memory": lambda row: bytes_text(row.peak_memory_bytes.inference),
        "memory, training": lambda row: bytes_text(row.peak_memory_bytes.training_step),
        "ms": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p50),
        "ms p95": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p95),
        "ms with tokenisation": lambda row: short_number(row.latency_ms and row.latency_ms.end_to_end.p50),
        "texts/s": lambda row: short_number(row.throughput_per_s.get("batch_32")),
        "speed": lambda row: _speed(row, report.against(row)),
    }


def _score(row: Row) -> str:
    low, high = (f"{100 * end:.1f}" for end in row.score_ci95)
    return f"{100 * row.score:.1f} [{low}, {high}]"


def _speed(row: Row, baseline: Row) -> str:
    ratio = speed_up(row, baseline)
    if ratio is None or row is baseline:
        return "-"
    if ratio < 1 / SPEED_UP:
        return f"{_ratio(1 / ratio)} slower"
    return _ratio(ratio) if ratio >= SPEED_UP else "no speed-up"


def rich_table(report: Report) -> "Table":
    """The table for a terminal; print it with rich."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    headings, rows = table_cells(report)
    shown = [i for i, heading in enumerate(headings) if heading in _IN_TERMINAL or heading.endswith("[95 %]")]
    table = Table(title=f"{report.task} ({report.device}, {report.threads} threads)", box=SIMPLE_HEAD, pad_edge=False)
    for i in shown:
        widest = max(len(word) for cells in [headings, *rows] for word in cells[i].split())
        left = headings[i] == "model"
        table.add_column(headings[i], justify="left" if left else "right", min_width=widest, no_wrap=not left)
    for row, cells in zip(report.rows, rows, strict=True):
        other = row.name == report.baseline or row.name in BASELINES
        table.add_row(*(escape(cells[i]) for i in shown), style=None if other else "bold")
    return table


def verdicts(report: Report) -> list[str]:
    """What the numbers say, a sentence or two for each model that is neither the baseline nor an honest row; first of
    all, where it is so, that their texts are not new."""
    sentences = [f"**Mind that {warning}**."] if (warning := overlap(report.texts)) else []
    for row in report.rows:
        if row.name == report.baseline or row.name in BASELINES:
            continue
        sentences.append(_against_baseline(report, row))
        if row.exported_from and row.exported_from in [one.bundle for one in report.rows]:
            continue  # it answers as its bundle does
        sentences += [_against_honest(c) for c in report.comparisons if c.row == row.name and c.other in BASELINES]
    return sentences


def _against_baseline(report: Report, row: Row) -> str:
    baseline = report.against(row)
    found = [c for c in report.comparisons if c.row == row.name and c.other == baseline.name]
    score = f"{metric_name(report.metric)} {100 * row.score:.1f} against {100 * baseline.score:.1f}"
    costs = [_times(baseline.size_bytes, row.size_bytes, "smaller on disk", "larger on disk")]
    if row.flops_per_example and baseline.flops_per_example:
        costs.append(_times(baseline.flops_per_example, row.flops_per_example, "less arithmetic", "more arithmetic"))
    ratio = speed_up(row, baseline)
    if ratio is not None:
        slower = f"slower by {_ratio(1 / ratio)}" if ratio < 1 / SPEED_UP else f"no speed-up (time ratio {ratio:.2f})"
        costs.append(f"{_ratio(ratio)} faster" if ratio >= SPEED_UP else f"**{slower}**")
    compared = "".join(f": {_outcome(c)} ({_evidence(c)})" for c in found)
    said = f"**{row.name}** next to *{baseline.name}*: {score}{compared}; {', '.join(costs)}."
    return said + _memory_alone(row, baseline)


def _memory_alone(row: Row, baseline: Row) -> str:
    """Of fewer parameters that compute as much, as shared layers do: what that saves, and what it does not."""
    if not (row.flops_per_example and baseline.flops_per_example and row.parameters * SPEED_UP < baseline.parameters):
        return ""
    if not 1 / SPEED_UP < baseline.flops_per_example / row.flops_per_example < SPEED_UP:
        return ""
    before, after = baseline.peak_memory_bytes, row.peak_memory_bytes
    pairs = {
        "inference": (after.inference, before.inference),
        "training, optimiser state included,": (after.training_step, before.training_step),
    }
    memory = [f"{what} {bytes_text(a)} instead of {bytes_text(b)}" for what, (a, b) in pairs.items() if a and b]
    listed = f" ({', '.join(memory)})" if memory else ""
    said = f" Fewer parameters do the same arithmetic: that saves memory{listed}"
    if "batch_32" not in row.throughput_per_s or "batch_32" not in baseline.throughput_per_s:
        return f"{said}."
    ratio = row.throughput_per_s["batch_32"] / baseline.throughput_per_s["batch_32"]
    time = f"{_ratio(ratio)} the speed" if ratio >= SPEED_UP else "no time saved"
    return f"{said}; in batches of 32, {time}."


def _outcome(c: Comparison) -> str:
    if c.p_value < LEVEL and c.ci95[0] > 0:
        return "better"
    return "worse" if c.p_value < LEVEL and c.ci95[1] < 0 else "no difference that these examples can show"


def _against_honest(c: Comparison) -> str:
    if _outcome(c) == "better":
        return f"**{c.row}** beats *{c.other}* ({_evidence(c)})."
    return f"**{c.row}** does **not** beat *{c.other}* ({_evidence(c)})."


def _evidence(c: Comparison) -> str:
    low, high = (f"{100 * end:+.1f}" for end in c.ci95)
    return f"difference {100 * c.difference:+.1f} points, 95 % interval {low} to {high}, p {equals(p_text(c.p_value))}"


def markdown(report: Report, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    parts = [f"# {report.task}", markdown_table(report), f"![{metric_name(report.metric)} against time]({picture})"]
    if report.conclusion:
        parts += [f"**{report.conclusion}**"]
    if said := verdicts(report):
        parts += ["## What this says", "\n".join(f"- {sentence}" for sentence in said)]
    if any(row.edge for row in report.rows):
        parts += ["## On one thread, from a cold start", _edge_table(report)]
    if report.flips:
        parts += ["## Texts whose label changed", _flips(report)]
    if report.next_steps:
        steps = (f"{what}\n\n```sh\n{command}\n```" for what, command in report.next_steps)
        parts += ["## What to try next", *steps]
    return "\n\n".join([*parts, "## How it was measured", how_measured(report)]) + "\n"


def markdown_table(report: Report) -> str:
    """All columns, one line per model."""
    return _table(*table_cells(report))


def _table(headings: list[str], rows: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(map(cell_text, cells)) + " |" for cells in [headings, ruler, *rows])


def _edge_table(report: Report) -> str:
    """The exported models as a small device would run them."""
    headings = ["model", "ms", "ms p95", "cold start, ms", "memory of the process"]
    rows = [
        [
            row.name,
            *map(short_number, (row.edge.latency_ms.p50, row.edge.latency_ms.p95, row.edge.cold_start_ms)),
            bytes_text(row.edge.peak_resident_bytes),
        ]
        for row in report.rows
        if row.edge
    ]
    return _table(headings, rows)


def _flips(report: Report) -> str:
    def lines(flips: Iterable[Flip]) -> list[str]:
        return [f"- {one_line(f.text)} ({f.baseline_label} → {f.row_label}; gold: {f.gold})" for f in flips]

    parts = []
    for name in dict.fromkeys(flip.row for flip in report.flips):
        mine = [flip for flip in report.flips if flip.row == name]
        lost = lines(f for f in mine if f.baseline_label == f.gold)
        won = lines(f for f in mine if f.row_label == f.gold)
        parts += ["\n".join([f"*{report.baseline}* was right, *{name}* is wrong:\n", *lost])] if lost else []
        parts += ["\n".join([f"*{report.baseline}* was wrong, *{name}* is right:\n", *won])] if won else []
    return "\n\n".join(parts)


def how_measured(report: Report) -> str:
    """One paragraph that says what the columns mean."""
    texts = f"{paragraph(report.texts)} ".lstrip()
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"Device: {report.device}, {report.threads} threads. Texts have {report.lengths.p50:g} tokens in the median, "
        f"{report.lengths.p95:g} at the 95th percentile. {texts}Scores are times 100; their 95 % interval is "
        f"{interval_name(report.metric)}; p compares a row with *{report.baseline}* on the same examples (McNemar's "
        "exact test for accuracy, else a permutation test). Size counts stored weights. FLOPs are those of one text of "
        "the median length, memory is what one compiled call holds at once: parameters, inputs, outputs and "
        "temporaries. Times are milliseconds for one text at its real length, the texts per second those of batches of "
        "32: each model runs in a process of its "
        "own, the processes take turns, and the median of the rounds counts; models that are one program with other "
        f"numbers in it are timed once. {_beside(report)}A time ratio under "
        f"{SPEED_UP} is no speed-up. Versions: {versions}."
    )


def _beside(report: Report) -> str:
    """What the exported rows are compared with."""
    exported = [row.name for row in report.rows if row.exported_from == report.row(report.baseline).bundle]
    if not exported:
        return ""
    return f"The speed of exported models is counted from *{exported[0]}*, that of all others from the baseline. "


def _times(before: int | float, after: int | float, less: str, more: str) -> str:
    ratio = before / after
    if 1 / SPEED_UP < ratio < SPEED_UP:
        return f"not {less}"
    return f"{_ratio(ratio)} {less}" if ratio > 1 else f"{_ratio(1 / ratio)} {more}"


def _ratio(ratio: float) -> str:
    """At least 1: "1.06x", "4.5x", "120x"."""
    return f"{ratio:.2f}x" if ratio < 1.095 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def equals(text: str) -> str:
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def short_number(number: int | float | None, units: tuple[str, ...] = ("", "k", "M", "G", "T")) -> str:
    """Three digits and a unit: 22713216 is 22.7M."""
    if number is None:
        return "-"
    value, power = float(number), 0
    while value >= 999.5 and power + 1 < len(units):
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or (power == 0 and value == int(value)) else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{units[power]}"


def bytes_text(number: int | float | None) -> str:
    """Bytes in powers of 1000: 90868376 is "90.9 MB"."""
    return short_number(number, (" B", " kB", " MB", " GB", " TB"))


def cell_text(text: str) -> str:
    return text.replace("|", "\\|")


def one_line(text: str, limit: int = 240) -> str:
    """The text as one line that Markdown leaves as it is."""
    flat = " ".join(text.split())
    short = flat if len(flat) <= limit else flat[: limit - 1] + "…"
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in short)
