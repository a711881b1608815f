"""From a model that halts and models of fixed depth to the report of `train.lists`, on lists that no training saw."""

from pathlib import Path
from typing import Any

HELD_OUT = 2**62
"""Number of the first list that is tested on; training never comes so far."""


def measured(config: Any, halting: Any, fixed: dict[int, Any]) -> dict[str, Any]:
    """Everything that the report says, from lists that no training saw."""
    import math

    import numpy as np

    from bertjax.engine.fields import to_dict
    from bertjax.engine.record import device, versions
    from bertjax.measure.halting import answers, rank_correlation, time_early_stopping
    from bertjax.text.lists import as_batch, rows

    numbers = HELD_OUT + np.arange(config.test)
    parts = np.array_split(numbers, math.ceil(config.test / 250))
    batches = [as_batch(config.lists, config.seed, part) for part in parts]
    lists = rows(config.lists, config.seed, numbers)
    found = answers(halting.model, halting.params, batches)
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
            {"depth": d, **against(found, answers(b.model, b.params, batches)), "ms": times.fixed[d]}
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
    time = report["time"]
    saved_steps, saved_time = 1 - time["steps"] / time["most"], 1 - time["early_ms"] / time["full_ms"]
    low, high = report["lists_ci95"]
    lines = [
        "# Halting on lists with references",
        "",
        f"{100 * report['lists']:.1f} % of the lists [{100 * low:.1f}, {100 * high:.1f}] and "
        f"{100 * report['positions']:.2f} % of their cells are right, in {report['steps']:.2f} rounds on average, "
        f"of {time['most']} at most.",
        "",
        f"Rounds follow difficulty with a rank correlation of {report['correlation']:.3f} "
        f"({p_text(report['p_value'])}), and length with {report['correlation_with_length']:.3f} "
        f"({p_text(report['p_value_with_length'])}).",
        "",
        "| longest chain | lists | right % | rounds |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {row['difficulty']} | {row['count']} | {100 * row['lists']:.1f} | {row['steps']:.2f} |"
            for row in report["by_difficulty"]
        ),
        "",
        "The same block at fixed depths, trained alike, and what halting gains over it on the same lists (95 %):",
        "",
        "| rounds | right % | cells % | gain of halting | paired test | ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(fixed_row(row, report["equal_steps"]) for row in report["fixed"]),
        "",
        f"One list at a time takes {time['early_ms']:.3f} ms, and {time['full_ms']:.3f} ms where the same program is "
        f"kept from stopping: {100 * saved_time:.1f} % less time for {100 * saved_steps:.1f} % fewer rounds.",
    ]
    if time["share_realised"] is not None:
        lines.append(f"That is {100 * time['share_realised']:.1f} % of what the rounds promise.")
    if report["equal_steps"] is not None:
        lines += ["", "Bold: equal rounds, the mean rounded up to a depth that was trained."]
    return "\n".join([*lines, ""])


def fixed_row(row: dict[str, Any], equal: int | None) -> str:
    depth, (low, high) = row["depth"], row["gain_ci95"]
    return (
        f"| {f'**{depth}**' if depth == equal else depth} | {100 * row['lists']:.1f} | {100 * row['positions']:.2f} | "
        f"{100 * row['gain']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {p_text(row['p_value'])} | {row['ms']:.3f} |"
    )


def p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-300 else "p < 1e-300"
