"""What reports have in common: differences of scores, sentences on the measurement, and the layout of `report.md`."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bertjax.measure.latency import Percentiles
from bertjax.report.number_text import p_equals
from bertjax.report.table import Table
from bertjax.storage.paths import write_text
from bertjax.text.facts import Facts, overlap, paragraph


@dataclass(frozen=True)
class Difference:
    """A score minus another one on the same examples, its 95 % interval, and the p-value of a paired test."""

    value: float
    ci95: tuple[float, float]
    p_value: float

    def __str__(self) -> str:
        low, high = (f"{100 * end:+.1f}" for end in self.ci95)
        return f"{100 * self.value:+.1f} points, 95 % interval {low} to {high}, {p_equals(self.p_value)}"


def setting(device: str, threads: int, lengths: Percentiles, texts: tuple[Facts, ...]) -> str:
    """The machine, and the texts with their numbers of tokens, in sentences that end with a blank."""
    return (
        f"Device: {device}, {threads} threads. The median text has {lengths.p50:g} tokens, the 95th percentile "
        f"{lengths.p95:g}. " + f"{paragraph(texts)} ".lstrip()
    )


def versions_text(versions: Mapping[str, str]) -> str:
    return f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}."


def warnings(texts: tuple[Facts, ...]) -> list[str]:
    """A sentence if examples that were scored had been trained on."""
    return [f"**Warning: {warning}**."] if (warning := overlap(texts)) else []


def certificate(setting: str, bound: float, kept: str, bundle: str, otherwise: str) -> str:
    """What held-out text certifies, in a sentence: `kept`, which `setting` keeps the bound; empty: none does."""
    points = f"{100 * bound:g} points"
    if kept:
        return f"On the held-out text {kept} loses at most {points}, interval included; the bundle {bundle}."
    return f"No {setting} loses at most {points} for certain, so {otherwise}."


def json_text(report: Any) -> str:
    return json.dumps(dataclasses.asdict(report), indent=2, allow_nan=False) + "\n"


def write_table(report: Any, table: Table, texts: tuple[Facts, ...], out: Any) -> str:
    """Writes a report of one table as OUT/report.json and OUT/report.md; returns the latter's text."""
    text = document(table.title, table.markdown(), paragraph(texts))
    write_text(out / "report.json", json_text(report))
    write_text(out / "report.md", text)
    return text


def document(title: str, *parts: str) -> str:
    """The Markdown of a report: the title, and all parts that are not empty."""
    return "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"


def section(heading: str, *body: str) -> str:
    """A part with a heading; empty if there is nothing below the heading."""
    return "\n\n".join([f"## {heading}", *body]) if any(body) else ""


def bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def shell(command: str) -> str:
    return f"```sh\n{command}\n```"
