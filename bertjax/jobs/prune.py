"""Structured and unstructured pruning, followed by fine-tuning or distillation.

Layers are removed first, then heads, then neurons, so that scores are computed only for what remains. Weights are set
to zero last, at once or gradually during the training.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.jobs import recovery
from bertjax.jobs.data import Split, Text, evenly_spaced, open_model, tokenizer_of, without_threshold
from bertjax.jobs.removal import Batches, remove_layers, remove_parts, shapes, zero_weights
from bertjax.prune.transforms import KERNELS, GradualMagnitude
from bertjax.recipes.prune import Config, Prune
from bertjax.recipes.stage import Context, Control, StageResult

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.transform import Transform
    from bertjax.prune.scores import Part
    from bertjax.text.tasks import Task


def prune(config: Config, text: Text) -> tuple[Bundle, Split | None]:
    """Prunes, trains if configured, and saves the model as `config.out/bundle`; `config.out/cut` holds the pruned model
    before training. Returns the model, and the evaluation examples if it has a trained head."""
    import bertjax
    from bertjax.engine.log import note

    model, task = open_unpruned(config, text)
    held_out = text.held_out(task, tokenizer_of(model))
    if text.verbose:
        text.describe(text.training(task, tokenizer_of(model), labelled=False), held_out)
    if headless := bool(model.newly_initialized):
        model = bertjax.load(config.model)  # without the new head; training adds one

    def make() -> Bundle:
        smaller = prune_model(config, without_threshold(model, config.model), task, text)
        note(f"left of {config.model}: {shapes(smaller.config)}")
        return smaller

    transforms: tuple[Transform, ...] = ()
    if config.pruning_end:
        scope: Any = 4 if config.pattern == "2:4" else config.pattern
        transforms = (GradualMagnitude(KERNELS, config.zeros, config.pruning_end, scope),)
    keep_zeros = KERNELS if config.zeros and not config.pruning_end else None
    pruned = recovery.smaller_and_recovered(config, text, make, transforms, keep_zeros)
    return pruned, None if headless else held_out


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
    return recovery.run_stage(recipe, context, Config, prune)._replace(control=control_of(recipe, context))


def control_of(recipe: Prune, context: Context) -> Control:
    """The no-teacher baseline: the pruned model before its training, trained on labels alone. If weights were pruned,
    it is pruned to the same sparsity."""
    control = recovery.control_of(recipe, context)
    if not recipe.zeros:
        return control
    removed: dict[str, Any] = {"layers": 0.0, "keep_layers": (), "heads": 0.0, "neurons": 0.0, "speedup": None}
    stage = dataclasses.replace(recipe, name="without-teacher", losses=(HardLabels(),), **removed)
    return control._replace(stage=stage)
