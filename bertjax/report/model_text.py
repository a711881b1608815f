"""A report of models for people: its table, what the numbers mean in plain sentences, and `report.md`.

Numbers are rounded; `report.json` keeps all digits. A difference counts as real only where its paired 95 % interval
excludes zero and its p-value is below 5 %.
"""

from collections.abc import Iterable

from bertjax.report.model_report import BASELINES, Flip, ModelRow, PairedComparison, Report
from bertjax.report.number_text import (
    LEVEL,
    SPEED_UP,
    bytes_text,
    interval_name,
    metric_name,
    p_equals,
    p_text,
    points_with_interval,
    ratio_text,
    short_number,
)
from bertjax.report.table import Table, cells_of, one_line
from bertjax.text.facts import overlap, paragraph


def speed_up(row: ModelRow, baseline: ModelRow) -> float | None:
    """How many times less time `row` takes for one text (median, from its token ids), or None where not measured."""
    if row.latency_ms is None or baseline.latency_ms is None:
        return None
    return baseline.latency_ms.batch_1.p50 / row.latency_ms.batch_1.p50


def model_table(report: Report) -> Table:
    """One line per model; missing numbers are a dash."""
    score = f"{metric_name(report.metric)} [95 %]"
    columns = {
        "model": lambda row: row.name,
        "runtime": lambda row: row.runtime,
        score: lambda row: points_with_interval(row.score, row.score_ci95),
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
    return Table(
        *cells_of(report.rows, columns),
        title=f"{report.task} ({report.device}, {report.threads} threads)",
        left=("model",),
        terminal=("model", score, "size", "FLOPs", "ms", "speed"),
        bold=tuple(row.name not in (report.baseline, *BASELINES) for row in report.rows),
    )


def _speed(row: ModelRow, baseline: ModelRow) -> str:
    ratio = speed_up(row, baseline)
    if ratio is None or row is baseline:
        return "-"
    if ratio < 1 / SPEED_UP:
        return f"{ratio_text(1 / ratio)} slower"
    return ratio_text(ratio) if ratio >= SPEED_UP else "no speed-up"


def verdicts(report: Report) -> list[str]:
    """What the numbers say, a sentence or two for each compressed model. A warning comes first where examples that were
    scored had been trained on."""
    sentences = [f"**Warning: {warning}**."] if (warning := overlap(report.texts)) else []
    for row in report.rows:
        if row.name == report.baseline or row.name in BASELINES:
            continue
        sentences.append(_against_first_model(report, row))
        if row.exported_from and row.exported_from in [one.bundle for one in report.rows]:
            continue  # its predictions are those of its bundle
        sentences += [_against_baseline(c) for c in report.comparisons if c.row == row.name and c.other in BASELINES]
    return sentences


def _against_first_model(report: Report, row: ModelRow) -> str:
    baseline = report.against(row)
    found = [c for c in report.comparisons if c.row == row.name and c.other == baseline.name]
    score = f"{metric_name(report.metric)} {100 * row.score:.1f} against {100 * baseline.score:.1f}"
    costs = [_times(baseline.size_bytes, row.size_bytes, "smaller on disk", "larger on disk")]
    if row.flops_per_example and baseline.flops_per_example:
        costs.append(_times(baseline.flops_per_example, row.flops_per_example, "fewer FLOPs", "more FLOPs"))
    ratio = speed_up(row, baseline)
    if ratio is not None:
        slower = (
            f"slower by {ratio_text(1 / ratio)}" if ratio < 1 / SPEED_UP else f"no speed-up (time ratio {ratio:.2f})"
        )
        costs.append(f"{ratio_text(ratio)} faster" if ratio >= SPEED_UP else f"**{slower}**")
    compared = "".join(f": {_outcome(c)} ({_evidence(c)})" for c in found)
    sentence = f"**{row.name}** next to *{baseline.name}*: {score}{compared}; {', '.join(costs)}."
    return sentence + _memory_alone(row, baseline)


def _memory_alone(row: ModelRow, baseline: ModelRow) -> str:
    """What fewer parameters save that need as many FLOPs, as with shared layers: memory, and mostly no time."""
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
    sentence = f" Fewer parameters need as many FLOPs: that saves memory{listed}"
    if "batch_32" not in row.throughput_per_s or "batch_32" not in baseline.throughput_per_s:
        return f"{sentence}."
    ratio = row.throughput_per_s["batch_32"] / baseline.throughput_per_s["batch_32"]
    time = f"{ratio_text(ratio)} the speed" if ratio >= SPEED_UP else "no time saved"
    return f"{sentence}; in batches of 32, {time}."


def _outcome(c: PairedComparison) -> str:
    if c.p_value < LEVEL and c.ci95[0] > 0:
        return "better"
    return "worse" if c.p_value < LEVEL and c.ci95[1] < 0 else "not statistically distinguishable"


def _against_baseline(c: PairedComparison) -> str:
    if _outcome(c) == "better":
        return f"**{c.row}** beats *{c.other}* ({_evidence(c)})."
    return f"**{c.row}** does **not** beat *{c.other}* ({_evidence(c)})."


def _evidence(c: PairedComparison) -> str:
    low, high = (f"{100 * end:+.1f}" for end in c.ci95)
    return f"difference {100 * c.difference:+.1f} points, 95 % interval {low} to {high}, {p_equals(c.p_value)}"


def markdown(report: Report, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    table = model_table(report).markdown()
    parts = [f"# {report.task}", table, f"![{metric_name(report.metric)} against time]({picture})"]
    if report.conclusion:
        parts += [f"**{report.conclusion}**"]
    if sentences := verdicts(report):
        parts += ["## What the numbers say", "\n".join(f"- {sentence}" for sentence in sentences)]
    if any(row.edge for row in report.rows):
        parts += ["## On one thread, from a cold start", _edge_table(report).markdown()]
    if report.flips:
        parts += ["## Examples whose label changed", _flips(report)]
    if report.next_steps:
        steps = (f"{what}\n\n```sh\n{command}\n```" for what, command in report.next_steps)
        parts += ["## What to try next", *steps]
    return "\n\n".join([*parts, "## How it was measured", how_measured(report)]) + "\n"


def _edge_table(report: Report) -> Table:
    """The exported models as a small device would run them."""
    columns = {
        "model": lambda pair: pair[0],
        "ms": lambda pair: short_number(pair[1].latency_ms.p50),
        "ms p95": lambda pair: short_number(pair[1].latency_ms.p95),
        "cold start, ms": lambda pair: short_number(pair[1].cold_start_ms),
        "memory of the process": lambda pair: bytes_text(pair[1].peak_resident_bytes),
    }
    return Table(*cells_of([(row.name, row.edge) for row in report.rows if row.edge], columns), left=("model",))


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
    """One paragraph that explains the columns."""
    texts = f"{paragraph(report.texts)} ".lstrip()
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    exported = [row.name for row in report.rows if row.exported_from == report.row(report.baseline).bundle]
    speed = [
        f"Exported models are compared in speed with *{name}*, all others with the first model. " for name in exported
    ]
    return (
        f"Device: {report.device}, {report.threads} threads. The median text has {report.lengths.p50:g} tokens, the "
        f"95th percentile {report.lengths.p95:g}. {texts}Scores are times 100; their 95 % interval is "
        f"{interval_name(report.metric)}; p compares a row with *{report.baseline}* on the same examples (McNemar's "
        "exact test for accuracy, else a permutation test). Size is the bytes of the stored weights. FLOPs are those "
        "of one text of the median length. Memory is what one compiled call holds at once: parameters, inputs, outputs "
        "and temporaries. Times are milliseconds for one text at its real length; texts/s is measured in batches of "
        "32. Each model runs in a process of its own, the processes take turns, and the median of the repeats counts. "
        "Models that differ only in the values of their parameters are timed once. "
        f"{''.join(speed[:1])}A time ratio under {SPEED_UP} is no speed-up. Versions: {versions}."
    )


def _times(before: int | float, after: int | float, less: str, more: str) -> str:
    ratio = before / after
    if 1 / SPEED_UP < ratio < SPEED_UP:
        return f"not {less}"
    return f"{ratio_text(ratio)} {less}" if ratio > 1 else f"{ratio_text(1 / ratio)} {more}"
