"""Does a Universal Transformer that halts by itself take more steps for harder inputs?

    python -m tests.benchmarks.lists --out=runs/lists

A Universal Transformer with Adaptive Computation Time copies lists whose cells refer to other cells
(tests/benchmarks/lists_data.py); the same block is trained with fixed numbers of recurrence steps for comparison.
OUT/report.md says how steps follow difficulty, how accuracy compares at an equal number of steps, and how much of the
saving in steps is a saving in time. The model that halts is OUT/bundle.

Plain sums were too easy: two numbers of 8 to 12 digits, given as pairs of digits, were added without a mistake in 1,000
lists by two recurrence steps (width 64), however far a carry came (up to 8 digits).

The defaults gave, on 2,000 lists that no training saw, one seed, 5 minutes on two CPU cores (difficulty, the references
in the longest chain, was fixed beforehand):

    docs/results/lists.json
    longest chain     1     2     3     4     5     6     7     8   all
    right %         100   100   100   100   100   100   100   100   100
    steps          3.05  3.93  4.66  5.34  6.03  6.70  7.09  7.34  5.50

Steps follow difficulty with a rank correlation of 0.898 (p < 1e-300) and length with -0.059. The same block with fixed
steps got 73.2 (2 steps) and 100 (3 and 6). At an equal number of steps, 6, halting is no worse (difference 0.0,
interval 0.0 to 0.1), but 3 fixed steps are as good with fewer: references can be followed by doubling, so three steps
reach through a chain of eight, and a block that halts takes more than it needs.

Time at batch 1, 35.0 % fewer steps: nine measurements gave 83 to 99 % of the saving in steps as a saving in time, 92 in
the median.

The ponder weight matters: at 0.02 all lists are still right, but nearly all of them stop at the third step (3.02 on
average, correlation 0.159). A block of half the width at 0.01 (--hidden_size=128 --intermediate_size=512 --steps=1000)
took 3.00 to 4.06 steps, correlation 0.817, and gave 57 and 71 % of the saving as time on idle cores: one step of it
takes 0.1 ms, and a call as much as several steps.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertjax.engine.command_line import run
from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.model.depth import Halting, Recurrence
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path
from tests.benchmarks.lists_data import DIGITS, Lists


@dataclass(frozen=True)
class Config(Training):
    """Copying lists, with halting and with fixed numbers of recurrence steps."""

    steps: int | None = 500
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(learning_rate=1e-3))
    batch_size: int = 32
    lists: Lists = field(default_factory=Lists)
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_attention_heads: int = 4
    recurrence_steps: int = 8
    """The most steps that the halting model can take."""
    depths: tuple[int, ...] = (2, 3, 6)
    """Fixed numbers of steps to compare with; one model is trained for each."""
    ponder: float = 0.005
    """Weight of the ponder cost, a price for each step."""
    bias: float = -2.0
    """Initial bias of the halting probability: at -2, which is 0.12, no list halts before the eighth step."""
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
        for depth in (self.recurrence_steps, *self.depths):
            self.model(depth, None)  # its own checks, while the command line can still be named

    def model(self, steps: int, halting: Halting | None) -> BertConfig:
        """The block with this many steps. A list halts as a whole: by cell, one slow cell would hold up all others."""
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
            recurrence=Recurrence(steps, "learned", "none", halting=halting),
            norm="pre",
            dtype=self.dtype,
            remat=self.remat,
            attention=self.attention,
        )

    def halting(self) -> Halting:
        return Halting("accumulated", remainder_at_end=True, bias=self.bias, scope="example")


def main(config: Config) -> None:
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, finish
    from bertjax.model.attention import require_backend
    from tests.benchmarks.lists_report import measured, write

    out = as_path(config.out)
    if begin(out, config):
        return
    require_backend(config.attention)
    halting = trained(config, config.model(config.recurrence_steps, config.halting()), out, "learning to halt")
    fixed = {d: trained(config, config.model(d, None), out / f"depth-{d}", f"depth {d}") for d in config.depths}

    def report() -> None:
        note("testing and timing")
        found = measured(config, halting, fixed)
        write(found, out)
        print((out / "report.md").read_text(encoding="utf-8"))
        finish(out, {"accuracy": found["lists"], "steps": found["steps"], "correlation": found["correlation"]})

    on_main_process(report)


def trained(config: Config, shape: BertConfig, out: Path, label: str) -> Any:
    """The finished model in a folder, after the training that is still missing."""
    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, process_shard
    from bertjax.engine.loop import fit
    from bertjax.engine.record import keep
    from bertjax.learn.assemble import Learning
    from bertjax.learn.losses import ponder_cost, tokens
    from bertjax.learn.step import Objective, Term
    from bertjax.model import build, init_params
    from tests.benchmarks.lists_data import list_batches

    if broadcast_from_main((out / "bundle" / "config.json").is_file):
        return bertjax.load(out / "bundle")
    model, halts = build(shape), shape.recurrence is not None and shape.recurrence.halting is not None

    def terms_of(params, extra, state, batch, update, key):
        output: Any = model.apply({"params": params}, batch["input_ids"], batch["attention_mask"])
        terms = {"task": Term(*tokens(output.logits, batch))}
        if halts:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), config.ponder)
        return terms, {}

    batches = list_batches(config.lists, config.batch_size, seed=config.seed, **process_shard())
    learning = Learning(Objective(terms_of), init_params(shape, config.seed))
    params = fit(config, out, label, learning, batches).params
    keep(bertjax.Bundle(shape, params), out / "bundle")
    return bertjax.load(out / "bundle")


if __name__ == "__main__":
    run(main, __doc__)
