"""The report of `tests.benchmarks.lists`: a model that halts and models with fixed steps, on unseen lists."""

from pathlib import Path
from typing import Any

from bertjax.report.number_text import points, points_with_interval
from bertjax.report.table import Table, cells_of

HELD_OUT = 2**62
"""Number of the first test list; training never gets that far."""


def measured(config: Any, halting: Any, fixed: dict[int, Any]) -> dict[str, Any]:
    """Everything that the report says, from lists that no training saw."""
    import math

    import numpy as np

    from bertjax.engine.fields import to_dict
    from bertjax.engine.record import device, versions
    from tests.benchmarks.halting import cell_predictions, rank_correlation, time_early_stopping
    from tests.benchmarks.lists_data import as_batch, rows

    numbers = HELD_OUT + np.arange(config.test)
    parts = np.array_split(numbers, math.ceil(config.test / 250))
    batches = [as_batch(config.lists, config.seed, part) for part in parts]
    lists = rows(config.lists, config.seed, numbers)
    found = cell_predictions(halting.model, halting.params, batches)
    steps = float(found.steps.mean())
    equal = min((d for d in fixed if d >= steps), default=None)
    times = time_early_stopping(
        halting.model,
        halting.params,
        {depth: (bundle.model, bundle.params) for depth, bundle in fixed.items()},
        lists.input_ids[: config.timed],
        lists.attention_mask[: config.timed],
    )
    correlation, p_value = rank_correlation(found.steps, lists.difficulty)
    by_length, p_by_length = rank_correlation(found.steps, lists.attention_mask.sum(1))
    return {
        **accuracy(found),
        "steps": steps,
        "correlation": correlation,
        "p_value": p_value,
        "correlation_with_length": by_length,
        "p_value_with_length": p_by_length,
        "by_difficulty": [
            {"difficulty": int(d), **of_rows(found, lists.difficulty == d)} for d in np.unique(lists.difficulty)
        ],
        "equal_steps": equal,
        "fixed": [
            {"depth": d, **against(found, cell_predictions(b.model, b.params, batches)), "ms": times.fixed[d]}
            for d, b in fixed.items()
        ],
        "time": {
            "early_ms": times.early,
            "full_ms": times.full,
            "steps": times.steps,
            "most": times.most,
            "share_realised": None if math.isnan(times.share_realised) else times.share_realised,
        },
        "config": to_dict(config),
        "versions": versions(),
        "device": device(),
    }


def accuracy(found: Any) -> dict[str, Any]:
    """Of positions and of whole lists, the latter with its interval."""
    import numpy as np

    from bertjax.metrics.uncertainty import score_interval

    low, high = score_interval("accuracy", found.rows.astype(int), np.ones(len(found.rows), int))
    return {"positions": found.positions, "lists": float(found.rows.mean()), "lists_ci95": [low, high]}


def of_rows(found: Any, chosen: Any) -> dict[str, Any]:
    return {
        "count": int(chosen.sum()),
        "lists": float(found.rows[chosen].mean()),
        "steps": float(found.steps[chosen].mean()),
    }


def against(found: Any, fixed: Any) -> dict[str, Any]:
    """A model of fixed depth, and what the one that halts gains over it on the same lists."""
    import numpy as np

    from bertjax.metrics.uncertainty import paired_difference_interval, paired_p_value

    mine, theirs, gold = found.rows.astype(int), fixed.rows.astype(int), np.ones(len(found.rows), int)
    return {
        **accuracy(fixed),
        "gain": float(mine.mean() - theirs.mean()),
        "gain_ci95": list(paired_difference_interval("accuracy", mine, theirs, gold)),
        "p_value": paired_p_value("accuracy", mine, theirs, gold),
    }


def write(report: dict[str, Any], out: Path) -> None:
    """report.json, and report.md for people."""
    import json

    (out / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown(report), encoding="utf-8")


def markdown(report: dict[str, Any]) -> str:
    time, equal = report["time"], report["equal_steps"]
    saved_steps, saved_time = 1 - time["steps"] / time["most"], 1 - time["early_ms"] / time["full_ms"]
    by_difficulty = {
        "longest chain": lambda row: str(row["difficulty"]),
        "lists": lambda row: str(row["count"]),
        "right %": lambda row: points(row["lists"]),
        "steps": lambda row: f"{row['steps']:.2f}",
    }
    at_fixed = {
        "steps": lambda row: f"**{row['depth']}**" if row["depth"] == equal else str(row["depth"]),
        "right %": lambda row: points(row["lists"]),
        "cells %": lambda row: f"{100 * row['positions']:.2f}",
        "gain of halting": lambda row: points_with_interval(row["gain"], row["gain_ci95"], "+"),
        "paired test": lambda row: p_text(row["p_value"]),
        "ms": lambda row: f"{row['ms']:.3f}",
    }
    parts = [
        "# Halting on lists with references",
        f"{points_with_interval(report['lists'], report['lists_ci95'])} % of the lists and "
        f"{100 * report['positions']:.2f} % of their cells are right, in {report['steps']:.2f} steps on average, "
        f"of {time['most']} at most.",
        f"Steps follow difficulty with a rank correlation of {report['correlation']:.3f} "
        f"({p_text(report['p_value'])}), and length with {report['correlation_with_length']:.3f} "
        f"({p_text(report['p_value_with_length'])}).",
        Table(*cells_of(report["by_difficulty"], by_difficulty)).markdown(),
        "The same block with fixed numbers of steps, trained alike, and what halting gains over it on the same lists "
        "(95 %):",
        Table(*cells_of(report["fixed"], at_fixed)).markdown(),
        f"One list at a time takes {time['early_ms']:.3f} ms, and {time['full_ms']:.3f} ms when the same program is "
        f"kept from stopping: {100 * saved_time:.1f} % less time for {100 * saved_steps:.1f} % fewer steps.",
    ]
    if time["share_realised"] is not None:
        parts[-1] += f" That is {100 * time['share_realised']:.1f} % of the saving in steps."
    if equal is not None:
        parts.append("Bold: an equal number of steps, the average rounded up to a number that was trained.")
    return "\n\n".join(parts) + "\n"


def p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-300 else "p < 1e-300"
