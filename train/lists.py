"""Does a model that halts by itself think longer about harder inputs? Lists are copied whose cells refer to others.

    bertjax lists --config=lists --out=runs/lists

Trains a Universal Transformer with Adaptive Computation Time, and the same block at fixed depths for comparison, on
lists that are made on the fly. OUT/report.md says how steps follow difficulty, how accuracy compares at equal steps,
and how much of the saving in steps is a saving in time. The model that halts is OUT/bundle.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.model.config import BertConfig, Halting, Recurrence
from bertjax.paths import at
from bertjax.text.lists import DIGITS, Lists

from .loop import Training
from .optimiser import Optimiser


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
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 8)
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
            attention=self.attention,
        )

    def halting(self) -> Halting:
        return Halting("accumulated", remainder_at_end=True, bias=self.bias, scope="example")


def main(config: Config) -> None:
    from bertjax.model.attention import require_backend

    from .halting import measured, write
    from .log import note
    from .processes import alone
    from .run import begin, finish

    out = at(config.out)
    if begin(out, config):
        return
    require_backend(config.attention)
    halting = trained(config, config.model(config.rounds, config.halting()), out, "learning to halt")
    fixed = {d: trained(config, config.model(d, None), out / f"depth-{d}", f"depth {d}") for d in config.depths}

    def prove() -> None:
        note("testing and timing")
        report = measured(config, halting, fixed)
        write(report, out)
        print((out / "report.md").read_text(encoding="utf-8"))
        finish(out, {"accuracy": report["lists"], "steps": report["steps"], "correlation": report["correlation"]})

    alone(prove)


def trained(config: Config, shape: BertConfig, out: Path, label: str) -> Any:
    """The finished model in a folder, after the training that is still missing."""
    import bertjax
    from bertjax.losses import ponder_cost, tokens
    from bertjax.model import build, init_params
    from bertjax.text.lists import list_batches

    from .loop import fit
    from .processes import agree, share
    from .run import keep
    from .step import Term

    if agree((out / "bundle" / "config.json").is_file):
        return bertjax.load(out / "bundle")
    model, halts = build(shape), shape.recurrence is not None and shape.recurrence.halting is not None

    def objective(params, extra, state, batch, step, key):
        output: Any = model.apply({"params": params}, batch["input_ids"], batch["attention_mask"])
        terms = {"task": Term(*tokens(output.logits, batch))}
        if halts:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), config.ponder)
        return terms, state

    batches = list_batches(config.lists, config.batch_size, seed=config.seed, **share())
    first = init_params(shape, config.seed)
    params = fit(config, out, label, params=first, extra={}, objective=objective, batches=batches).params
    keep(bertjax.Bundle(shape, params), out / "bundle")
    return bertjax.load(out / "bundle")


if __name__ == "__main__":
    from .settings import run

    run("lists")
