"""A comparison of methods for people: its table, what the numbers mean in plain sentences, and `report.md`.

A difference counts only where its corrected p-value is below 5 %. Everything else is called not statistically
distinguishable, because a reader who sees eight rows finds a best one whether or not it is better.
"""

from bertjax.metrics.scores import RIGHT_OR_WRONG
from bertjax.report.method_report import (
    BAG_OF_WORDS,
    BUILT_IN,
    MORE_EPOCHS,
    NO_TEACHER,
    TEACHER,
    MethodComparison,
    MethodRow,
)
from bertjax.report.number_text import (
    BOOTSTRAP,
    LEVEL,
    SPEED_UP,
    bytes_text,
    interval_name,
    metric_name,
    p_equals,
    p_text,
    points,
    points_with_interval,
    short_number,
)
from bertjax.report.table import Table, cells_of, one_line
from bertjax.text.facts import overlap, paragraph


def method_table(report: MethodComparison) -> Table:
    """One line per method."""
    score = f"{metric_name(report.metric)} [95 %]"
    columns = {
        "row": lambda row: title(row.name),
        score: score_text,
        "by seed": lambda row: " ".join(points(value) for seed, value in row.seeds.items() if seed != "None") or "-",
        "- teacher": lambda row: difference_text(row, TEACHER),
        "- no teacher": lambda row: difference_text(row, NO_TEACHER),
        "p": lambda row: p_text(row.differences[NO_TEACHER].p_value) if NO_TEACHER in row.differences else "-",
        "paper": lambda row: "-" if row.paper is None else f"{row.paper:g}",
        "passes": lambda row: short_number(row.passes),
        "of the teacher": lambda row: short_number(row.teacher_passes) if row.teacher_passes else "-",
        "seconds": lambda row: "-" if row.seconds is None else f"{row.seconds:.0f}",
        "ms": lambda row: short_number(row.latency_ms and row.latency_ms.batch_1.p50),
        "FLOPs": lambda row: short_number(row.flops_per_example),
        "parameters": lambda row: short_number(row.parameters),
        "size": lambda row: bytes_text(row.size_bytes),
        "run it again": lambda row: "-" if row.name in (TEACHER, BAG_OF_WORDS) else f"`--row={row.name}`",
    }
    return Table(
        *cells_of(report.rows, columns),
        title=report.task,
        left=("row", "run it again"),
        terminal=("row", score, "- no teacher", "p", "passes", "ms"),
        bold=tuple(row.name not in BUILT_IN for row in report.rows),
    )


def title(name: str) -> str:
    return name.replace("_", " ")


def score_text(row: MethodRow) -> str:
    if row.score is None or row.score_ci95 is None:
        return "failed"
    tried = len(row.seeds) + len(row.failures)
    seeds = f" ({len(row.seeds)} of {tried} seeds)" if row.failures else ""
    return points_with_interval(row.score, row.score_ci95) + seeds


def difference_text(row: MethodRow, other: str) -> str:
    found = row.differences.get(other)
    return "-" if found is None else points_with_interval(found.value, found.ci95, "+")


def verdicts(report: MethodComparison) -> list[str]:
    """What the numbers say: each row against no teacher, the rows against more epochs, the best, the seeds."""
    rows = [row for row in report.rows if row.name not in (TEACHER, NO_TEACHER)]
    sentences = [f"**Warning: {warning}**." if (warning := overlap(report.texts)) else ""]
    sentences += [_against_no_teacher(row, len(rows)) for row in rows if row.score is not None]
    sentences += [_against_more_epochs(report), _best(report), _teacher(report), _seeds(report), _time(report)]
    sentences += [
        f"**{title(row.name)}**, seed {seed}, failed: {one_line((why.splitlines() or [why])[0])}"
        for row in report.rows
        for seed, why in row.failures
    ]
    return [sentence for sentence in sentences if sentence]


def _against_no_teacher(row: MethodRow, count: int) -> str:
    found = row.differences.get(NO_TEACHER)
    if found is None:
        return ""
    low, high = (f"{100 * end:+.1f}" for end in found.ci95)
    evidence = (
        f"{100 * found.value:+.1f} points, 95 % interval {low} to {high}, "
        f"{p_equals(found.p_value)} corrected for {count} rows"
    )
    name, other = f"**{title(row.name)}**", f"*{title(NO_TEACHER)}*"
    if found.p_value >= LEVEL:
        return f"{name} next to {other}: not statistically distinguishable ({evidence})."
    return f"{name} is **{'better' if found.value > 0 else 'worse'}** than {other} ({evidence})."


def _against_more_epochs(report: MethodComparison) -> str:
    compared = {row.name: row.differences[MORE_EPOCHS] for row in report.rows if MORE_EPOCHS in row.differences}
    if not compared:
        return ""
    more = report.row(MORE_EPOCHS)
    better = [title(name) for name, found in compared.items() if found.value > 0 and found.p_value < LEVEL]
    worse = [title(name) for name, found in compared.items() if found.value < 0 and found.p_value < LEVEL]
    sentence = (
        f"Labels alone, with as many passes as distillation costs ({short_number(more.passes)}), "
        f"score {score_text(more)}: "
    )
    parts = [f"better than that: {', '.join(better) or 'no row'}"] + [f"worse: {', '.join(worse)}"] * bool(worse)
    return sentence + "; ".join(parts) + "."


def _best(report: MethodComparison) -> str:
    best = report.best or ""
    compared = {row.name: row.differences[best] for row in report.rows if best in row.differences}
    if not compared:
        return ""
    near = [title(name) for name, found in compared.items() if found.p_value >= LEVEL]
    if len(near) == len(compared):
        return f"**{title(best)}** scores highest, but is not statistically distinguishable from any other row."
    sentence = f"The best row is **{title(best)}**"
    return (
        f"{sentence}; it is not statistically distinguishable from {', '.join(near)}."
        if near
        else f"{sentence}, better than every other row."
    )


def _teacher(report: MethodComparison) -> str:
    bag = [row.score for row in report.rows if row.name == BAG_OF_WORDS and row.score is not None]
    teacher = report.row(TEACHER).score
    if not bag or teacher is None or teacher > bag[0]:
        return ""
    return "The teacher is no better than a bag of words, so there is little to be learnt from it."


def _seeds(report: MethodComparison) -> str:
    spreads = {row.name: max(row.seeds.values()) - min(row.seeds.values()) for row in report.rows if len(row.seeds) > 1}
    if not spreads:
        return "Every row has one seed: how much scores vary between seeds is not known, and no p-value includes it."
    widest = max(spreads, key=lambda name: spreads[name])
    return (
        f"Seeds of one row differ by up to {points(spreads[widest])} points ({title(widest)}); p-values do not "
        "include that."
    )


def _time(report: MethodComparison) -> str:
    found = {row.name: row.latency_ms for row in report.rows if row.name not in (TEACHER, BAG_OF_WORDS)}
    times = [latency.batch_1.p50 for latency in found.values() if latency is not None]
    teacher = report.row(TEACHER).latency_ms
    if not times or teacher is None:
        return ""
    ratios = [teacher.batch_1.p50 / time for time in (max(times), min(times))]
    if ratios[1] < SPEED_UP:
        return "No row is faster than the teacher."
    low, high = (f"{ratio:.1f}" for ratio in ratios)
    return f"For one text the small models need {low if low == high else f'{low} to {high}'} times less time."


def markdown(report: MethodComparison, picture: str) -> str:
    """`report.md`; `picture` is the path of the picture relative to it."""
    table = method_table(report).markdown()
    parts = [f"# Methods compared: {report.task}", table, f"![{metric_name(report.metric)} of every row]({picture})"]
    parts += ["## What the numbers say", "\n".join(f"- {sentence}" for sentence in verdicts(report))]
    again = "Add the row's flag; with a seed (`--row=NAME/seed0`) it is one run, bit for bit the same:"
    parts += ["## To run a row again", f"{again}\n\n```sh\n{report.command}\n```"]
    sources = [f"- {title(row.name)}: {row.paper:g}, {row.source}" for row in report.rows if row.paper is not None]
    if sources:
        heading = "Published scores, of other models and other data: expect the same order, not the same numbers."
        parts += ["## Papers", f"{heading}\n\n" + "\n".join(sources)]
    return "\n\n".join([*parts, "## How it was measured", how_measured(report)]) + "\n"


def how_measured(report: MethodComparison) -> str:
    """One paragraph that explains the columns."""
    exact = f"; of one seed it is {interval_name(report.metric)}" if report.metric in RIGHT_OR_WRONG else ""
    texts = f"{paragraph(report.texts)} ".lstrip()
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"Scores are times 100, averaged over the seeds; the 95 % interval is {BOOTSTRAP}, with the predictions of "
        f"all seeds{exact}. *- teacher* and *- no teacher* are differences of the averages over the same seeds. p is a "
        "paired test of the latter (McNemar's exact test for the accuracy of one seed, else a permutation test that "
        "swaps an example's predictions in all seeds), corrected for the number of rows (Holm). *passes* are training "
        "examples that the small model saw, *of the teacher* those that the teacher computed for the row; *seconds* "
        "are the time of both, without compilation of the training step. What all rows share is not included: "
        f"{report.teacher_cost}. *ms* is the median time of one text, measured once for all rows of one shape, each "
        "shape in a process of its own, the processes taking turns. FLOPs are those of one text of the median length. "
        f"Device: {report.device}, {report.threads} threads. The median text has {report.lengths.p50:g} tokens, the "
        f"95th percentile {report.lengths.p95:g}. {texts}Versions: {versions}."
    )
