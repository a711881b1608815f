"""Stages in order or a search within bounds, and what is kept of them."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.jobs.report import Model
from bertjax.jobs.stages import FAILED, Done, Failure, attempt, leave_if, left_out, run_in_order, to_do
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.prune import Prune
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context, Stage
from bertjax.storage.paths import as_path, is_remote


def main(config: Config) -> None:
    from bertjax.engine.hosts import is_main_process, on_main_process
    from bertjax.engine.log import Log
    from bertjax.engine.record import begin, read_record
    from bertjax.jobs.budget import MISSED
    from bertjax.jobs.data import tell_first, training_task

    out, stages = as_path(config.out), config.planned_stages()
    prepare(stages, config.chooses)
    if begin(out, config):
        leave_if((read_record(out) or {}).get("missed"), MISSED)
        return
    facts = tell_first(config.data, config.model, training_task(config.data))
    failures: list[Failure] = []
    with contextlib.closing(Log(out, "compressing", len(stages), start=None, quiet=not is_main_process())) as log:
        models = (try_candidates if config.chooses else run_stages)(config, out, log, failures)
        on_main_process(lambda: conclude(config, models, failures, out, log, facts))


def conclude(config: Config, models: list[Model], failures: list[Failure], out: Path, log: Any, facts: Any) -> None:
    """Measures what came out, and says it."""
    from bertjax.engine import commands
    from bertjax.engine.fields import to_dict
    from bertjax.engine.log import note
    from bertjax.engine.record import finish, update_record
    from bertjax.jobs.budget import MISSED, choose
    from bertjax.jobs.data import training_task
    from bertjax.jobs.next_steps import next_steps
    from bertjax.jobs.report import build_report
    from bertjax.report.write import write_report

    command, asked, task = commands.asked("compress", config), to_dict(config), training_task(config.data)
    told = {"next_steps": next_steps(config, models, task), "command": command, "base": config.model, "facts": facts}
    report = build_report(models, config.data, out, asked=asked, task=task, failures=failures, **told)
    models = [model for model in models if model.name in [row.name for row in report.rows]]
    kept, missed = models[-1], None
    if config.chooses:
        refuse_if_nothing(len(models) > 2, failures)
        kept, report, missed = choose(report, models, config)
    if failed := left_out(failures):
        report = dataclasses.replace(report, conclusion=f"{report.conclusion} {failed}".strip())
    write_report(report, out)
    ship(kept, report, out)
    show(report)
    log.event("finished", len(config.stages))
    update_record(out, missed=missed)  # before it counts as finished
    if not failures:
        finish(out, {row.name: row.score for row in report.rows})
    note(f"the report: {out / 'report.md'}")
    leave_if(missed and f"{missed} {failed}".strip(), MISSED)
    leave_if(failed, FAILED)


def prepare(stages: list[Stage], chooses: bool) -> None:
    """What has to be known before hours of work: missing packages, and what this processor cannot do."""
    from bertjax.engine.log import note
    from bertjax.jobs.export import require_packages
    from bertjax.machine.processor import integer_products, processor_features

    if chooses or any(isinstance(stage, Export) for stage in stages):
        require_packages()
    if chooses or any(isinstance(stage, Quantize) for stage in stages):
        note(integer_products(processor_features()))


def refuse_if_nothing(finished: bool, failures: list[Failure]) -> None:
    """Where nothing came out, the reason why is all there is to say."""
    if not finished:
        raise failures[0].error


def ship(kept: Model, report: Any, out: Path) -> None:
    """The result at OUT/bundle and, exported, at OUT/exported, each with the report, there naming these folders."""
    import shutil

    from bertjax.export.folder import write_origin
    from bertjax.measure.onnx import origin_of
    from bertjax.storage import manifest
    from bertjax.storage.paths import absolute, atomic_folder, local, relative

    sources = {"bundle": kept.folder}
    if kept.exported:
        origin = origin_of(kept.folder)
        assert origin is not None, kept.folder  # it was exported a moment ago
        sources = {"bundle": origin, "exported": kept.folder}
    moved = {absolute(folder): absolute(out / name) for name, folder in sources.items()}
    rows = [
        dataclasses.replace(
            row,
            bundle=moved.get(row.bundle, row.bundle),
            exported_from=moved.get(row.exported_from, row.exported_from),
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


def run_stages(config: Config, out: Path, log: Any, failures: list[Failure]) -> list[Model]:
    """Every stage in order; returns the models for the report, the baseline first and the result last."""
    import time

    from bertjax.engine.log import note
    from bertjax.jobs.data import has_labels, training_examples, training_task
    from bertjax.report.model_report import WITHOUT_TEACHER

    models, stages, task = *teacher_as_it_is(config), training_task(config.data)
    context = Context(config.model, config.data, str(out / "stages"))
    note(f"to do: {to_do(stages, len(training_examples(config.data, task)))}; then everything is measured")
    began = time.monotonic()

    def announce(number: int, name: str) -> None:
        log.event("stage", number, name=name)
        if number > 1:
            note(f"{(time.monotonic() - began) / 60:.1f} minutes; stage {number} of {len(stages)}: {name}")

    done = run_in_order(stages, context, announce, failures)
    refuse_if_nothing(bool(done), failures)
    models += [Model(stage.name, bundle) for stage, _, bundle in done]
    taught = [one for one in done if isinstance(one.stage, Distill)]
    if taught and has_labels(config.data, task):
        folder = out / "stages" / "without-teacher"
        log.event("stage", len(stages) + 1, name="without-teacher")
        stage, begins = without_teacher(taught, config.model)
        make = partial(made, stage, Context(begins, taught[-1].data, str(folder)), WITHOUT_TEACHER)
        add(make, stage.name, folder, models, failures)
    if models[-1].exported:
        add(partial(exported, models[0], out), f"{models[0].name}-onnx", out / "stages", models, failures)
    return models


def add(make: Callable[[], Model], name: str, folder: Any, models: list[Model], failures: list[Failure]) -> None:
    """A model that the report is the better for, behind the baseline."""
    found = attempt(name, folder, make)
    if isinstance(found, Failure):
        failures.append(found)
    else:
        models.insert(1, found)


def made(stage: Stage, context: Context, name: str) -> Model:
    """What a stage leaves."""
    stage.run(context)
    return Model(name, as_path(context.out) / "bundle")


def teacher_as_it_is(config: Config) -> tuple[list[Model], list[Stage]]:
    """The model that needs no fine-tuning any more, if it does not, and the stages that are left."""
    from bertjax.engine.log import note
    from bertjax.jobs.data import training_task

    stages = config.planned_stages()
    if not (isinstance(stages[0], Finetune) and has_trained_head(config.model, training_task(config.data))):
        return [], stages
    note(f"{config.model} already has a head for this task: it is the teacher as it is")
    return [Model(stages[0].name, resolve_model(config.model))], stages[1:]


def exported(model: Model, out: Path) -> Model:
    """A model of this run as an ONNX file."""
    from bertjax.engine.hosts import on_main_process
    from bertjax.jobs.export import export_once

    name = f"{model.name}-onnx"
    on_main_process(lambda: export_once(model.folder, out / "stages" / name / "bundle"))
    return Model(name, out / "stages" / name / "bundle")


def try_candidates(config: Config, out: Path, log: Any, failures: list[Failure]) -> list[Model]:
    """The teacher and, exported, itself and everything that was made of it; for the report."""
    from bertjax.engine.log import note
    from bertjax.jobs.budget import depth_of, plans, worth_integers

    models, stages = teacher_as_it_is(config)
    if not models:
        first = stages[0]
        if not isinstance(first, Finetune):
            raise UserError(f"{config.model} has no trained head, and the first stage is no Finetune to give it one.")
        models = [made(first, Context(config.model, config.data, str(out / "stages" / first.name)), first.name)]
    models.append(exported(models[0], out))  # what all are compared with
    bundles = {"": models[0]}
    if not (integers := worth_integers(config)):
        note("so one candidate is in integers, and not three; all three are tried where --max_mb asks for size")
    for number, plan in enumerate(plans(config.planned_stages(), depth_of(models[0].folder), integers), start=1):
        log.event("candidate", number, name=plan.name)
        if plan.begins not in bundles:
            continue
        folder = out / "stages" / plan.name
        context = Context(str(bundles[plan.begins].folder), config.data, str(folder))
        found = attempt(plan.name, folder, partial(made, plan.stage, context, plan.name))
        if not isinstance(found, Failure):
            bundles[plan.name] = found
            found = attempt(plan.name, folder, partial(exported, found, out))
        (failures if isinstance(found, Failure) else models).append(found)  # type: ignore[arg-type]
    return models


def show(report: Any) -> None:
    """The table and what it means, on the terminal."""
    from bertjax.report.model_text import model_table, verdicts
    from bertjax.report.write import print_report

    print_report(model_table(report), verdicts(report))
    if report.conclusion:
        print(report.conclusion)


def has_trained_head(model: str, task: Any) -> bool:
    """Whether the model needs no fine-tuning: it has a head for this kind of task, with these labels."""
    from bertjax.jobs.data import open_model

    return not open_model(model, task, 0)[0].newly_initialized


def resolve_model(model: str) -> Any:
    from bertjax.bundle import resolve

    return as_path(model) if is_remote(model) else resolve(model)


def without_teacher(taught: list[Done], model: str) -> tuple[Stage, str]:
    """The same small model with as many steps on the labels alone, and the model that it begins with. What the last of
    several students leaves open is as in the one before it; a model whose parts were taken out begins as it was then,
    and as many of its weights are 0."""
    stages: list[Any] = [one.stage for one in taught]
    last, sizes = stages[-1], ("hidden_size", "num_attention_heads", "intermediate_size", "embedding_size")
    if isinstance(last, Prune):
        model, student = str(taught[-1].bundle.parent / "cut"), None
        if last.zeros:
            done: dict[str, Any] = {"layers": 0.0, "heads": 0.0, "neurons": 0.0, "speedup": None}
            return dataclasses.replace(last, name="without-teacher", losses=(HardLabels(),), **done), model
    else:
        chosen = {name: [size for s in stages if (size := getattr(s.student, name)) is not None] for name in sizes}
        student = dataclasses.replace(last.student, **{name: given[-1] for name, given in chosen.items() if given})
    names = {f.name for f in dataclasses.fields(Finetune)} & {f.name for f in dataclasses.fields(last)}
    shared = {name: getattr(last, name) for name in names - {"name", "student"}}
    return Finetune(**shared, name="without-teacher", student=student), model
