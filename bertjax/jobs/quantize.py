"""Quantisation after training, or with rounding in the training step."""

from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.recipes.quantize import Config, Quantize
from bertjax.recipes.stage import Context
from bertjax.storage.paths import as_path


def first_of(context: Any) -> str | None:
    """The first model of the run, if it reads the same pieces."""
    from bertjax.bundle import resolve
    from bertjax.text.tokenizer import Tokenizer

    if context.first in (None, context.model):
        return None
    first, model = (Tokenizer.from_folder(resolve(folder)).fingerprint for folder in (context.first, context.model))
    return context.first if first == model else None


def main(config: Config, score: bool = True) -> None:
    import dataclasses

    import bertjax
    from bertjax.engine.record import begin, finish, keep
    from bertjax.jobs.data import open_model, read_split, score_of, tell, to_be_changed, training_task
    from bertjax.jobs.mixed_precision import assigned_rules
    from bertjax.quantized.calibration import calibration_of

    out = as_path(config.out)
    if begin(out, config):
        return
    model, task = open_model(config.model, training_task(config.data), config.seed, dtype=config.dtype)
    if model.newly_initialized:
        raise UserError(f"{config.model} has no trained head; fine-tune it first (train.finetune).")
    if model.config.quantization is not None:
        raise UserError(f"{config.model} is quantised already; begin with the model in floating point.")
    model = to_be_changed(model, config.model)
    asked = config.qat != "off" or config.mean_bits is not None
    labelled = asked and any(type(loss).__name__ == "HardLabels" for loss in config.losses)
    train = read_split(config.data, config.data.train, task, model.tokenizer, "train", labelled)
    held_out = read_split(config.data, config.data.eval, task, model.tokenizer, "test")
    if score and config.compile_only is None:
        tell(config.data, train, held_out)
    if config.mean_bits is not None:
        batches = sample(train.encoded, config.calibration_examples, one_length=True)
        config = dataclasses.replace(config, weights=assigned_rules(config, model, batches, out))
    masks = zeros(config, model)
    activations = inputs_to_round(config, model, train.encoded)
    described, params = train_rounded(config, out, model, train.encoded, activations, masks)
    texts = calibration_of(train.encoded) if activations else None
    quantised = dataclasses.replace(model, config=described, params=params, calibration=texts)
    keep(quantised, out / "bundle")
    again = bertjax.load(out / "bundle")
    result = {task.metric: score_of(again, held_out)} if score else {}
    finish(out, result, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


def inputs_to_round(config: Config, model: Any, encoded: Any) -> dict[str, Any]:
    """The activation of each site whose product reads integers, by the rules for weights."""
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
    batches = [inputs_of(batch) for batch in sample(encoded, config.calibration_examples)]
    return find_ranges(build(described), params, batches, config.activation_range, config.bits)


def zeros(config: Config, model: Any) -> dict[str, Any]:
    """Masks of what is to stay 0."""
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


def sample(encoded: Any, texts: int, one_length: bool = False) -> list[Any]:
    """About so many texts from all over, in batches of 32, each of the length of its own texts or all of one length."""
    import numpy as np

    from bertjax.text.batches import gather
    from bertjax.text.buckets import length_buckets

    rows = np.unique(np.linspace(0, len(encoded) - 1, min(len(encoded), texts)).round().astype(np.int64))
    rows = rows[np.argsort(encoded.lengths[rows], kind="stable")]
    longest = int(encoded.lengths[rows].max())
    buckets = np.array([longest] if one_length else length_buckets(encoded.lengths, int(encoded.lengths.max())))
    parts = [rows[start : start + 32] for start in range(0, len(rows), 32)]
    return [gather(encoded, p, int(buckets[buckets >= encoded.lengths[p].max()][0])) for p in parts]


def train_rounded(
    config: Config, out: Path, model: Any, encoded: Any, activations: dict[str, Any], masks: dict[str, Any]
) -> tuple[Any, Any]:
    """Config and parameters of the model in integers, after training if that was asked for."""
    import jax.numpy as jnp

    from bertjax.engine.hosts import process_shard
    from bertjax.engine.loop import fit
    from bertjax.learn.objective import bind_losses
    from bertjax.model.quantized import fixed_scale
    from bertjax.prune.masks import apply_masks
    from bertjax.quantize import Quantization, quantise_weights
    from bertjax.quantize.training import (
        first_scales,
        learned_ranges,
        quantise_trained,
        round_weights,
        rounding_product,
        roundings_of,
    )
    from bertjax.text.batches import batches, inputs_of
    from bertjax.text.buckets import length_buckets

    float_config = model.config.replace(quantization=Quantization(activations=tuple(activations.items())))
    if config.qat == "off":
        return quantise_weights(float_config, model.params, config.weights, config.weight_range)
    teacher = open_teacher(config, model)
    roundings = roundings_of(model.config, model.params, config.weights)
    taught = bind_losses(config.losses, model.config, [teacher.config], config.seed)
    extra: dict[str, Any] = {"losses": taught.extra}
    if config.qat == "lsq":
        extra["weights"] = first_scales(model.params, roundings, config.weight_range)
        fixed = {site: fixed_scale(a)[0] for site, a in activations.items() if a.low is not None}
        extra["inputs"] = {site: jnp.float32(scale) for site, scale in fixed.items()}
    data = batches(
        encoded,
        config.batch_size,
        seed=config.seed,
        buckets=length_buckets(encoded.lengths, config.data.max_length),
        **process_shard(),
    )
    begins = round(config.delay * config.total_steps(data.steps_per_epoch))
    plain = model.config.replace(remat=config.remat)

    def objective(params, extra, state, batch, step, key):
        inputs = inputs_of(batch)
        said = teacher.model.apply({"params": batch["teacher"]}, *inputs)
        rounded = round_weights(apply_masks(params, batch["masks"]), roundings, extra.get("weights"))
        product = rounding_product(activations, step >= begins, extra.get("inputs"))
        student = type(model.model)(plain, product)
        guess = student.apply({"params": rounded}, *inputs, rngs={"dropout": key})
        return taught.terms(extra["losses"], guess, [said], batch), state

    params, learned, _ = fit(
        config,
        out,
        "quantising",
        params=model.params,
        extra=extra,
        objective=objective,
        batches=data,
        constants={"teacher": teacher.params, "masks": masks},
    )
    if config.qat == "lsq":
        activations = learned_ranges(activations, learned["inputs"])
        float_config = model.config.replace(quantization=Quantization(activations=tuple(activations.items())))
    return quantise_trained(float_config, apply_masks(params, masks), roundings, learned.get("weights"))


def open_teacher(config: Config, model: Any) -> Any:
    """Who is learned from: the model as it was, or another that reads the same pieces."""
    from bertjax.jobs.data import open_model, training_task

    if config.teacher in (None, config.model):
        return model
    teacher, _ = open_model(config.teacher, training_task(config.data), config.seed, dtype=config.dtype)
    if teacher.newly_initialized:
        raise UserError(f"{config.teacher} has no trained head and cannot teach; fine-tune it first.")
    if teacher.tokenizer.fingerprint != model.tokenizer.fingerprint:
        raise UserError(
            f"{config.teacher} has another vocabulary than {config.model}; who teaches reads the same pieces.\n"
            "Without --teacher the model as it was teaches."
        )
    return teacher


def run(recipe: Quantize, context: Context) -> None:
    """The stage: quantises the context's model into its folder."""
    teacher = context.teacher or first_of(context)
    given = {"model": context.model, "data": context.data, "out": context.out, "teacher": teacher}
    main(Config(**{**vars(recipe), **given}), score=False)  # the report scores every model
