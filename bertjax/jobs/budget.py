"""Which of the measured files is kept, by bounds on score, speed and size.

The choice is made on held-out text, where a loss of score is known to within its uncertainty. A file counts as within
--max_drop if what it lost and about one standard error more are allowed: of many files that seem to be within a bound,
the fastest is one that was lucky, and this is the price for it. More held-out text makes the margin smaller. The file
that is kept is then measured once on the evaluation text, which chose nothing, and that decides the exit code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjax.jobs.report import Model
from bertjax.recipes.compress import Config

if TYPE_CHECKING:
    from bertjax.report.models import Report

MISSED = 3
"""Exit code if no candidate is within the bounds; the same as that of `bertjax verify`."""


MARGIN = 1.03
"""A file is chosen if it is faster than the bound by this factor: times of two measurements differ."""


class Finalist(NamedTuple):
    """A file and its measurements, relative to the exported teacher."""

    model: Model
    speed_up: float
    drop: float
    """Loss of score, in points."""
    error: float
    """Uncertainty of the loss, about one standard error, in points; 0 to compare the loss itself with the bound."""
    megabytes: float

    def misses(self, bounds: Config, margin: float = 1.0) -> list[str]:
        """The bounds that the file violates, if it has to be faster by the margin."""
        from bertjax.verify.measured import exceeds

        tests = {
            f"--max_drop={bounds.max_drop}": exceeds(self.drop + self.error, bounds.max_drop),
            f"--min_speedup={bounds.min_speedup}": bool(bounds.min_speedup)
            and not self.speed_up >= margin * bounds.min_speedup,
            f"--max_mb={bounds.max_mb}": bounds.max_mb is not None and not self.megabytes <= bounds.max_mb,
        }
        return [bound for bound, missed in tests.items() if missed]

    def __str__(self) -> str:
        from bertjax.report.number_text import change_text

        changed = change_text(-self.drop)
        return f"{self.model.name} ({self.speed_up:.1f} times as fast, {changed}, {self.megabytes:.1f} MB)"


def choose(files: Sequence[Finalist], bounds: Config) -> Finalist:
    """The fastest file within all bounds or, without a bound on the loss, the one that loses the least. If there is
    none, the one that violates the fewest bounds, and of those the one that loses the least."""
    within = [one for one in files if not one.misses(bounds, MARGIN)]
    if within and bounds.max_drop is not None:
        return max(within, key=lambda one: one.speed_up)
    return min(within or files, key=lambda one: (len(one.misses(bounds)), one.drop, -one.speed_up))


def concluded(report: Report, kept: Finalist, files: Sequence[Finalist], bounds: Config) -> tuple[Report, str | None]:
    """The report of the file that is kept, with a sentence on the choice; and that sentence if a bound is violated."""
    reported, within = measured(report, kept.model), [one for one in files if not one.misses(bounds, MARGIN)]
    missed = reported.misses(bounds)
    on = f"on held-out text it lost {kept.drop:.1f} points, +-{kept.error:.1f}"
    if not missed:
        of = f"the {'fastest' if bounds.max_drop is not None else 'best'} of {len(within)} within the bounds"
        of = of if kept in within else "which no other file was nearer to"
        sentence = f"Kept: {reported}, {of}, of {len(files)} files; {on}."
        return dataclasses.replace(report, conclusion=sentence), None
    begins = f"None of {len(files)} files is within all bounds." if kept not in within else "Chosen on held-out text."
    sentence = (
        f"{begins} The best one is kept: {reported}; it misses {' and '.join(missed)} ({on}). Relax the bounds, or "
        "search longer (--minutes)."
    )
    return dataclasses.replace(report, conclusion=sentence), sentence


def measured(report: Report, model: Model) -> Finalist:
    """A file's measurements on the evaluation text: score and time from the report, bytes from its folder and the
    report that ships in it."""
    from bertjax.report.models import speed_up
    from bertjax.storage.paths import local
    from bertjax.verify.folder import shipped_bytes

    row = report.row(model.name)
    reference = report.against(row)
    faster = speed_up(row, reference)
    assert faster is not None, model.name  # every row of this report was timed
    size = shipped_bytes(local(model.folder)) + len(report.json_text(model.folder).encode())
    return Finalist(model, faster, 100 * (reference.score - row.score), 0.0, size / 1e6)


def drop_of(metric: str, before: Any, after: Any, labels: Any) -> dict[str, Any]:
    """The score of some predictions with its 95 % interval, and how many points it is below that of others, with about
    one standard error: half of what the paired 95 % interval reaches beyond it."""
    from bertjax.metrics.scores import score
    from bertjax.metrics.uncertainty import paired_difference_interval, score_interval

    low, high = score_interval(metric, after, labels)
    drop = score(metric, before, labels) - score(metric, after, labels)
    most = paired_difference_interval(metric, before, after, labels)[1]
    return {
        "score": float(score(metric, after, labels)),
        "interval": [float(low), float(high)],
        "drop": float(100 * drop),
        "error": float(50 * (most - drop)),
    }
