"""Distillation: teachers, their stored outputs, the objective, and the student that comes out."""

from collections.abc import Callable
from typing import Any

from bertjax.jobs.data import compute_settings
from bertjax.recipes.distill import Config, Distill
from bertjax.recipes.stage import Context
from bertjax.storage.paths import as_path
from bertjax.student import Student


def main(config: Config, score: bool = True, thinner: Any = None) -> None:
    """`thinner`, for weights that go while the student learns: `(student, steps) -> (masks, update)`, the masks at the
    start and `(masks, params, step) -> masks`."""
    import dataclasses
    from functools import partial, reduce

    import jax

    from bertjax.distill.progressive import layer_by_layer
    from bertjax.engine.loop import fit
    from bertjax.engine.record import begin, finish, keep, update_record
    from bertjax.jobs.data import read_split, score_of, tell, training_batches
    from bertjax.learn.losses import ponder_cost
    from bertjax.learn.objective import bind_losses
    from bertjax.learn.step import Term
    from bertjax.prune.masks import apply_masks
    from bertjax.student import sample_batches
    from bertjax.text.batches import inputs_of, places_of

    out = as_path(config.out)
    if begin(out, config):
        return
    teachers, task = open_teachers(config)
    teacher = teachers[0]
    labelled = any(type(loss).__name__ == "HardLabels" for loss in config.losses)
    train = read_split(config.data, config.data.train, task, teacher.tokenizer, "train", labelled)
    student = config.student.initialise(teacher, config.seed, train.encoded)
    held_out = read_split(config.data, config.data.eval, task, teacher.tokenizer, "test")
    if score and config.compile_only is None:
        tell(config.data, train, held_out)
    if config.packed:
        check_packing(config, student.config, [t.config for t in teachers])
    data = training_batches(config, train.encoded, student.config)

    taught = bind_losses(config.losses, student.config, [t.config for t in teachers], config.seed)
    extra = {
        name: lesson.loss.fit(own, student, teachers[lesson.teacher], sample_batches(train.encoded))  # type: ignore[attr-defined]
        if hasattr(lesson.loss, "fit")
        else own
        for (name, lesson), own in zip(taught.each.items(), taught.extra.values(), strict=True)
    }
    steps = config.total_steps(data.steps_per_epoch)
    phases, by_layer = layer_by_layer(config.progressive, student.model, teacher.model, steps)
    stored = [store_teacher(config, k, t, train.encoded, student.config) for k, t in enumerate(teachers)]
    live = [t.params if s is None or (phases and t is teacher) else {} for t, s in zip(teachers, stored, strict=True)]

    masks, thinned = (thinner or partial(zeros, config.keep_zeros))(student, steps)

    def learn(params, extra, batch, key):
        inputs, places = inputs_of(batch), places_of(batch)
        said = [
            t.model.apply({"params": own}, *inputs, **places) if s is None else s.output(batch)
            for t, s, own in zip(teachers, stored, batch["teachers"], strict=True)
        ]
        guess = student.model.apply({"params": params}, *inputs, **places, rngs={"dropout": key})
        found = taught.terms(extra, guess, said, batch)
        if guess.trace is not None:
            found["ponder"] = Term(*ponder_cost(guess.trace, batch), config.ponder)
        return found

    def objective(params, extra, state, batch, step, key):
        masks = thinned(state, jax.lax.stop_gradient(params), step)
        params = apply_masks(params, masks)
        later = lambda: learn(params, extra, batch, key)  # noqa: E731
        return by_layer(params, batch["teachers"][0], batch, step, key, later), masks

    trained = fit(
        config,
        out,
        "distilling",
        params=student.params,
        extra=extra,
        objective=objective,
        batches=data,
        prepare=lambda batch: reduce(lambda b, s: b if s is None else s.add_to(b), stored, batch),
        constants={"teachers": live},
        state=masks,
        phases=phases,
    )
    student = dataclasses.replace(student, params=apply_masks(trained.params, trained.state), newly_initialized=())
    keep(student, out / "bundle")
    result = {task.metric: score_of(student, held_out)} if score else {}
    update_record(out, teacher_seconds=sum(s.seconds or 0 for s in stored if s) if any(stored) else None)
    finish(out, result, train=train.encoded.fingerprint, eval=held_out.encoded.fingerprint)


def open_teachers(config: Config) -> tuple[list[Any], Any]:
    """The model and the other teachers, and the task with labels in the order of their heads."""
    from bertjax.errors import UserError
    from bertjax.jobs.data import open_model, training_task

    names, task = (config.model, *config.teachers), training_task(config.data)
    settings = compute_settings(config)
    opened = [open_model(name, task, config.seed, **settings) for name in names]
    first, task = opened[0]
    for name, (teacher, _) in zip(names, opened, strict=True):
        if teacher.newly_initialized:
            raise UserError(f"{name} has no trained head to learn from; fine-tune it first (train.finetune).")
        if teacher.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise UserError(f"{name} has another vocabulary than {config.model}; teachers read the same pieces.")
        if teacher.config.labels != first.config.labels:
            labels = ", ".join(teacher.config.labels), ", ".join(first.config.labels)
            raise UserError(f"{name} has the labels {labels[0]}, {config.model} {labels[1]}: give them one order.")
    return [teacher for teacher, _ in opened], task


def check_packing(config: Config, student: Any, teachers: list[Any]) -> None:
    """What looks inside a teacher takes a row for one text."""
    from bertjax.errors import UserError

    def looks_inside(loss: Any) -> bool:
        return not hasattr(loss, "needs") or any(loss.needs(student, teacher) != frozenset() for teacher in teachers)

    inside = [type(loss).__name__ for loss in config.losses if looks_inside(loss)]
    if config.progressive:
        inside.append("progressive")
    if inside:
        raise UserError(
            f"--packed: {inside[0]} would take the texts of a row for one; leave it out, or learn from SoftTargets and "
            "HardLabels alone."
        )
    for teacher in teachers:
        if teacher.unpackable:
            raise UserError(f"--packed: {teacher.unpackable}, for a teacher too; leave it out.")


def zeros(keep: str | None, student: Any, _: int) -> tuple[Any, Callable]:
    """Masks that keep 0 what is 0 now, and that they stay as they are."""
    from bertjax.prune.masks import nonzero_masks

    masks = nonzero_masks(student.params, keep) if keep else {}
    return masks, lambda masks, params, step: masks


def store_teacher(config: Config, number: int, teacher: Any, encoded: Any, student: Any) -> Any:
    """The teacher's stored outputs, or None where it has to run in every step."""
    if not config.store or not all(hasattr(loss, "needs") for loss in config.losses):
        return None
    from bertjax.distill.teacher import stored_bytes, stored_outputs
    from bertjax.engine.hosts import process_shard
    from bertjax.engine.log import Progress, note
    from bertjax.storage.cache import cache_dir
    from bertjax.storage.paths import is_remote

    asked = [loss.needs(student, teacher.config) for loss in config.losses]  # type: ignore[attr-defined]
    if None in asked:
        return None
    needs, folder = frozenset().union(*asked), as_path(config.outputs or as_path(config.out) / "teacher")
    if is_remote(folder):  # the arrays are read row by row, from a disk
        folder = cache_dir() / "teacher"
    if process_shard()["process_count"] > 1:  # each asks for itself, at the same time: no text goes over the network
        folder = folder / f"process_{process_shard()['process_index']}"
    size = stored_bytes(teacher, encoded, needs) / 1e6
    note(f"the teacher's outputs for {len(encoded)} rows take {size:.0f} MB in {folder}")
    bar, before = None, 0

    def progress(done: int, total: int) -> None:
        nonlocal bar, before
        bar = bar or Progress("asking the teacher", total, 0)
        bar.update(done, done - before, None)
        before = done

    stored = stored_outputs(folder, teacher, encoded, needs, progress=progress, name=f"teacher_{number}")
    if bar:
        bar.close()
    return stored


def run(recipe: Distill, context: Context) -> None:
    """The stage: distils the context's model into its folder."""
    teacher, student = context.teacher or context.model, recipe.student
    if teacher != context.model:
        student = Student(student.num_hidden_layers, init_from=context.model)
    given = {"model": teacher, "student": student, "data": context.data, "out": context.out}
    main(Config(**{**vars(recipe), **given}, outputs=context.outputs), score=False)  # the report scores every model
