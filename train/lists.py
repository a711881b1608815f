"""Does a model that halts by itself think longer about harder inputs? Lists are copied whose cells refer to others.

    python -m train.lists --config=lists --out=runs/lists

Trains a Universal Transformer with Adaptive Computation Time, and the same block at fixed depths for comparison, on
lists that are made on the fly. OUT/report.md says how steps follow difficulty, how accuracy compares at equal steps,
and how much of the saving in steps is a saving in time. The model that halts is OUT/bundle.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.model.config import BertConfig, Halting, Recurrence
from bertjax.text.lists import DIGITS, Lists

from .loop import Training
from .optimiser import Optimiser

HELD_OUT = 2**62
"""Number of the first list that is tested on; training never comes so far."""


@dataclass(frozen=True)
class Config(Training):
    """Copying lists, with halting and at fixed depths."""

    steps: int | None = 1000
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(learning_rate=1e-3))
    lists: Lists = field(default_factory=Lists)
    hidden_size: int = 128
    intermediate_size: int = 512
    num_attention_heads: int = 4
    rounds: int = 8
    """How often the block is applied at most."""
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    """Fixed numbers of rounds to compare with; one model is trained for each."""
    ponder: float = 0.01
    """Price of a round."""
    bias: float = -2.0
    """Of the halting probability at the start: with -2, which is 0.12, no list halts before the eighth round."""
    test: int = 2000
    """Lists to test on."""
    timed: int = 64
    """How many of them are timed."""
    out: str = "runs/lists"
    """Folder for the models, their metrics and checkpoints, and the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("test", "timed"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected at least 1 list")
        for depth in (self.rounds, *self.depths):
            self.model(depth, None)  # its own checks, while the command line can still be named

    def model(self, rounds: int, halting: Halting | None) -> BertConfig:
        """The block with so many rounds. A list halts as a whole, or at batch 1 one slow cell would hold up all."""
        return BertConfig(
            architecture="BertForTokenClassification",
            vocab_size=self.lists.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=1,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            hidden_act="relu",
            max_position_embeddings=self.lists.longest,
            type_vocab_size=0,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            labels=DIGITS,
            recurrence=Recurrence(rounds, "learned", "none", halting=halting),
            norm="pre",
            dtype=self.dtype,
            remat=self.remat,
        )

    def halting(self) -> Halting:
        return Halting("accumulated", remainder_at_end=True, bias=self.bias, scope="example")


def main(config: Config) -> None:
    from .log import note
    from .run import begin, finish

    out = Path(config.out)
    if begin(out, config):
        return
    halting = trained(config, config.model(config.rounds, config.halting()), out, "learning to halt")
    fixed = {d: trained(config, config.model(d, None), out / f"depth-{d}", f"depth {d}") for d in config.depths}
    note("testing and timing")
    report = measured(config, halting, fixed)
    write(report, out)
    print((out / "report.md").read_text(encoding="utf-8"))
    finish(out, {"accuracy": report["lists"], "steps": report["steps"], "correlation": report["correlation"]})


def trained(config: Config, shape: BertConfig, out: Path, label: str) -> Any:
    """The finished model in a folder, after the training that is still missing."""
    import bertjax
    from bertjax.losses import ponder_cost, tokens
    from bertjax.model import build, init_params
    from bertjax.text.lists import list_batches

    from .loop import fit
    from .run import share
    from .step import Term

    if (out / "bundle").is_dir():
        return bertjax.load(out / "bundle")
    model = build(shape)

    def objective(params, extra, state, batch, step, key):
        output: Any = model.apply({"params": params}, batch["input_ids"], batch["attention_mask"])
        terms = {"task": Term(*tokens(output.logits, batch))}
        if shape.recurrence.halting is not None:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), config.ponder)
        return terms, state

    batches = list_batches(config.lists, config.batch_size, seed=config.seed, **share())
    first = init_params(shape, config.seed)
    params = fit(config, out, label, params=first, extra={}, objective=objective, batches=batches)
    bertjax.save(bertjax.Bundle(shape, params), out / "bundle")
    return bertjax.load(out / "bundle")


def measured(config: Config, halting: Any, fixed: dict[int, Any]) -> dict[str, Any]:
    """Everything that the report says, from lists that no training saw."""
    import math

    import numpy as np

    from bertjax.measure.halting import answers, rank_correlation, time_early_stopping
    from bertjax.text.lists import as_batch, rows

    from .fields import to_dict
    from .run import device, versions

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

    from bertjax.measure import bootstrap_interval

    low, high = bootstrap_interval("accuracy", found.rows.astype(int), np.ones(len(found.rows), int))
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

    from bertjax.measure import paired_difference_interval, paired_p_value

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
    time, saved = report["time"], 1 - report["time"]["steps"] / report["time"]["most"]
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
        "The same block at fixed depths, as many updates each, and what halting gains over it on the same lists (95 %):",
        "",
        "| rounds | right % | cells % | gain of halting | p | ms |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(fixed_row(row, report["equal_steps"]) for row in report["fixed"]),
        "",
        f"One list at a time takes {time['early_ms']:.3f} ms, and {time['full_ms']:.3f} ms where the same program is kept "
        f"from stopping: {100 * (1 - time['early_ms'] / time['full_ms']):.1f} % less time for {100 * saved:.1f} % fewer "
        f"rounds ({time['steps']:.2f} on the lists timed).",
        "",
    ]
    if report["equal_steps"] is not None:
        lines[-1:] = ["Bold: equal rounds, the mean rounded up to a depth that was trained.", ""]
    if time["share_realised"] is not None:
        lines[-1:] = [f"Share of the promised saving that is realised: {100 * time['share_realised']:.1f} %.", ""]
    return "\n".join(lines)


def fixed_row(row: dict[str, Any], equal: int | None) -> str:
    depth, (low, high) = row["depth"], row["gain_ci95"]
    return (
        f"| {f'**{depth}**' if depth == equal else depth} | {100 * row['lists']:.1f} | {100 * row['positions']:.2f} | "
        f"{100 * row['gain']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {row['p_value']:.2g} | {row['ms']:.3f} |"
    )


def p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-300 else "p < 1e-300"


if __name__ == "__main__":
    from .settings import run

    run("lists")
