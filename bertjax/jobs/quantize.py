"""Post-training quantisation and quantisation-aware training.

In both cases, static activation ranges are first calibrated on a sample of the training examples; with --qat=lsq,
training continues from them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.jobs.data import (
    Split,
    Text,
    evenly_spaced,
    open_model,
    tokenizer_of,
    training_batches,
    without_threshold,
)
from bertjax.jobs.training import Prepared, result_of, train
from bertjax.recipes.quantize import Config, Quantize
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.engine.loop import Trained
    from bertjax.model import BertConfig
    from bertjax.params import Tree
    from bertjax.quantized.formats import Activation
    from bertjax.text.encode import Encoded
    from bertjax.text.tasks import Task

Activations = dict[str, "Activation"]
"""The quantisation of the input of each matrix product, by site."""


def quantise(config: Config, text: Text) -> tuple[Bundle, Split, Split]:
    """Quantises, and saves the model as `config.out/bundle`. Returns the stored model, and the training and evaluation
    examples."""
    import bertjax
    from bertjax.engine.record import keep
    from bertjax.jobs.mixed_precision import assigned_rules

    model, task = open_float(config, text)
    labelled = bool(config.trains or config.mean_bits) and any(isinstance(loss, HardLabels) for loss in config.losses)
    examples = text.training(task, tokenizer_of(model), labelled)
    held_out = text.held_out(task, tokenizer_of(model))
    text.describe(examples, held_out)
    if config.mean_bits is not None:
        batches = evenly_spaced(examples.encoded, config.calibration_examples, one_length=True)
        config = dataclasses.replace(config, weights=assigned_rules(config, model, batches, as_path(config.out)))
    masks = zero_masks(config, model)
    activations = activations_to_round(config, model, examples.encoded)
    if config.trains:
        teacher = open_teacher(config, model, text)
        train(config, config.out, prepare_qat(config, model, teacher, activations, masks, examples, held_out))
    else:
        keep(post_training(config, model, activations, examples.encoded), as_path(config.out) / "bundle")
    return bertjax.load(as_path(config.out) / "bundle"), examples, held_out


def open_float(config: Config, text: Text) -> tuple[Bundle, Task]:
    """The model in floating point, with its trained head."""
    model, task = open_model(config.model, text.task(), config.seed, dtype=config.dtype)
    if model.newly_initialized:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (bertjax finetune).")
    if model.config.quantization is not None:
        raise UserError(f"{config.model} is quantised already; begin with the model in floating point.")
    return without_threshold(model, config.model), task


def activations_to_round(config: Config, model: Bundle, encoded: Encoded) -> Activations:
    """The quantisation of activations at each site whose weights are integers by the config's rules."""
    from bertjax.model import build
    from bertjax.model.sites import integer_sites
    from bertjax.quantize import Activation, quantise_weights
    from bertjax.quantize.activations import find_ranges
    from bertjax.text.batches import inputs_of

    if config.activations == "none":
        return {}
    described, params = quantise_weights(model.config, model.params, config.weights, "min_max")
    if config.activations == "token":
        return {site: Activation(config.bits) for site in integer_sites(build(described), params)}
    batches = [inputs_of(batch) for batch in evenly_spaced(encoded, config.calibration_examples)]
    return find_ranges(build(described), params, batches, config.activation_range, config.bits)


def zero_masks(config: Config, model: Bundle) -> dict[str, Any]:
    """Masks of the zeros that have to be kept."""
    from bertjax.params import flatten
    from bertjax.prune.masks import nonzero_masks
    from bertjax.quantize.weights import formats_of

    if config.keep_zeros is None:
        return {}
    masks, formats = nonzero_masks(model.params, config.keep_zeros), formats_of(model.params, config.weights)
    for path in flatten(masks):
        if path in formats and formats[path].scheme == "asymmetric":
            raise UserError(
                f"--keep_zeros: the format of {path} is asymmetric, and has no integer for 0; give it a symmetric or "
                "ternary one (weights, choices)."
            )
    return masks


def post_training(config: Config, model: Bundle, activations: Activations, encoded: Encoded) -> Bundle:
    """The quantised model, without training."""
    from bertjax.quantize import quantise_weights

    described = with_activations(model, activations)
    new_config, params = quantise_weights(described, model.params, config.weights, config.weight_range)
    return quantised(model, new_config, params, activations, encoded)


def with_activations(model: Bundle, activations: Activations) -> BertConfig:
    """The model's config, with the quantisation of activations."""
    from bertjax.quantize import Quantization

    return model.config.replace(quantization=Quantization(activations=tuple(activations.items())))


def quantised(model: Bundle, config: BertConfig, params: Tree, activations: Activations, encoded: Encoded) -> Bundle:
    """The quantised bundle, with the token ids that its export is checked on."""
    from bertjax.quantized.calibration import calibration_of

    calibration = calibration_of(encoded) if activations else None
    return dataclasses.replace(model, config=config, params=params, calibration=calibration)


def prepare_qat(
    config: Config,
    model: Bundle,
    teacher: Bundle,
    activations: Activations,
    masks: dict[str, Any],
    examples: Split,
    held_out: Split,
) -> Prepared:
    """Quantisation-aware training: the model is trained with simulated rounding to match the outputs of its teacher."""
    import jax.numpy as jnp

    from bertjax.learn.objective import bind_losses
    from bertjax.model.quantized import fixed_scale
    from bertjax.prune.masks import apply_masks
    from bertjax.quantize.training import (
        first_scales,
        learned_ranges,
        quantise_trained,
        round_weights,
        rounding_product,
        roundings_of,
    )
    from bertjax.text.batches import inputs_of

    roundings = roundings_of(model.config, model.params, config.weights)
    distillation = bind_losses(config.losses, model.config, [teacher.config], config.seed)
    extra: dict[str, Any] = {"losses": distillation.extra}
    if config.qat == "lsq":
        extra["weights"] = first_scales(model.params, roundings, config.weight_range)
        fixed = {site: fixed_scale(a)[0] for site, a in activations.items() if a.low is not None}
        extra["inputs"] = {site: jnp.float32(scale) for site, scale in fixed.items()}
    batches = training_batches(config, config.data, examples.encoded, None)
    first_rounded = round(config.delay * config.total_steps(batches.steps_per_epoch))
    float_config = model.config.replace(remat=config.remat)

    def objective(params, extra, state, batch, step, key):
        inputs = inputs_of(batch)
        teacher_out = teacher.model.apply({"params": batch["teacher"]}, *inputs)
        rounded = round_weights(apply_masks(params, batch["masks"]), roundings, extra.get("weights"))
        product = rounding_product(activations, step >= first_rounded, extra.get("inputs"))
        student = type(model.model)(float_config, product)
        student_out = student.apply({"params": rounded}, *inputs, rngs={"dropout": key})
        return distillation.terms(extra["losses"], student_out, [teacher_out], batch), state

    def finish(trained: Trained) -> Bundle:
        learned = learned_ranges(activations, trained.extra["inputs"]) if config.qat == "lsq" else activations
        described, params = with_activations(model, learned), apply_masks(trained.params, masks)
        integers = quantise_trained(described, params, roundings, trained.extra.get("weights"))
        return quantised(model, *integers, activations, examples.encoded)

    constants = {"teacher": teacher.params, "masks": masks}
    return Prepared(
        "quantising", model.params, objective, batches, finish, examples, held_out, extra=extra, constants=constants
    )


def open_teacher(config: Config, model: Bundle, text: Text) -> Bundle:
    """The unquantised model, or another teacher with the same vocabulary."""
    if config.teacher is None or config.teacher == config.model:
        return model
    teacher, _ = open_model(config.teacher, text.task(), config.seed, dtype=config.dtype)
    if teacher.newly_initialized:
        raise UserError(f"{config.teacher} has no trained head and cannot be a teacher; fine-tune it first.")
    if tokenizer_of(teacher).fingerprint != tokenizer_of(model).fingerprint:
        raise UserError(
            f"{config.teacher} has another vocabulary than {config.model}; a teacher reads the same tokens.\n"
            "Without --teacher the model itself, unquantised, is the teacher."
        )
    return teacher


def run(recipe: Quantize, context: Context) -> StageResult:
    """The stage: quantises the context's model into its folder."""
    from bertjax.engine.record import begin, finish

    teacher = context.teacher or default_teacher(context)
    given = {"model": context.model, "data": context.data, "out": context.out, "teacher": teacher}
    config = Config(**{**vars(recipe), **given})
    if not begin(as_path(config.out), config, context.reader):
        quantise(config, Text.of_context(context))
        finish(as_path(config.out), {})
    return result_of(context.out, context.data)


def default_teacher(context: Context) -> str | None:
    """The first model of this run with a trained head, if it has the same vocabulary. Pruning and distillation since
    then may have cost the model itself much of its score."""
    from bertjax.bundle import resolve
    from bertjax.text.tokenizer import Tokenizer

    if context.finetuned is None or context.finetuned == context.model:
        return None
    folders = context.finetuned, context.model
    first, model = (Tokenizer.from_folder(resolve(folder)).fingerprint for folder in folders)
    return context.finetuned if first == model else None
