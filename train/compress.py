"""The main job: stages that make a model smaller, and the proof of what that gained and cost.

    bertjax compress --config=quickstart --out=runs/quickstart
    bertjax compress --config=quickstart --model=./my-bert --data.train=a.tsv --data.eval=b.tsv --out=runs/mine

Each stage takes a model folder and leaves one, in OUT/stages; a finished stage is not run again, and an unfinished one
continues. A model that already has a trained head for the task is the teacher as it is. At the end every model is
measured beside two honest ones, the same small model trained without a teacher and a bag of words: OUT/report.md. After
a last stage that exports, the first model is exported too, and the two files are compared with each other.

    bertjax compress --model=./my-bert --data.train=a.tsv --data.eval=b.tsv --max_drop=1 --min_speedup=4

With a bound (--max_drop, --min_speedup, --max_mb) a short list of smaller models is made instead, and the fastest one
within the bounds is kept (budget.py). Where none is, the best try is kept, and the exit code is 3.

What fails is left out, with all that would have begun with it: the rest is measured and kept, and the exit code is 4.
The same command tries again what failed.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bertjax.distill.terms import HardLabels
from bertjax.errors import UserError
from bertjax.paths import at, is_remote

from .common import Data
from .distill import Distill
from .export import Export
from .finetune import Finetune
from .loop import Training
from .proof import Model
from .prune import Prune
from .quantize import Quantize
from .stages import FAILED, Context, Done, Failure, Stage, attempt, leave_if, left_out, run_in_order, to_do


@dataclass(frozen=True)
class Config:
    """Compression: stages, then the report."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    stages: tuple[Stage, ...] = (Finetune(epochs=2), Distill(epochs=4))
    """What is done, in order. With a bound: the recipes of what is tried."""
    max_drop: float | None = None
    """Points of the score that may be lost: choose among several smaller models."""
    min_speedup: float | None = None
    """How many times as fast the result must be, for one text, exported: choose among several smaller models."""
    max_mb: float | None = None
    """Megabytes (10^6 bytes) that the exported folder may take: choose among several smaller models."""
    steps: int | None = None
    """Steps of every training stage, instead of what each says: for a short trial."""
    epochs: float | None = None
    """Passes over the training data of every training stage, instead of what each says."""
    batch_size: int | None = None
    """Examples per step in every training stage, instead of what each says."""
    seed: int | None = None
    """Seed of every training stage, instead of what each says."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of every training stage, instead of what each says: bfloat16 on TPU, GPU and processors with
    AMX."""
    out: str = "runs/compress"
    """Folder for everything: stages, the final bundle, report.md."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("stages is empty; a config for compress lists at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"every stage needs a name of its own; given: {', '.join(names)}.")
        if any(isinstance(stage, Export) for stage in self.stages[:-1]):
            raise UserError("an export is a file for another runtime, from which no stage goes on: make it the last.")
        for name in ("max_drop", "min_speedup", "max_mb"):
            if (bound := getattr(self, name)) is not None and not bound >= 0:
                raise UserError(f"--{name}={bound}: expected 0 or more.")

    @property
    def chooses(self) -> bool:
        """Whether there is a bound to keep to."""
        return (self.max_drop, self.min_speedup, self.max_mb) != (None, None, None)

    def planned_stages(self) -> list[Stage]:
        """The stages with what this config says for all of them."""
        names = "batch_size", "seed", "dtype"
        common = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.steps is not None or self.epochs is not None:
            common |= {"steps": self.steps, "epochs": self.epochs}
        return [dataclasses.replace(s, **common) if isinstance(s, Training) else s for s in self.stages]


def main(config: Config) -> None:
    from .budget import MISSED
    from .data import tell_first, training_task
    from .log import Log
    from .processes import alone, is_first
    from .run import begin, read_record

    out, stages = at(config.out), config.planned_stages()
    prepare(stages, config.chooses)
    if begin(out, config):
        leave_if((read_record(out) or {}).get("missed"), MISSED)
        return
    facts = tell_first(config.data, config.model, training_task(config.data))
    failures: list[Failure] = []
    with contextlib.closing(Log(out, "compressing", len(stages), start=None, quiet=not is_first())) as log:
        models = (try_candidates if config.chooses else run_stages)(config, out, log, failures)
        alone(lambda: conclude(config, models, failures, out, log, facts))


def conclude(config: Config, models: list[Model], failures: list[Failure], out: Path, log: Any, facts: Any) -> None:
    """Measures what came out, and says it."""
    from . import commands
    from .budget import MISSED, choose
    from .data import training_task
    from .fields import to_dict
    from .log import note
    from .next_steps import next_steps
    from .proof import prove
    from .run import finish, update_record

    command, asked, task = commands.asked("compress", config), to_dict(config), training_task(config.data)
    told = {"next_steps": next_steps(config, models, task), "command": command, "base": config.model, "facts": facts}
    report = prove(models, config.data, out, asked=asked, task=task, failures=failures, **told)
    models = [model for model in models if model.name in [row.name for row in report.rows]]
    kept, missed = models[-1], None
    if config.chooses:
        refuse_if_nothing(len(models) > 2, failures)
        kept, report, missed = choose(report, models, config)
    if failed := left_out(failures):
        report = dataclasses.replace(report, conclusion=f"{report.conclusion} {failed}".strip())
    report.write(out)
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
    from bertjax.processor import integer_products, processor_features

    from .export import require_packages
    from .log import note

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

    from bertjax import manifest
    from bertjax.export.folder import write_origin
    from bertjax.measure.onnx import origin_of
    from bertjax.paths import absolute, local, relative, replaced

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
        with replaced(out / name) as filled:
            shutil.copytree(local(folder), filled, dirs_exist_ok=True)
            manifest.put_text(filled, "report.json", report.json_text(out / name))
            if name == "exported":
                write_origin(filled, relative(out / "bundle", out / name))


def run_stages(config: Config, out: Path, log: Any, failures: list[Failure]) -> list[Model]:
    """Every stage in order; returns the models for the report, the baseline first and the result last."""
    import time

    from bertjax.measure import WITHOUT_TEACHER

    from .data import has_labels, training_examples, training_task
    from .log import note

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
    return Model(name, at(context.out) / "bundle")


def teacher_as_it_is(config: Config) -> tuple[list[Model], list[Stage]]:
    """The model that needs no fine-tuning any more, if it does not, and the stages that are left."""
    from .data import training_task
    from .log import note

    stages = config.planned_stages()
    if not (isinstance(stages[0], Finetune) and has_trained_head(config.model, training_task(config.data))):
        return [], stages
    note(f"{config.model} already has a head for this task: it is the teacher as it is")
    return [Model(stages[0].name, resolve_model(config.model))], stages[1:]


def exported(model: Model, out: Path) -> Model:
    """A model of this run as an ONNX file."""
    from .export import export_once
    from .processes import alone

    name = f"{model.name}-onnx"
    alone(lambda: export_once(model.folder, out / "stages" / name / "bundle"))
    return Model(name, out / "stages" / name / "bundle")


def try_candidates(config: Config, out: Path, log: Any, failures: list[Failure]) -> list[Model]:
    """The teacher and, exported, itself and everything that was made of it; for the report."""
    from .budget import depth_of, plans, worth_integers
    from .log import note

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
    from rich.console import Console

    from bertjax.measure import rich_table, verdicts

    console = Console()
    console.print(rich_table(report))
    for sentence in verdicts(report):
        console.print(f"- {sentence.replace('**', '')}", markup=False)
    if report.conclusion:
        console.print(report.conclusion, markup=False)


def has_trained_head(model: str, task: Any) -> bool:
    """Whether the model needs no fine-tuning: it has a head for this kind of task, with these labels."""
    from .data import open_model

    return not open_model(model, task, 0)[0].fresh


def resolve_model(model: str) -> Any:
    from bertjax.bundle import resolve

    return at(model) if is_remote(model) else resolve(model)


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


if __name__ == "__main__":
    from .settings import run

    run("compress")
