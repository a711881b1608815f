"""Structured and unstructured pruning, followed by fine-tuning or distillation.

Layers are removed first, then heads, then neurons, so that scores are computed only for what remains. Weights are set
to zero last, at once or gradually during the training.
"""

from __future__ import annotations

import dataclasses
from functools import partial
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
from bertjax.jobs.removal import Batches, remove_layers, remove_parts, shapes, zero_weights
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
    from bertjax.prune.scores import Part
    from bertjax.text.tasks import Task


def prune(config: Config, text: Text) -> tuple[Bundle, Split | None]:
    """Prunes, trains if configured, and saves the model as `config.out/bundle`; `config.out/cut` holds the pruned model
    before training. Returns the model, and the evaluation examples if it has a trained head."""
    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, on_main_process
    from bertjax.engine.log import note

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
        transforms: tuple[Transform, ...] = ()
        if config.pruning_end:
            scope: Any = 4 if config.pattern == "2:4" else config.pattern
            transforms = (GradualMagnitude(KERNELS, config.zeros, config.pruning_end, scope),)
        keep_zeros = KERNELS if config.zeros and not config.pruning_end else None
        recover(config, text._replace(verbose=False), transforms, keep_zeros)
        source = out / "recovery" / "bundle"
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


def recover(config: Any, text: Text, transforms: tuple[Transform, ...] = (), keep_zeros: str | None = None) -> None:
    """Trains the model of `config.out/cut` with the one that it was made of as its teacher, in `config.out/recovery`.
    `config` is a distillation with a field `model` for that one, and `teacher` for another teacher."""
    from bertjax.engine.record import read_record, update_record

    names = {one.name for one in dataclasses.fields(Distillation)}
    recipe = {name: value for name, value in vars(config).items() if name in names}
    recipe |= {
        "model": config.teacher or config.model,
        "student": Student(init_from=str(as_path(config.out) / "cut"), as_is=True),
        "keep_zeros": keep_zeros,
        "out": str(as_path(config.out) / "recovery"),
    }
    train_unscored(Distillation(**recipe), text, partial(prepare_distillation, transforms=transforms))
    out = as_path(config.out)
    update_record(out, training_step_bytes=(read_record(out / "recovery") or {}).get("training_step_bytes"))


def ship(source: Any, target: Any) -> None:
    """Copies a model folder to its final place."""
    import shutil

    from bertjax.storage.paths import atomic_folder, local

    with atomic_folder(target) as folder:
        shutil.copytree(local(source), folder, dirs_exist_ok=True)


def prune_model(config: Config, model: Bundle, task: Task, text: Text) -> Bundle:
    """The model without its least important layers, then heads, then neurons, then weights."""
    from bertjax.jobs.speedup import remove_by_latency, remove_fraction

    reads_text, whole = config.scores_by.reads_text, model
    removes = config.layers or config.heads or config.neurons or config.speedup
    batches = scoring_batches(config, model, task, text) if reads_text and removes else []
    if config.layers or config.keep_layers:
        model = remove_layers(config, model, batches)
    if config.speedup:
        remove = remove_by_latency if config.scores_by.reads_latency else remove_fraction
        examples = text.reader.read(config.data.eval, task, "test", labelled=False)[1]  # timed as reports time them
        model = remove(config, model, whole, examples, batches)
    fractions: dict[Part, float] = {"heads": config.heads, "neurons": config.neurons}
    for part, fraction in fractions.items():
        if fraction:
            model = remove_parts(config, model, batches, part, fraction)
    return zero_weights(config, model) if config.zeros and not config.pruning_end else model


def scoring_batches(config: Config, model: Bundle, task: Task, text: Text) -> Batches:
    """Training examples for importance scores, in batches of one length."""
    train = text.training(task, tokenizer_of(model), labelled=config.scores_by.reads_labels)
    one_length = not config.scores_by.reads_latency  # which compiles one small program for each length
    return evenly_spaced(train.encoded, config.calibration_examples, one_length)


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
