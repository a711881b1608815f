"""Structured and unstructured pruning, followed by fine-tuning or distillation.

Layers are removed first, then heads, then neurons, so that scores are computed only for what remains. Weights are set
to zero last, at once or gradually during the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.jobs.data import (
    Split,
    Text,
    evenly_spaced,
    open_model,
    tokenizer_of,
    without_threshold,
)
from bertjax.jobs.distill import labels_only
from bertjax.jobs.distill import prepare as prepare_distillation
from bertjax.jobs.training import result_of, train_unscored
from bertjax.prune.transforms import KERNELS, GradualMagnitude
from bertjax.recipes.distill import Config as Distillation
from bertjax.recipes.prune import Config, Prune
from bertjax.recipes.stage import Context, Control, StageResult
from bertjax.storage.paths import as_path
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.transform import Transform
    from bertjax.model import BertConfig
    from bertjax.prune.allocate import CostTable
    from bertjax.prune.scores import Part
    from bertjax.text.examples import Examples
    from bertjax.text.tasks import Task

Batches = list[Any]
PRUNED: tuple[Part, ...] = ("heads", "neurons")


def prune(config: Config, text: Text) -> tuple[Bundle, Split | None]:
    """Prunes, trains if configured, and saves the model as `config.out/bundle`; `config.out/cut` holds the pruned model
    before training. Returns the model, and the evaluation examples if it has a trained head."""
    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, on_main_process
    from bertjax.engine.log import note
    from bertjax.engine.record import read_record, update_record

    out = as_path(config.out)
    model, task = open_unpruned(config, text)
    held_out = text.held_out(task, tokenizer_of(model))
    if text.verbose:
        text.describe(text.training(task, tokenizer_of(model), labelled=False), held_out)
    if headless := bool(model.newly_initialized):
        model = bertjax.load(config.model)  # without the new head; training adds one

    def prune_once() -> None:  # on one process only: measured times differ between processes
        smaller = prune_model(config, without_threshold(model, config.model), task, text)
        note(f"left of {config.model}: {shapes(smaller.config)}")
        bertjax.save(smaller, out / "cut")

    if not broadcast_from_main((out / "cut" / "config.json").is_file):
        on_main_process(prune_once)
    source = out / "cut"
    if config.finetune_after:
        train_pruned(config, text._replace(verbose=False))
        source = out / "recovery" / "bundle"
        update_record(out, training_step_bytes=(read_record(out / "recovery") or {}).get("training_step_bytes"))
    on_main_process(partial(ship, source, out / "bundle"))
    return bertjax.load(out / "bundle"), None if headless else held_out


def open_unpruned(config: Config, text: Text) -> tuple[Bundle, Task]:
    """The model to prune, with a head for the task."""
    model, task = open_model(config.model, text.task(), config.seed, dtype=config.dtype)
    scored = any((config.layers, config.heads, config.neurons)) and config.scores_by.reads_text
    if model.newly_initialized and (scored or config.finetune_after or config.speedup):
        raise UserError(
            f"{config.model} has no trained head; fine-tune it first (bertjax finetune). Before that, it can only be "
            "pruned with --criterion=magnitude --finetune_after=False."
        )
    if not any((config.layers, config.keep_layers, config.heads, config.neurons, config.speedup, config.zeros)):
        raise UserError(
            "nothing is to be pruned: give --layers, --keep_layers, --heads, --neurons, --speedup or --weights, as "
            "--heads=0.5"
        )
    return model, task


def train_pruned(config: Config, text: Text) -> None:
    """Trains the pruned model with the unpruned one as its teacher, in `config.out/recovery`."""
    names = {one.name for one in dataclasses.fields(Distillation)}
    recipe = {name: value for name, value in vars(config).items() if name in names}
    recipe |= {
        "model": config.teacher or config.model,
        "student": Student(init_from=str(as_path(config.out) / "cut"), as_is=True),
        "keep_zeros": KERNELS if config.zeros and not config.pruning_end else None,
        "out": str(as_path(config.out) / "recovery"),
    }
    transforms: tuple[Transform, ...] = ()
    if config.pruning_end:
        scope: Any = 4 if config.pattern == "2:4" else config.pattern
        transforms = (GradualMagnitude(KERNELS, config.zeros, config.pruning_end, scope),)
    train_unscored(Distillation(**recipe), text, partial(prepare_distillation, transforms=transforms))


def ship(source: Any, target: Any) -> None:
    """Copies a model folder to its final place."""
    import shutil

    from bertjax.storage.paths import atomic_folder, local

    with atomic_folder(target) as folder:
        shutil.copytree(local(source), folder, dirs_exist_ok=True)


def shapes(config: BertConfig) -> str:
    """The remaining heads and neurons of each layer."""
    steps = config.depth_steps()
    return ", ".join(f"{step.num_attention_heads} heads and {step.intermediate_size} neurons" for step in steps)


def prune_model(config: Config, model: Bundle, task: Task, text: Text) -> Bundle:
    """The model without its least important layers, then heads, then neurons, then weights."""
    reads_text, whole = config.scores_by.reads_text, model.config
    removes = config.layers or config.heads or config.neurons or config.speedup
    batches = scoring_batches(config, model, task, text) if reads_text and removes else []
    if config.layers or config.keep_layers:
        model = remove_layers(config, model, batches)
    fractions: dict[Part, float] = {"heads": config.heads, "neurons": config.neurons}
    if config.speedup and config.scores_by.reads_latency:
        model = remove_by_latency(config, model, whole, text.training_examples(task), batches)
    elif config.speedup:
        fractions = fractions_for_speedup(config, model, text.training_examples(task), batches)
    for part, fraction in fractions.items():
        if fraction:
            model = remove_parts(config, model, batches, part, fraction)
    return zero_weights(config, model) if config.zeros and not config.pruning_end else model


def scoring_batches(config: Config, model: Bundle, task: Task, text: Text) -> Batches:
    """Training examples for importance scores, in batches of one length."""
    train = text.training(task, tokenizer_of(model), labelled=config.scores_by.reads_labels)
    return evenly_spaced(train.encoded, config.calibration_examples, one_length=True)


def fractions_for_speedup(config: Config, model: Bundle, examples: Examples, batches: Batches) -> dict[Part, float]:
    """The smallest fraction of heads and neurons whose removal reaches `config.speedup`. The fraction and the measured
    speed-up are recorded."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.prune.scores import OWNER
    from bertjax.prune.select import search_speedup
    from bertjax.prune.surgery import group_sizes

    assert config.speedup is not None
    counts: dict[Any, Any] = {part: group_sizes(model.config, owner).values() for part, owner in OWNER.items()}
    most: dict[Part, float] = {part: 1 - len(count) / sum(count) for part, count in counts.items()}

    def reached(fraction: float) -> float:
        smaller = model
        for part in most:
            smaller = remove_parts(config, smaller, batches, part, min(fraction, most[part]))
        measured = speedup_of(config, smaller, examples)
        note(f"without {fraction:.0%} of heads and neurons: {measured:.2f} times as fast")
        return measured

    fraction, speedup = search_speedup(reached, config.speedup)
    update_record(as_path(config.out), removed=fraction, speedup={"asked": config.speedup, "reached": speedup})
    note(f"{fraction:.0%} of heads and neurons are removed: {speedup:.2f} times as fast ({config.speedup:g} was asked)")
    return {part: min(fraction, limit) for part, limit in most.items()}


def remove_by_latency(config: Config, model: Bundle, whole: BertConfig, examples: Examples, batches: Batches) -> Bundle:
    """The model with the numbers of heads and neurons that the criterion chooses for each layer, so that `whole`, the
    config of the model before any removal, takes `config.speedup` times as long. The speed-up that the table of
    latencies predicts and the one that is measured are recorded."""
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.prune.allocate import total_cost

    assert config.speedup is not None
    table = latency_table(config, model, examples)
    before = total_cost(whole, table)
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
    predicted, reached = before / total_cost(described, table), speedup_of(config, model, examples)
    update_record(as_path(config.out), speedup={"asked": config.speedup, "predicted": predicted, "reached": reached})
    note(f"{reached:.2f} times as fast ({config.speedup:g} was asked, {predicted:.2f} predicted from the latencies)")
    return model


def latency_table(config: Config, model: Bundle, examples: Examples) -> CostTable:
    """The milliseconds of one attention layer by its number of heads, of one feed-forward layer by its number of
    neurons, and of everything else, measured on this machine at batch 1."""
    raise UserError(
        f"--speedup={config.speedup} --criterion={config.criterion}: there is no table of latencies yet; give --heads "
        "and --neurons in place of --speedup."
    )


def speedup_of(config: Config, smaller: Bundle, examples: Examples) -> float:
    """How many times as fast a pruned model is as `config.model`."""
    import tempfile

    import bertjax

    with tempfile.TemporaryDirectory() as folder:
        bertjax.save(smaller, Path(folder) / "smaller")
        return measure_speedup(config.model, Path(folder) / "smaller", examples, config.data.max_length)


def measure_speedup(whole: str, smaller: Path, examples: Examples, max_length: int) -> float:
    """How many times as fast the smaller model is as the whole one: the ratio of their median times at batch 1, each
    measured in a process of its own, in alternating repeats."""
    from bertjax.bundle import resolve
    from bertjax.measure.latency import Candidate, measure_latency
    from bertjax.report.build import one_process_only

    candidates = {"whole": Candidate("jax", resolve(whole)), "smaller": Candidate("jax", smaller)}
    # More and shorter repeats than in a report, so that a short load on the machine disturbs fewer of them.
    repeats: dict[str, Any] = {"sample": 64, "repeats": 7, "isolated": not one_process_only()}
    timings = measure_latency(candidates, examples.texts, examples.pairs, max_length=max_length, **repeats)
    return timings["whole"].latency.batch_1.p50 / timings["smaller"].latency.batch_1.p50


def remove_parts(config: Config, model: Bundle, batches: Batches, part: Part, fraction: float) -> Bundle:
    """The model without a fraction of its heads or neurons. Scores are computed anew in every iteration."""
    from bertjax.prune.scores import OWNER
    from bertjax.prune.surgery import group_sizes

    multiple = part_multiple(config, model.config, part)
    whole = sum(group_sizes(model.config, OWNER[part]).values())
    for number in range(1, config.iterations + 1):
        removed = whole - sum(group_sizes(model.config, OWNER[part]).values())
        wanted = max(0, round(fraction * whole * number / config.iterations) - removed)
        described, params = config.scores_by.remove(model, batches, task_loss(model), part, wanted, multiple)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def part_multiple(config: Config, described: BertConfig, part: Part) -> int:
    """The multiple of heads or neurons whose columns are a multiple of `config.multiple`."""
    import math

    columns = described.head_size if part == "heads" else 1
    return config.multiple // math.gcd(config.multiple, columns)


def remove_layers(config: Config, model: Bundle, batches: Batches) -> Bundle:
    """The model without a fraction of its layers, or with just those that are to be kept."""
    from bertjax.prune import keep_layers

    depth = len(model.config.depth_steps())
    if config.keep_layers:
        described, params = keep_layers(model.config, model.params, sorted(config.keep_layers))
        return dataclasses.replace(model, config=described, params=params)
    for number in range(1, config.iterations + 1):
        left = len(model.config.depth_steps())
        wanted = min(left - 1, max(0, round(config.layers * depth * number / config.iterations) - (depth - left)))
        kept = config.scores_by.kept_layers(model, batches, task_loss(model), left - wanted)
        described, params = keep_layers(model.config, model.params, kept)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def zero_weights(config: Config, model: Bundle) -> Bundle:
    """The model with its smallest weights set to zero."""
    from bertjax.prune.masks import apply_masks, magnitude_masks

    masks = magnitude_masks(model.params, KERNELS, config.zeros, 4 if config.pattern == "2:4" else config.pattern)
    return dataclasses.replace(model, params=apply_masks(model.params, masks))


def task_loss(model: Bundle) -> Callable[[Any, Any], Any]:
    """The loss of the model's task against the labels, per example."""

    def loss(output: Any, batch: Any) -> Any:
        return HardLabels().build(model.config, model.config)({}, output, output, batch)

    return loss


def run(recipe: Prune, context: Context) -> StageResult:
    """The stage: prunes the context's model into its folder."""
    from bertjax.engine.record import begin, finish

    settings = {one.name: getattr(recipe, one.name) for one in dataclasses.fields(recipe) if one.init}
    given = {name: getattr(context, name) for name in ("model", "data", "out", "teacher", "outputs")}
    config, out = Config(**settings, **given), as_path(context.out)
    if not begin(out, config, context.reader):
        prune(config, Text.of_context(context))
        finish(out, {})
    trained = result_of(str(out / "recovery"), context.data)
    memory = result_of(context.out, context.data).training_step_bytes
    return trained._replace(bundle=out / "bundle", training_step_bytes=memory, control=control_of(recipe, context))


def control_of(recipe: Prune, context: Context) -> Control:
    """The no-teacher baseline: the pruned model before its training, trained on labels alone. If weights were pruned,
    it is pruned to the same sparsity."""
    pruned = str(as_path(context.out) / "cut")
    student = context.control.student if context.control else None
    if recipe.zeros:
        removed: dict[str, Any] = {"layers": 0.0, "keep_layers": (), "heads": 0.0, "neurons": 0.0, "speedup": None}
        stage = dataclasses.replace(recipe, name="without-teacher", losses=(HardLabels(),), **removed)
        return Control(stage, pruned, student)
    return Control(labels_only(recipe, None), pruned, student)
