"""A model that is made smaller once and then trained with itself as it was before as its teacher: pruning and token
dropping.

`OUT/cut` holds the smaller model before that training, `OUT/recovery` the training, and `OUT/bundle` what ships.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from bertjax.jobs.data import Text
from bertjax.jobs.distill import labels_only, prepare
from bertjax.jobs.training import result_of, train_unscored
from bertjax.recipes.distill import Config as Distillation
from bertjax.recipes.distill import Recovery
from bertjax.recipes.stage import Context, Control, StageResult
from bertjax.storage.paths import as_path
from bertjax.student import Student

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.learn.transform import Transform

ConfigOf = TypeVar("ConfigOf", bound=Recovery)


def smaller_and_recovered(
    config: Any,
    text: Text,
    make: Callable[[], Bundle],
    transforms: tuple[Transform, ...] = (),
    keep_zeros: str | None = None,
) -> Bundle:
    """Makes the smaller model with `make`, trains it if configured, and returns what it saved as `config.out/bundle`.

    `config` is a `Recovery` with the fields `model`, `teacher`, `data` and `out`. The others are of its training.
    """
    import bertjax
    from bertjax.engine.hosts import broadcast_from_main, on_main_process

    out = as_path(config.out)
    source = out / "cut"
    if not broadcast_from_main((source / "config.json").is_file):
        # On one process only: measured times differ between processes.
        on_main_process(lambda: bertjax.save(make(), out / "cut"))
    if config.finetune_after:
        recover(config, text._replace(verbose=False), transforms, keep_zeros)
        source = out / "recovery" / "bundle"
    on_main_process(partial(ship, source, out / "bundle"))
    return bertjax.load(out / "bundle")


def recover(config: Any, text: Text, transforms: tuple[Transform, ...], keep_zeros: str | None) -> None:
    """Trains the model of `config.out/cut` with `config.teacher`, or else `config.model`, as its teacher."""
    from bertjax.engine.record import read_record, update_record

    out = as_path(config.out)
    names = {one.name for one in dataclasses.fields(Distillation)}
    recipe = {name: value for name, value in vars(config).items() if name in names}
    recipe |= {
        "model": config.teacher or config.model,
        "student": Student(init_from=str(out / "cut"), as_is=True),
        "keep_zeros": keep_zeros,
        "out": str(out / "recovery"),
    }
    train_unscored(Distillation(**recipe), text, partial(prepare, transforms=transforms))
    update_record(out, training_step_bytes=(read_record(out / "recovery") or {}).get("training_step_bytes"))


def ship(source: Any, target: Any) -> None:
    """Copies a model folder to its final place."""
    import shutil

    from bertjax.storage.paths import atomic_folder, local

    with atomic_folder(target) as folder:
        shutil.copytree(local(source), folder, dirs_exist_ok=True)


def run_stage(
    recipe: Recovery, context: Context, config_class: type[ConfigOf], work: Callable[[ConfigOf, Text], object]
) -> StageResult:
    """The stage: `work` makes the context's model smaller in the context's folder."""
    from bertjax.engine.record import begin, finish

    settings = {one.name: getattr(recipe, one.name) for one in dataclasses.fields(recipe) if one.init}
    given = {name: getattr(context, name) for name in ("model", "data", "out", "teacher", "outputs")}
    config, out = config_class(**settings, **given), as_path(context.out)
    if not begin(out, config, context.reader):
        work(config, Text.of_context(context))
        finish(out, {})
    trained = result_of(str(out / "recovery"), context.data)
    return trained._replace(bundle=out / "bundle", control=control_of(recipe, context))


def control_of(recipe: Recovery, context: Context) -> Control:
    """The no-teacher baseline: the smaller model before its training, trained on labels alone."""
    student = context.control.student if context.control else None
    return Control(labels_only(recipe, None), str(as_path(context.out) / "cut"), student)
