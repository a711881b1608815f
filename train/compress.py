"""The main job: stages that make a model smaller, and the proof of what that gained and cost.

    python -m train.compress --config=quickstart --out=runs/quickstart
    python -m train.compress --config=quickstart --model=./my-bert --data.train=a.tsv --data.eval=b.tsv --out=runs/mine

Each stage takes a model folder and leaves one, in OUT/stages; a finished stage is not run again, and an unfinished one
continues. A model that already has a trained head for the task is the teacher as it is. At the end every model is
measured beside two honest ones, the same small model trained without a teacher and a bag of words: OUT/report.md.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bertjax.errors import UserError

from .common import Data
from .distill import Distill
from .finetune import Finetune
from .loop import Training


class Stage(Protocol):
    """What `stages` in a config may hold: a frozen dataclass with a name and a method that makes `context.out/bundle`."""

    @property
    def name(self) -> str: ...

    def run(self, context: "Context") -> None: ...


class Context(NamedTuple):
    """What a stage is given."""

    model: str
    """The model to begin with: the bundle of the stage before, or the model that the user gave."""
    data: Data
    out: str
    """The stage's own folder; its model is to be written to `out/bundle`."""


@dataclass(frozen=True)
class Config:
    """Compression: stages, then the report."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    stages: tuple[Stage, ...] = (Finetune(), Distill())
    """What is done, in order."""
    steps: int | None = None
    """Steps of every training stage, instead of what each says: for a short trial."""
    epochs: float | None = None
    """Passes over the training data of every training stage, instead of what each says."""
    batch_size: int | None = None
    """Examples per step in every training stage, instead of what each says."""
    seed: int | None = None
    """Seed of every training stage, instead of what each says."""
    out: str = "runs/compress"
    """Folder for everything: stages, the final bundle, report.md."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("stages is empty; a config for compress lists at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError(f"every stage needs a name of its own; given: {', '.join(names)}.")

    def planned_stages(self) -> list[Stage]:
        """The stages with what this config says for all of them."""
        common = {name: getattr(self, name) for name in ("batch_size", "seed") if getattr(self, name) is not None}
        if self.steps is not None or self.epochs is not None:
            common |= {"steps": self.steps, "epochs": self.epochs}
        return [dataclasses.replace(s, **common) if isinstance(s, Training) else s for s in self.stages]


def main(config: Config) -> None:
    import shutil

    from .log import Log, note
    from .run import begin, finish

    out = Path(config.out)
    if begin(out, config):
        return
    log = Log(out, "compressing", len(config.stages), 0)
    rows = run_stages(config, out, log)
    from .proof import prove

    report = prove(config, rows, out)
    last = rows[-1].folder
    shutil.copytree(last, out / "bundle", dirs_exist_ok=True)
    for name in ("report.json", "README.md"):
        if (out / name).is_file():
            shutil.copy(out / name, out / "bundle" / name)
    log.close()
    finish(out, {row.name: row.score for row in report.rows})
    note(f"the report: {out / 'report.md'}")


class Model(NamedTuple):
    """A model that appears in the report."""

    name: str
    folder: Path


def run_stages(config: Config, out: Path, log: Any) -> list[Model]:
    """Every stage in order; returns the models for the report, the baseline first and the result last."""
    from bertjax.measure.report import WITHOUT_TEACHER

    from .log import note

    model, rows, stages = config.model, [], config.planned_stages()
    if isinstance(stages[0], Finetune) and has_trained_head(config):
        note(f"{config.model} already has a head for this task: it is the teacher as it is")
        rows.append(Model(stages.pop(0).name, Path(config.model)))
    for number, stage in enumerate(stages, start=1):
        folder = out / "stages" / f"{number}-{stage.name}"
        log.event("stage", number, name=stage.name)
        stage.run(Context(model, config.data, str(folder)))
        model = str(folder / "bundle")
        rows.append(Model(stage.name, folder / "bundle"))
    distilled = [stage for stage in stages if isinstance(stage, Distill)]
    if distilled:
        alone = without_teacher(distilled[-1])
        folder = out / "stages" / "without-teacher"
        log.event("stage", len(stages) + 1, name=alone.name)
        alone.run(Context(config.model, config.data, str(folder)))
        rows.insert(-1, Model(WITHOUT_TEACHER, folder / "bundle"))
    return rows


def has_trained_head(config: Config) -> bool:
    """Whether the model needs no fine-tuning: it has a head for this kind of task, with these labels."""
    from .data import open_model, training_task

    bundle, _ = open_model(config.model, training_task(config.data), 0)
    return not bundle.fresh


def without_teacher(stage: Distill) -> Finetune:
    """The same small model with the same start and as many steps, trained on the labels alone."""
    shared = {f.name: getattr(stage, f.name) for f in dataclasses.fields(Finetune) if f.name not in ("name", "student")}
    return Finetune(**shared, name="without-teacher", student=stage.student)


if __name__ == "__main__":
    from .settings import run

    run("compress")
