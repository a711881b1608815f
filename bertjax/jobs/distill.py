"""Distillation: teachers, their stored outputs, the objective, and the trained student.

If the losses read only what can be stored, each teacher runs once over the data before training. Otherwise it runs in
every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.jobs.data import Text, compute_settings, open_model, tokenizer_of, training_batches
from bertjax.jobs.training import Prepared, result_of, train_unscored
from bertjax.params import Tree
from bertjax.recipes.distill import Config, Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Context, Control, StageResult
from bertjax.storage.paths import as_path
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.distill.teacher import StoredOutputs
    from bertjax.distill.terms import Loss
    from bertjax.engine.loop import Trained
    from bertjax.learn.objective import Distillation
    from bertjax.model import BertConfig
    from bertjax.text.encode import Encoded
    from bertjax.text.tasks import Task

Masks = dict[str, Any]
UpdateMasks = Callable[[Masks, Tree, Any], Masks]
Sparsity = Callable[["Bundle", int], tuple[Masks, UpdateMasks]]
"""From the student and the number of steps to the initial masks and an update `(masks, params, step) -> masks`."""


def prepare(config: Config, text: Text, sparsity: Sparsity | None = None) -> Prepared:
    """Teachers, student and losses. `sparsity` prunes weights gradually during training; without it, zeros of the
    matrices that `config.keep_zeros` matches stay zero."""
    import jax

    from bertjax.distill.progressive import layer_by_layer
    from bertjax.learn.losses import ponder_cost
    from bertjax.learn.objective import bind_losses
    from bertjax.learn.step import Term
    from bertjax.prune.masks import apply_masks
    from bertjax.text.batches import inputs_of, places_of

    teachers, task = open_teachers(config, text)
    teacher = teachers[0]
    labelled = any(isinstance(loss, HardLabels) for loss in config.losses)
    train = text.training(task, tokenizer_of(teacher), labelled)
    student = config.student.initialise(teacher, config.seed, train.encoded)
    held_out = text.held_out(task, tokenizer_of(teacher))
    text.describe(train, held_out)
    if config.packed:
        check_packing(config, student.config, [t.config for t in teachers])
    batches = training_batches(config, config.data, train.encoded, student.config if config.packed else None)
    steps = config.total_steps(batches.steps_per_epoch)

    distillation = bind_losses(config.losses, student.config, [t.config for t in teachers], config.seed)
    extra = fitted_extra(distillation, student, teachers, train.encoded)
    phases, by_layer = layer_by_layer(config.progressive, student.model, teacher.model, steps)
    stored = [store_teacher(config, k, t, train.encoded, student.config) for k, t in enumerate(teachers)]
    live = [t.params if s is None or (phases and t is teacher) else {} for t, s in zip(teachers, stored, strict=True)]
    masks, update_masks = (sparsity or kept_zeros(config.keep_zeros))(student, steps)

    def learn(params, extra, batch, key):
        inputs, places = inputs_of(batch), places_of(batch)
        teacher_out = [
            t.model.apply({"params": own}, *inputs, **places) if s is None else s.output(batch)
            for t, s, own in zip(teachers, stored, batch["teachers"], strict=True)
        ]
        student_out = student.model.apply({"params": params}, *inputs, **places, rngs={"dropout": key})
        terms = distillation.terms(extra, student_out, teacher_out, batch)
        if student_out.trace is not None:
            terms["ponder"] = Term(*ponder_cost(student_out.trace, batch), config.ponder)
        return terms

    def objective(params, extra, state, batch, step, key):
        masks = update_masks(state, jax.lax.stop_gradient(params), step)
        params = apply_masks(params, masks)
        after_phases = lambda: learn(params, extra, batch, key)  # noqa: E731
        return by_layer(params, batch["teachers"][0], batch, step, key, after_phases), masks

    def finish(trained: Trained) -> Bundle:
        params = apply_masks(trained.params, trained.state)
        return dataclasses.replace(student, params=params, newly_initialized=())

    seconds = sum(s.seconds or 0 for s in stored if s) if any(stored) else None
    return Prepared(
        "distilling",
        student.params,
        objective,
        batches,
        finish,
        train,
        held_out,
        extra=extra,
        state=masks,
        constants={"teachers": live},
        add_to_batch=lambda batch: reduce(lambda b, s: b if s is None else s.add_to(b), stored, batch),
        phases=phases,
        record={"teacher_seconds": seconds},
    )


def open_teachers(config: Config, text: Text) -> tuple[list[Bundle], Task]:
    """The main teacher and the additional ones, and the task with labels in the order of their heads."""
    names, task = (config.model, *config.teachers), text.task()
    opened = [open_model(name, task, config.seed, **compute_settings(config)) for name in names]
    first, task = opened[0]
    for name, (teacher, _) in zip(names, opened, strict=True):
        if teacher.newly_initialized:
            raise UserError(f"{name} has no trained head to learn from; fine-tune it first (bertjax finetune).")
        if tokenizer_of(teacher).fingerprint != tokenizer_of(first).fingerprint:
            raise UserError(f"{name} has another vocabulary than {config.model}; teachers read the same tokens.")
        if teacher.config.labels != first.config.labels:
            labels = ", ".join(teacher.config.labels), ", ".join(first.config.labels)
            raise UserError(f"{name} has the labels {labels[0]}, {config.model} {labels[1]}: give them one order.")
    return [teacher for teacher, _ in opened], task


def fitted_extra(
    distillation: Distillation, student: Bundle, teachers: Sequence[Bundle], encoded: Encoded
) -> dict[str, Tree]:
    """The parameters of the losses, initialised by a fit to student and teacher for losses that have a `fit`."""
    from bertjax.student import sample_batches

    return {
        name: bound.loss.fit(own, student, teachers[bound.teacher], sample_batches(encoded))  # type: ignore[attr-defined]
        if hasattr(bound.loss, "fit")
        else own
        for (name, bound), own in zip(distillation.each.items(), distillation.extra.values(), strict=True)
    }


def check_packing(config: Config, student: BertConfig, teachers: Sequence[BertConfig]) -> None:
    """Refuses losses that read more of a teacher than its logits: they treat a row as one example."""

    def reads_inside(loss: Loss) -> bool:
        return not hasattr(loss, "needs") or any(loss.needs(student, t) != frozenset() for t in teachers)  # type: ignore[attr-defined]

    inside = [type(loss).__name__ for loss in config.losses if reads_inside(loss)]
    if config.progressive:
        inside.append("progressive")
    if inside:
        raise UserError(
            f"--packed: {inside[0]} would take the examples of a row for one; leave it out, or learn from SoftTargets "
            "and HardLabels alone."
        )
    for teacher in teachers:
        if teacher.unpackable:
            raise UserError(f"--packed: {teacher.unpackable}, for a teacher too; leave it out.")


def kept_zeros(pattern: str | None) -> Sparsity:
    """Masks that keep the zeros of matrices whose paths match the pattern."""
    from bertjax.prune.masks import nonzero_masks

    def masks_of(student: Bundle, steps: int) -> tuple[Masks, UpdateMasks]:
        del steps
        masks = nonzero_masks(student.params, pattern) if pattern else {}
        return masks, lambda masks, params, step: masks

    return masks_of


def store_teacher(
    config: Config, number: int, teacher: Bundle, encoded: Encoded, student: BertConfig
) -> StoredOutputs | None:
    """The teacher's stored outputs, or None if it has to run in every step."""
    if not config.store or not all(hasattr(loss, "needs") for loss in config.losses):
        return None
    from bertjax.distill.teacher import stored_outputs, teacher_bytes
    from bertjax.engine.hosts import process_shard
    from bertjax.engine.log import Progress, note
    from bertjax.storage.cache import cache_dir
    from bertjax.storage.paths import is_remote

    needs = [loss.needs(student, teacher.config) for loss in config.losses]  # type: ignore[attr-defined]
    if None in needs:
        return None
    wanted, folder = frozenset().union(*needs), as_path(config.outputs or as_path(config.out) / "teacher")
    if is_remote(folder):  # stored arrays are read row by row, which needs a local disk
        folder = cache_dir() / "teacher"
    if process_shard()["process_count"] > 1:  # each process computes all outputs itself, so none are sent
        folder = folder / f"process_{process_shard()['process_index']}"
    size = teacher_bytes(teacher, encoded, wanted) / 1e6
    note(f"the teacher's outputs for {len(encoded)} rows take {size:.0f} MB in {folder}")
    bar, before = None, 0

    def progress(done: int, total: int) -> None:
        nonlocal bar, before
        bar = bar or Progress("running the teacher", total, 0)
        bar.update(done, done - before, None)
        before = done

    stored = stored_outputs(folder, teacher, encoded, wanted, progress=progress, name=f"teacher_{number}")
    if bar:
        bar.close()
    return stored


def run(recipe: Distill, context: Context) -> StageResult:
    """The stage: distils the context's model into its folder."""
    teacher, student = context.teacher or context.model, recipe.student
    if teacher != context.model:
        student = Student(student.num_hidden_layers, init_from=context.model)
    given = {"model": teacher, "student": student, "data": context.data, "out": context.out}
    config = Config(**{**vars(recipe), **given}, outputs=context.outputs)
    train_unscored(config, Text.of_context(context), prepare)
    return result_of(context.out, context.data, control_of(recipe, context.control))


SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "embedding_size")


def control_of(recipe: Distill, before: Control | None) -> Control:
    """The no-teacher baseline: the same student, trained for as many steps on the labels alone. Sizes that the student
    leaves open are those of the previous distillation's student."""
    earlier = before.student if before else None
    open_sizes = [size for size in SIZES if earlier and getattr(recipe.student, size) is None]
    student = dataclasses.replace(recipe.student, **{size: getattr(earlier, size) for size in open_sizes})
    return Control(labels_only(recipe, student), None, student)


def labels_only(recipe: Distill, student: Student | None) -> Finetune:
    """A fine-tuning with the settings of a distillation, on labels alone."""
    names = {f.name for f in dataclasses.fields(Finetune)} & {f.name for f in dataclasses.fields(recipe)}
    shared = {name: getattr(recipe, name) for name in names - {"name", "student"}}
    return Finetune(**shared, name="without-teacher", student=student)
