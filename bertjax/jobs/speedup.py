"""Pruning until a model is so many times as fast: by timing candidates, or by a table of the times of parts.

A table says for each layer what its heads and neurons cost, in the runtime that will serve the model, so the search
times no model. Without one, candidates are timed, and differences below the noise of the machine are not seen.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.removal import Batches, part_multiple, remove_parts, task_loss
from bertjax.recipes.prune import Config
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.prune.costs import LatencyTable
    from bertjax.prune.scores import Part
    from bertjax.text.examples import Examples

PRUNED: tuple[Any, ...] = ("heads", "neurons")


def remove_fraction(config: Config, model: Bundle, whole: Bundle, examples: Examples, batches: Batches) -> Bundle:
    """The model without the smallest fraction of heads and neurons whose removal makes it `config.speedup` times as
    fast as `whole`, by the recipe's table or by measuring. The fraction and the measured speed-up are recorded."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.prune.costs import model_cost
    from bertjax.prune.scores import OWNER
    from bertjax.prune.select import search_speedup
    from bertjax.prune.surgery import group_sizes

    assert config.speedup is not None
    counts: dict[Any, Any] = {part: group_sizes(model.config, owner).values() for part, owner in OWNER.items()}
    most: dict[Part, float] = {
        part: 1 - sum(size > 0 for size in count) / sum(count) for part, count in counts.items() if sum(count)
    }
    table = latency_table(config, whole, examples) if config.table else None

    def without(fraction: float) -> Bundle:
        smaller = model
        for part in most:
            smaller = remove_parts(config, smaller, batches, part, min(fraction, most[part]))
        return smaller

    def reached(fraction: float) -> float:
        smaller = without(fraction)
        if table:
            found = model_cost(table, whole.config) / model_cost(table, smaller.config)
        else:
            found = measure_speedup(whole, smaller, examples, config)
        note(f"without {fraction:.0%} of heads and neurons: {found:.2f} times as fast")
        return found

    fraction, speedup = search_speedup(reached, config.speedup)
    smaller, record = without(fraction), {"asked": config.speedup, "reached": speedup}
    if table:
        record |= {"predicted": speedup, "reached": measure_speedup(whole, smaller, examples, config)}
    update_record(as_path(config.out), removed=fraction, speedup=record)
    predicted = f", {speedup:.2f} predicted from the table" if table else ""
    note(
        f"{fraction:.0%} of heads and neurons are removed: {record['reached']:.2f} times as fast "
        f"({config.speedup:g} was asked{predicted})"
    )
    return smaller


def remove_by_latency(config: Config, model: Bundle, whole: Bundle, examples: Examples, batches: Batches) -> Bundle:
    """The model with the numbers of heads and neurons that the criterion chooses for each layer, so that `whole`, the
    model before any removal, takes `config.speedup` times as long. The speed-up that the table of latencies predicts
    and the one that is measured are recorded."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.prune.costs import model_cost

    assert config.speedup is not None
    table = latency_table(config, whole, examples)
    before = model_cost(table, whole.config)
    least = table.base + sum(table.cost(part, 0) for part in PRUNED) * model.config.depth
    if before / least < config.speedup:
        raise UserError(
            f"a model {config.speedup:g} times as fast was requested; with all heads and neurons removed it is "
            f"{before / least:.2f} times as fast. Remove layers as well, or request a smaller speedup."
        )
    note("the sizes of layers are searched: each candidate is a pass over the calibration examples")
    multiples: dict[Part, int] = {part: part_multiple(config, model.config, part) for part in PRUNED}
    budget = before / config.speedup - table.base
    described, params = config.scores_by.remove_within(model, batches, task_loss(model), table, budget, multiples)
    model = dataclasses.replace(model, config=described, params=params)
    predicted, reached = before / model_cost(table, described), measure_speedup(whole, model, examples, config)
    update_record(as_path(config.out), speedup={"asked": config.speedup, "predicted": predicted, "reached": reached})
    note(f"{reached:.2f} times as fast ({config.speedup:g} was asked, {predicted:.2f} predicted from the latencies)")
    return model


def latency_table(config: Config, model: Bundle, examples: Examples) -> LatencyTable:
    """The table that the recipe names, or one that is measured in JAX on this machine and kept in the run's folder."""
    from bertjax.jobs.latency import measure_table
    from bertjax.prune.costs import read_table

    path = config.table or str(as_path(config.out) / "latency.json")
    if not config.table and not as_path(path).is_file():
        measure_table(model, examples, config.data.max_length, "jax", None).save(path)
    table = read_table(path)
    table.check_model(model.config, path)
    return table


def measure_speedup(whole: Bundle, smaller: Bundle, examples: Examples, config: Config) -> float:
    """How many times as fast the smaller model is as the whole one: the ratio of their median times at batch 1, each
    measured in a process of its own, in alternating repeats; in the runtime of the recipe's table, or in JAX."""
    from bertjax.jobs.latency import time_models
    from bertjax.prune.costs import read_table

    table = read_table(config.table) if config.table else None
    runtime, threads = (table.runtime, table.threads) if table else ("jax", None)
    models = iter([("whole", whole), ("smaller", smaller)])
    # More and shorter repeats than in a report, so that a short load on the machine disturbs fewer of them.
    timings = time_models(
        models, runtime, examples, max_length=config.data.max_length, threads=threads, sample=64, repeats=7
    )
    return timings["whole"].latency.batch_1.p50 / timings["smaller"].latency.batch_1.p50
