"""Pruning: which parts are removed and how many, and the training afterwards."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.recipes.distill import Config as Distillation
from bertjax.recipes.prune import Config, Prune
from bertjax.recipes.stage import Context
from bertjax.storage.paths import as_path
from bertjax.student import Student

KERNELS = r"^encoder/.*kernel$"


def prune_model(config: Any, model: Any, task: Any) -> Any:
    """The model as a bundle without the parts that are worth least: layers, then heads, then neurons, then weights."""
    looks = config.criterion not in ("magnitude", "random")
    removes = config.layers or config.heads or config.neurons or config.speedup
    batches = scoring_batches(config, model, task) if looks and removes else []
    if config.layers:
        model = remove_layers(config, model, batches)
    parts = {"heads": config.heads, "neurons": config.neurons}
    for part, fraction in (fractions_for_speedup(config, model, task, batches) if config.speedup else parts).items():
        if fraction:
            model = remove_parts(config, model, batches, part, fraction)
    return zero_weights(config, model) if config.zeros and not config.pruning_end else model


def scoring_batches(config: Any, model: Any, task: Any) -> list[Any]:
    """Training texts in batches of one length."""
    from bertjax.jobs.data import read_split
    from bertjax.jobs.quantize import sample

    train = read_split(config.data, config.data.train, task, model.tokenizer, "train", config.criterion != "activity")
    return sample(train.encoded, config.calibration_examples, one_length=True)


def fractions_for_speedup(config: Any, model: Any, task: Any, batches: list[Any]) -> dict[str, float]:
    """The smallest part of heads and neurons without which the model is fast enough; recorded with what was reached."""
    import tempfile

    import bertjax
    from bertjax.engine.log import note
    from bertjax.engine.record import update_record
    from bertjax.jobs.data import training_examples
    from bertjax.prune.scores import OWNER
    from bertjax.prune.select import search_speedup
    from bertjax.prune.surgery import sizes
    from bertjax.storage.paths import as_path

    texts = training_examples(config.data, task)
    counts = {part: sizes(model.config, owner).values() for part, owner in OWNER.items()}
    most = {part: 1 - len(count) / sum(count) for part, count in counts.items()}

    def reached(fraction: float) -> float:
        smaller = model
        for part in most:
            smaller = remove_parts(config, smaller, batches, part, min(fraction, most[part]))
        with tempfile.TemporaryDirectory() as folder:
            bertjax.save(smaller, Path(folder) / "smaller")
            found = measure_speedup(config.model, Path(folder) / "smaller", texts, config.data.max_length)
        note(f"without {fraction:.0%} of heads and neurons: {found:.2f} times as fast")
        return found

    fraction, speedup = search_speedup(reached, config.speedup)
    update_record(as_path(config.out), removed=fraction, speedup={"asked": config.speedup, "reached": speedup})
    note(f"{fraction:.0%} of heads and neurons go: {speedup:.2f} times as fast, asked for {config.speedup:g}")
    return {part: min(fraction, share) for part, share in most.items()}


def measure_speedup(whole: str, smaller: Path, texts: Any, max_length: int) -> float:
    """The time of one model for one text over that of another, each in a process of its own, taking turns."""
    from bertjax.bundle import resolve
    from bertjax.measure.latency import Candidate, measure_latency
    from bertjax.report.build import one_process_only

    candidates = {"whole": Candidate("jax", resolve(whole)), "smaller": Candidate("jax", smaller)}
    often: Any = {"sample": 64, "rounds": 7}  # more and shorter turns than a report takes: a busy moment spoils fewer
    isolated = not one_process_only()
    timings = measure_latency(candidates, texts.texts, texts.pairs, max_length=max_length, isolated=isolated, **often)
    return timings["whole"].latency.batch_1.p50 / timings["smaller"].latency.batch_1.p50


def remove_parts(config: Any, model: Any, batches: list[Any], part: Any, fraction: float) -> Any:
    """The model without a part of its heads or neurons."""
    import dataclasses
    import math

    from bertjax.prune import keep_heads, keep_neurons
    from bertjax.prune.scores import OWNER
    from bertjax.prune.select import select_top
    from bertjax.prune.surgery import sizes

    whole = sum(sizes(model.config, OWNER[part]).values())
    columns = model.config.head_size if part == "heads" else 1
    multiple = config.multiple // math.gcd(config.multiple, columns)
    for number in range(1, config.iterations + 1):
        scores = importance_scores(config, model, batches, part)
        gone = whole - sum(map(len, scores.values()))
        wanted = max(0, round(fraction * whole * number / config.iterations) - gone)
        keep = keep_heads if part == "heads" else keep_neurons
        described, params = keep(model.config, model.params, select_top(scores, wanted, multiple=multiple))
        model = dataclasses.replace(model, config=described, params=params)
    return model


def importance_scores(config: Any, model: Any, batches: list[Any], part: Any) -> dict[int, Any]:
    """The scores of the parts that are left."""
    from bertjax.prune.scores import activity, importance, magnitude, random

    if config.criterion == "magnitude":
        return magnitude(model.config, model.params, part)
    if config.criterion == "random":
        return random(model.config, part, config.seed)
    if config.criterion == "activity":
        found = activity(model.model, model.params, batches, part)
        return {group: one.variance for group, one in found.items()}
    form: Any = "paper" if config.criterion == "importance" else config.criterion
    return importance(model.model, model.params, batches, task_loss(model), part, form)


def remove_layers(config: Any, model: Any, batches: list[Any]) -> Any:
    """The model without a part of its layers."""
    import dataclasses

    import numpy as np

    from bertjax.prune import keep_layers
    from bertjax.prune.scores import layer_importance

    depth = len(model.config.depth_steps())
    for number in range(1, config.iterations + 1):
        left = len(model.config.depth_steps())
        wanted = min(left - 1, max(0, round(config.layers * depth * number / config.iterations) - (depth - left)))
        if config.criterion == "random":
            scores = np.random.default_rng(config.seed).random(left)
        else:
            scores = layer_importance(model.model, model.params, batches, task_loss(model))
        kept = np.sort(np.argsort(-scores, kind="stable")[: left - wanted]).tolist()
        described, params = keep_layers(model.config, model.params, kept)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def zero_weights(config: Any, model: Any) -> Any:
    """The model with zeros instead of its smallest weights."""
    import dataclasses

    from bertjax.prune.masks import apply_masks, magnitude_masks

    masks = magnitude_masks(model.params, KERNELS, config.zeros, 4 if config.pattern == "2:4" else config.pattern)
    return dataclasses.replace(model, params=apply_masks(model.params, masks))


def gradual_masks(config: Any, student: Any, steps: int) -> tuple[Any, Any]:
    """Masks that hide nothing yet, and how they hide more and more of the student over a part of these steps. The last
    step learns with all of the zeros."""
    from bertjax.prune.masks import all_ones, gradual_magnitude

    scope = 4 if config.pattern == "2:4" else config.pattern
    until = min(round(config.pruning_end * steps), steps - 1)
    return all_ones(student.params, KERNELS, scope), gradual_magnitude(scope, config.zeros, until)


def task_loss(model: Any) -> Any:
    """The loss of the model's task against the labels, example by example."""
    from bertjax.distill.terms import HardLabels

    formula = HardLabels().build(model.config, model.config)

    def loss(output: Any, batch: Any) -> Any:
        return formula({}, output, output, batch)

    return loss


def main(config: Config, score: bool = True) -> None:
    import shutil

    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, on_main_process
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, finish, read_record, update_record
    from bertjax.jobs.data import open_model as opened
    from bertjax.jobs.data import read_split, score_of, tell_first, to_be_changed, training_task
    from bertjax.jobs.distill import main as distil
    from bertjax.storage.paths import atomic_folder, local

    out = as_path(config.out)
    if begin(out, config):
        return
    model, task = opened(config.model, training_task(config.data), config.seed, dtype=config.dtype)
    blind = config.criterion in ("magnitude", "random") and not (config.finetune_after or config.speedup)
    if model.newly_initialized and not blind:
        raise UserError(
            f"{config.model} has no trained head; fine-tune it first (train.finetune). Before that, parts can go by "
            "--criterion=magnitude --finetune_after=False alone."
        )
    if score:
        tell_first(config.data, config.model, task)
    if not (trained := not model.newly_initialized):
        model = bertjax.load(config.model)  # the head that training will need comes then
    model = to_be_changed(model, config.model)
    if not any(getattr(config, name) for name in ("layers", "heads", "neurons", "speedup", "zeros")):
        raise UserError(
            "nothing is to be taken out: give --layers, --heads, --neurons, --speedup or --weights, as --heads=0.5"
        )

    def cut_once() -> None:  # by one process: another would measure other times
        smaller = prune_model(config, model, task)
        note(f"what is left of {config.model}: {shapes(smaller.config)}")
        bertjax.save(smaller, out / "cut")

    if not broadcast_from_main((out / "cut" / "config.json").is_file):
        on_main_process(cut_once)
    source = out / "cut"
    if config.finetune_after:
        names = {one.name for one in fields(Distillation)}
        recipe = {name: value for name, value in vars(config).items() if name in names}
        student = Student(init_from=str(out / "cut"), as_is=True)
        pattern = KERNELS if config.zeros and not config.pruning_end else None
        changed = {"model": config.teacher or config.model, "student": student, "keep_zeros": pattern}
        thinner = (lambda model, steps: gradual_masks(config, model, steps)) if config.pruning_end else None
        distil(Distillation(**{**recipe, **changed, "out": str(out / "recovery")}), score=False, thinner=thinner)
        source = out / "recovery" / "bundle"

    def ship() -> None:
        with atomic_folder(out / "bundle") as folder:
            shutil.copytree(local(source), folder, dirs_exist_ok=True)

    on_main_process(ship)
    held_out = read_split(config.data, config.data.eval, task, model.tokenizer, "test")
    result = {task.metric: score_of(bertjax.load(out / "bundle"), held_out)} if score and trained else {}
    peak = (read_record(out / "recovery") or {}).get("training_step_bytes")
    update_record(out, training_step_bytes=peak)
    finish(out, result, eval=held_out.encoded.fingerprint)


def shapes(config: Any) -> str:
    """What each layer has left."""
    steps = config.depth_steps()
    return ", ".join(f"{step.num_attention_heads} heads and {step.intermediate_size} neurons" for step in steps)


def run(recipe: Prune, context: Context) -> None:
    """The stage: prunes the context's model into its folder."""
    settings = {one.name: getattr(recipe, one.name) for one in fields(recipe) if one.init}
    given = {name: getattr(context, name) for name in ("model", "data", "out", "teacher", "outputs")}
    main(Config(**settings, **given), score=False)
