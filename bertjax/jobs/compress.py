"""A compression: stages in order, or a search within bounds, followed by measurement and the report.

A stage that fails ends the sequence, but the models made before it are still measured and reported. The same command
then continues with what failed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjax.engine.log import Log, note
from bertjax.errors import UserError
from bertjax.jobs.data import Text, has_trained_head
from bertjax.jobs.report import Model
from bertjax.jobs.stages import FAILED, Failure, attempt, leave_if, left_out, planned, run_in_order
from bertjax.recipes.compress import Config
from bertjax.recipes.stage import Context, Stage
from bertjax.storage.paths import as_path, is_remote

if TYPE_CHECKING:
    from bertjax.jobs.budget import Finalist
    from bertjax.measure.runtimes import FileRuntimes
    from bertjax.report.models import Report
    from bertjax.text.facts import Facts
    from bertjax.text.tasks import Task


class Compression(NamedTuple):
    """What all steps of one compression share."""

    config: Config
    out: Path
    text: Text
    task: Task
    log: Log
    failures: list[Failure]

    def context(self, model: str, folder: str) -> Context:
        """The context of a stage that begins with this model and works in this folder."""
        return Context(model, self.text.data, self.text.reader, str(self.out / "stages" / folder))


def check(stages: Sequence[Stage], chooses: bool, runtime: FileRuntimes) -> None:
    """Refuses to start hours of work without the packages that it needs, and prints the processor's support for integer
    products."""
    from bertjax.jobs.export import require_packages
    from bertjax.machine.processor import integer_products, processor_features
    from bertjax.measure.faster import require_runtime

    for stage in stages:
        stage.check()
    if chooses or any(stage.exports for stage in stages):
        require_packages()
        require_runtime(runtime)
    if chooses or any(stage.quantizes for stage in stages):
        note(integer_products(processor_features()))


def run_stages(job: Compression) -> list[Model]:
    """Runs every stage in order; returns the models for the report, the baseline first and the result last."""
    from bertjax.report.models import WITHOUT_TEACHER

    models, stages = given_teacher(job)
    examples = job.text.training_examples(job.task)
    note(f"to do: {planned(stages, len(examples))}; then everything is measured")
    began = time.monotonic()

    def announce(number: int, name: str) -> None:
        job.log.event("stage", number, name=name)
        if number > 1:
            note(f"{(time.monotonic() - began) / 60:.1f} minutes; stage {number} of {len(stages)}: {name}")

    context = job.context(job.config.model, "")
    done = run_in_order(stages, context, announce, job.failures)
    refuse_if_nothing(bool(done), job.failures)
    models += [Model(stage.name, result.bundle) for stage, result in done]
    distilled = [result for _, result in done if result.control]
    if distilled and examples.labels is not None:
        job.log.event("stage", len(stages) + 1, name="without-teacher")
        control, data = distilled[-1].control, distilled[-1].data
        assert control is not None
        start = job.context(control.model or job.config.model, "without-teacher")._replace(data=data)
        add(
            job,
            partial(run_stage, control.stage, start, WITHOUT_TEACHER),
            control.stage.name,
            as_path(start.out),
            models,
        )
    if models[-1].exported:
        add(job, partial(exported, job, models[0]), f"{models[0].name}-onnx", job.out / "stages", models)
    return models


def add(job: Compression, make: Callable[[], Model], name: str, folder: Path, models: list[Model]) -> None:
    """Adds a baseline to the report, after the first model; one that fails is left out."""
    if (model := attempt(name, folder, make, job.failures)) is not None:
        models.insert(1, model)


def run_stage(stage: Stage, context: Context, name: str) -> Model:
    """The model that a stage makes."""
    return Model(name, stage.run(context).bundle)


def given_teacher(job: Compression) -> tuple[list[Model], list[Stage]]:
    """The given model as the teacher if it has a trained head already, and the remaining stages."""
    stages = job.config.planned_stages()
    if not (stages[0].finetunes and has_trained_head(job.config.model, job.task)):
        return [], stages
    note(f"{job.config.model} already has a head for this task; it is used as the teacher without training")
    return [Model(stages[0].name, resolve_model(job.config.model))], stages[1:]


def exported(job: Compression, model: Model) -> Model:
    """A model of this run, exported to ONNX."""
    from bertjax.engine.hosts import on_main_process
    from bertjax.jobs.export import export_once

    name = f"{model.name}-onnx"
    folder = job.out / "stages" / name / "bundle"
    on_main_process(lambda: export_once(model.folder, folder))
    return Model(name, folder)


def teacher_of(job: Compression) -> Model:
    """The teacher of a search: the given model, or what the first stage makes of it."""
    models, stages = given_teacher(job)
    if models:
        return models[0]
    first = stages[0]
    if not first.finetunes:
        raise UserError(
            f"{job.config.model} has no trained head, and the first stage is not Finetune. Give a fine-tuned model."
        )
    return run_stage(first, job.context(job.config.model, first.name), first.name)


def refuse_if_nothing(finished: bool, failures: Sequence[Failure]) -> None:
    """Raises the first error if nothing was finished."""
    if not finished:
        raise failures[0].error


def conclude(job: Compression, models: list[Model], facts: tuple[Facts, ...], files: Sequence[Finalist] = ()) -> None:
    """Measures the models, writes the report, and copies the result to its place. Of the `files` of a search, only the
    one that is chosen is measured and reported."""
    from bertjax.engine import commands
    from bertjax.engine.fields import to_dict
    from bertjax.engine.record import finish, update_record
    from bertjax.jobs.budget import MISSED, choose, concluded
    from bertjax.jobs.next_steps import next_steps
    from bertjax.jobs.report import build_report
    from bertjax.report.write import show, write_report

    config, out = job.config, job.out
    chosen = choose(files, config) if files else None
    models = [*models, *([chosen.model] if chosen else [])]
    report = build_report(
        models,
        job.text,
        out,
        settings=to_dict(config),
        task=job.task,
        next_steps=next_steps(config, models, job.task),
        command=commands.command_for("compress", config),
        base=config.model,
        facts=facts,
        failures=job.failures,
        runtime=config.runtime,
    )
    models = [model for model in models if model.name in [row.name for row in report.rows]]
    kept, missed = models[-1], None
    if chosen:
        refuse_if_nothing(chosen.model in models, job.failures)
        report, missed = concluded(report, chosen, files, config)
    if failed := left_out(job.failures):
        report = dataclasses.replace(report, conclusion=f"{report.conclusion} {failed}".strip())
    write_report(report, out)
    ship(kept, report, out)
    show(report)
    job.log.event("finished", len(config.stages))
    update_record(out, missed=missed)  # before the run is marked as finished
    if not job.failures:
        finish(out, {row.name: row.score for row in report.rows})
    note(f"the report: {out / 'report.md'}")
    leave_if(missed and f"{missed} {failed}".strip(), MISSED)
    leave_if(failed, FAILED)


def ship(kept: Model, report: Report, out: Path) -> None:
    """Copies the result to OUT/bundle and, if exported, to OUT/exported. Each copy contains the report, which names
    these folders."""
    import shutil

    from bertjax.export.folder import write_origin
    from bertjax.measure.onnx import origin_of
    from bertjax.storage import manifest
    from bertjax.storage.paths import absolute, atomic_folder, local, relative

    sources = {"bundle": kept.folder}
    if kept.exported:
        origin = origin_of(kept.folder)
        assert origin is not None, kept.folder  # an export of this run names its origin
        sources = {"bundle": origin, "exported": kept.folder}
    moved = {absolute(folder): absolute(out / name) for name, folder in sources.items()}
    rows = [
        dataclasses.replace(
            row,
            bundle=row.bundle and moved.get(row.bundle, row.bundle),
            exported_from=row.exported_from and moved.get(row.exported_from, row.exported_from),
        )
        for row in report.rows
    ]
    report = dataclasses.replace(report, rows=tuple(rows))
    for name, folder in sources.items():
        with atomic_folder(out / name) as filled:
            shutil.copytree(local(folder), filled, dirs_exist_ok=True)
            manifest.put_text(filled, "report.json", report.json_text(out / name))
            if name == "exported":
                write_origin(filled, relative(out / "bundle", out / name))


def resolve_model(model: str) -> Any:
    """The folder of a model, local or in a bucket."""
    from bertjax.bundle import resolve

    return as_path(model) if is_remote(model) else resolve(model)
