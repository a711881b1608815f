"""Post-training quantisation and quantisation-aware training.

In both cases, static activation ranges are first calibrated on a sample of the training examples; with --qat=lsq,
training continues from them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, evenly_spaced, open_model, tokenizer_of, without_threshold
from bertjax.jobs.distill import open_teachers, prepare_student
from bertjax.jobs.training import Prepared, result_of, train
from bertjax.recipes.quantize import Config, Quantize
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.quantize.activations import Batch
    from bertjax.quantize.transforms import FakeQuantize
    from bertjax.text.encode import Encoded
    from bertjax.text.tasks import Task


def quantise(config: Config, text: Text) -> tuple[Bundle, Split, Split]:
    """Quantises, and saves the model as `config.out/bundle`. Returns the stored model, and the training and evaluation
    examples."""
    import bertjax
    from bertjax.engine.record import keep
    from bertjax.jobs.mixed_precision import assigned_rules
    from bertjax.learn.transform import check_zeros, named
    from bertjax.prune.transforms import KeepZeros

    model, task = open_float(config, text)
    labelled = bool(config.trains or config.mean_bits) and any(loss.reads_labels for loss in config.losses)
    examples = text.training(task, tokenizer_of(model), labelled)
    held_out = text.held_out(task, tokenizer_of(model))
    text.describe(examples, held_out)
    if config.mean_bits is not None:
        batches = evenly_spaced(examples.encoded, config.calibration_examples, one_length=True)
        config = dataclasses.replace(config, weights=assigned_rules(config, model, batches, as_path(config.out)))
    original = model
    if config.word_table_mb is not None:
        config, model = with_word_table(config, model, examples.encoded)
    rounding = fake_quantize(config)
    if config.keep_zeros:
        check_zeros(named((KeepZeros(config.keep_zeros), rounding)), model.params)
    if config.trains:
        train(config, config.out, prepare_training(config, model, original, text, (examples, held_out), rounding))
    else:
        keep(post_training(config, model, rounding, examples.encoded), as_path(config.out) / "bundle")
    return bertjax.load(as_path(config.out) / "bundle"), examples, held_out


def with_word_table(config: Config, model: Bundle, encoded: Encoded) -> tuple[Config, Bundle]:
    """The model with a word table of the width for `config.word_table_mb`, and the config with the rules for its
    bits."""
    import numpy as np

    from bertjax.engine.log import note
    from bertjax.quantize.tables import fit_word_table

    assert config.word_table_mb is not None
    counts = np.bincount(np.asarray(encoded.ids), minlength=model.config.vocab_size)
    most = int(config.word_table_mb * 1e6)
    best, narrow, params, rules = fit_word_table(model.config, model.params, counts, most, config.weight_range)
    note(
        f"the word table: {best.width} columns in {best.format.bits} bits ({best.format.scheme}), "
        f"{best.size / 1e6:.3g} MB, {best.error:.2%} of its squares lost"
    )
    small = dataclasses.replace(model, config=narrow, params=params)
    return dataclasses.replace(config, weights=(*rules, *config.weights)), small


def fake_quantize(config: Config) -> FakeQuantize:
    """The rounding of the config."""
    from bertjax.quantize.transforms import FakeQuantize

    return FakeQuantize(
        weights=config.weights,
        activations=config.activations,
        bits=config.bits,
        activation_range=config.activation_range,
        learned=config.qat == "lsq",
        weight_range=config.weight_range,
        delay=config.delay,
    )


def open_float(config: Config, text: Text) -> tuple[Bundle, Task]:
    """The model in floating point, with its trained head."""
    model, task = open_model(config.model, text.task(), config.seed, dtype=config.dtype)
    if model.newly_initialized:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (bertjax finetune).")
    if model.config.quantization is not None:
        raise UserError(f"{config.model} is quantised already; begin with the model in floating point.")
    return without_threshold(model, config.model), task


def post_training(config: Config, model: Bundle, rounding: FakeQuantize, encoded: Encoded) -> Bundle:
    """The quantised model, without training."""
    from bertjax.quantize import Quantization, quantise_weights
    from bertjax.quantize.corrections import correct_biases, mean_inputs
    from bertjax.quantized.calibration import calibration_of
    from bertjax.text.batches import inputs_of

    fixed = config.activations == "fixed"
    batches = evenly_spaced(encoded, config.calibration_examples) if fixed else []
    inputs = [inputs_of(batch) for batch in batches]
    if "smooth" in config.corrections:
        model = smoothed(config, model, inputs)
    ranges = rounding.fit(model, batches).ranges or ()
    described = model.config.replace(quantization=Quantization(activations=ranges))
    new_config, params = quantise_weights(described, model.params, config.weights, config.weight_range)
    if "bias" in config.corrections:
        means = mean_inputs(new_config, params, dict(ranges), inputs)
        params = correct_biases(new_config, params, model.params, means)
    calibration = calibration_of(encoded) if ranges else None
    return dataclasses.replace(model, config=new_config, params=params, calibration=calibration)


def smoothed(config: Config, model: Bundle, inputs: list[Batch]) -> Bundle:
    """The same function, with channels of more even size in the inputs of its products."""
    from bertjax.model import build
    from bertjax.quantize import quantise_weights
    from bertjax.quantize.corrections import largest_inputs, smooth

    described, rounded = quantise_weights(model.config, model.params, config.weights, "min_max")
    largest = largest_inputs(build(described), rounded, inputs)
    return dataclasses.replace(model, params=smooth(model.config, model.params, largest))


def prepare_training(
    config: Config, model: Bundle, original: Bundle, text: Text, splits: tuple[Split, Split], rounding: FakeQuantize
) -> Prepared:
    """Quantisation-aware training: the model is trained with simulated rounding to match the outputs of its teacher, by
    default the original before its word table was narrowed."""
    teachers = open_teachers_of(config, original, text)
    student = dataclasses.replace(model, config=model.config.replace(remat=config.remat))
    folder, examples = as_path(config.out) / "teacher", config.calibration_examples
    given = student, teachers, splits, text.data, folder, (rounding,)
    return prepare_student(config, "quantising", *given, examples=examples)


def open_teachers_of(config: Config, model: Bundle, text: Text) -> list[Bundle]:
    """The unquantised model, or another teacher with the same vocabulary; and the additional ones."""
    names = (config.teacher or config.model, *config.teachers)
    if names == (config.model,):
        return [model]
    teachers, _ = open_teachers(names, text.task(), config.seed, dtype=config.dtype)
    if tokenizer_of(teachers[0]).fingerprint != tokenizer_of(model).fingerprint:
        raise UserError(
            f"{names[0]} has another vocabulary than {config.model}; a teacher reads the same tokens.\n"
            "Without --teacher the model itself, unquantised, is the teacher."
        )
    if teachers[0].config.labels != model.config.labels:
        labels = ", ".join(teachers[0].config.labels), ", ".join(model.config.labels)
        raise UserError(f"{names[0]} has the labels {labels[0]}, {config.model} {labels[1]}: give them one order.")
    return teachers


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
