"""A model that halts by itself and models of fixed depth, trained on the same lists."""

from pathlib import Path
from typing import Any

from bertjax.model.config import BertConfig
from bertjax.recipes.lists import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, finish
    from bertjax.jobs.halting_report import measured, write
    from bertjax.model.attention import require_backend

    out = as_path(config.out)
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

    on_main_process(prove)


def trained(config: Config, shape: BertConfig, out: Path, label: str) -> Any:
    """The finished model in a folder, after the training that is still missing."""
    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, process_shard
    from bertjax.engine.loop import fit
    from bertjax.engine.record import keep
    from bertjax.learn.losses import ponder_cost, tokens
    from bertjax.learn.step import Term
    from bertjax.model import build, init_params
    from bertjax.text.lists import list_batches

    if broadcast_from_main((out / "bundle" / "config.json").is_file):
        return bertjax.load(out / "bundle")
    model, halts = build(shape), shape.recurrence is not None and shape.recurrence.halting is not None

    def objective(params, extra, state, batch, step, key):
        output: Any = model.apply({"params": params}, batch["input_ids"], batch["attention_mask"])
        terms = {"task": Term(*tokens(output.logits, batch))}
        if halts:
            terms["ponder"] = Term(*ponder_cost(output.trace, batch), config.ponder)
        return terms, state

    batches = list_batches(config.lists, config.batch_size, seed=config.seed, **process_shard())
    first = init_params(shape, config.seed)
    params = fit(config, out, label, params=first, extra={}, objective=objective, batches=batches).params
    keep(bertjax.Bundle(shape, params), out / "bundle")
    return bertjax.load(out / "bundle")
