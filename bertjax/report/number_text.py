"""Numbers as a reader meets them: rounded to what they are worth reading for, with a unit, and with the metric's name.

Time counts as saved only from a ratio of 1.05 on, which is about what two runs of one program differ by.
"""

from bertjax.metrics.scores import RIGHT_OR_WRONG

SPEED_UP, LEVEL = 1.05, 0.05
"""The smallest ratio of times that is called a speed-up, and the p-value below which a difference is called real."""
_NAMES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "f1_micro": "micro F1",
    "entity_f1": "entity F1",
    "tag_accuracy": "accuracy of tags",
    "squad_f1": "SQuAD F1",
    "squad_em": "exact match",
    "similarity_spearman": "Spearman correlation of similarities",
    "recall_at_10": "recall at 10",
    "ndcg_at_10": "nDCG at 10",
}


def metric_name(metric: str) -> str:
    """How the metric is called in running text."""
    return _NAMES.get(metric, metric)


BOOTSTRAP = "a bootstrap over the examples and one more, which is wrong for the lower end and right for the upper end"
"""How the interval of a score was computed, as part of a sentence, where it is not exact."""


def interval_name(metric: str) -> str:
    """How the interval of a score was computed, as part of a sentence."""
    if metric not in RIGHT_OR_WRONG:
        return BOOTSTRAP
    return (
        "exact (Clopper and Pearson); that of a difference joins those of the examples that only one model gets right"
    )


def change_text(points: float) -> str:
    """Points of a score that were gained, or lost, in words."""
    size = f"{abs(points):.1f}"
    return "no loss" if size == "0.0" else f"{size} points {'gained' if points > 0 else 'lost'}"


def points(share: float) -> str:
    """A score, times 100."""
    return f"{100 * share:.1f}"


def points_with_interval(value: float, ends: tuple[float, float], sign: str = "") -> str:
    """A score or, with the sign "+", a difference of scores, and its interval, times 100."""
    number, low, high = (f"{100 * one:{sign}.1f}" for one in (value, *ends))
    return f"{number} [{low}, {high}]"


def ratio_text(ratio: float) -> str:
    """At least 1: "1.06x", "4.5x", "120x"."""
    return f"{ratio:.2f}x" if ratio < 1.095 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equals(p: float) -> str:
    """For running text: "p = 0.012" or "p < 0.001"."""
    return f"p {p_text(p).replace('<', '< ')}" if p < 0.001 else f"p = {p_text(p)}"


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
