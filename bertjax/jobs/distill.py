"""Distillation: teachers, their stored outputs, the objective, and the trained student.

If the losses read only what can be stored, each teacher runs once over the data before training. Otherwise it runs in
every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, compute_settings, open_model, tokenizer_of
from bertjax.jobs.training import Prepared, result_of, supervised, task_losses, train_unscored
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Config, Distill, DistillationStage
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Context, Control, StageResult
from bertjax.storage.paths import as_path
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.distill.teacher import StoredOutputs
    from bertjax.learn.transform import Transform
    from bertjax.model import BertConfig
    from bertjax.text.encode import Encoded
    from bertjax.text.tasks import Task


def prepare(config: Config, text: Text, transforms: Sequence[Transform] = ()) -> Prepared:
    """Teachers, student and losses, and the transforms of a job that distils in its own way."""
    names = (config.model, *config.teachers)
    teachers, task = open_teachers(names, text.task(), config.seed, **compute_settings(config))
    labelled = any(loss.reads_labels for loss in config.losses)
    train = text.training(task, tokenizer_of(teachers[0]), labelled)
    student = config.student.initialise(teachers[0], config.seed, train.encoded)
    held_out = text.held_out(task, tokenizer_of(teachers[0]))
    text.describe(train, held_out)
    folder = as_path(config.outputs or as_path(config.out) / "teacher")
    return prepare_student(config, "distilling", student, teachers, (train, held_out), text.data, folder, transforms)


def prepare_student(
    config: DistillationStage,
    label: str,
    student: Bundle,
    teachers: Sequence[Bundle],
    splits: tuple[Split, Split],
    data: Data,
    folder: Any,
    transforms: Sequence[Transform] = (),
    **options: Any,
) -> Prepared:
    """A run in which a student learns from teachers, whose outputs are stored in `folder`. Zeros that are kept are
    masked before any other transform."""
    from bertjax.learn.assemble import loss_names
    from bertjax.learn.objective import Teacher
    from bertjax.prune.transforms import KeepZeros

    losses = task_losses(loss_names(config.losses), student.config, config.ponder)
    if not (config.progressive or any(loss.reads_teacher for loss in config.losses)):
        teachers = ()
    stored = [store_teacher(config, folder, k, t, splits[0].encoded, student.config) for k, t in enumerate(teachers)]
    zeros = (KeepZeros(config.keep_zeros),) if config.keep_zeros else ()
    return supervised(
        config,
        data,
        label,
        student,
        losses,
        splits,
        teachers=[Teacher(*pair) for pair in zip(teachers, stored, strict=True)],
        transforms=(*zeros, *transforms),
        packed=config.packed,
        progressive=config.progressive,
        **options,
    )


def open_teachers(names: Sequence[str], task: Task, seed: int, **settings: Any) -> tuple[list[Bundle], Task]:
    """The main teacher and the additional ones, and the task with labels in the order of their heads."""
    opened = [open_model(name, task, seed, **settings) for name in names]
    first, task = opened[0]
    for name, (teacher, _) in zip(names, opened, strict=True):
        if teacher.newly_initialized:
            raise UserError(f"{name} has no trained head to learn from; fine-tune it first (bertjax finetune).")
        if tokenizer_of(teacher).fingerprint != tokenizer_of(first).fingerprint:
            raise UserError(f"{name} has another vocabulary than {names[0]}; teachers read the same tokens.")
        if teacher.config.labels != first.config.labels:
            labels = ", ".join(teacher.config.labels), ", ".join(first.config.labels)
            raise UserError(f"{name} has the labels {labels[0]}, {names[0]} {labels[1]}: give them one order.")
    return [teacher for teacher, _ in opened], task


def store_teacher(
    config: DistillationStage, folder: Any, number: int, teacher: Bundle, encoded: Encoded, student: BertConfig
) -> StoredOutputs | None:
    """The teacher's stored outputs, or None if it has to run in every step."""
    if not config.store:
        return None
    from bertjax.distill.teacher import stored_outputs, teacher_bytes
    from bertjax.engine.hosts import process_shard
    from bertjax.engine.log import Progress, note
    from bertjax.storage.cache import cache_dir
    from bertjax.storage.paths import is_remote

    needs = [loss.needs(student, teacher.config) for loss in config.losses]
    if None in needs:
        return None
    wanted = frozenset().union(*(need for need in needs if need))
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
