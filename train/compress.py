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
from typing import Any

from bertjax.errors import UserError

from .common import Data
from .distill import Distill
from .finetune import Finetune
from .loop import Training
from .proof import Model
from .stages import Context, Stage, run_in_order


@dataclass(frozen=True)
class Config:
    """Compression: stages, then the report."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo."""
    data: Data = field(default_factory=Data)
    stages: tuple[Stage, ...] = (Finetune(epochs=2), Distill(epochs=4))
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
    import shlex
    import shutil
    import sys

    from bertjax.bundle import replace_folder

    from .fields import to_dict
    from .log import Log, note
    from .proof import prove
    from .run import begin, finish

    out = Path(config.out)
    if begin(out, config):
        return
    log = Log(out, "compressing", len(config.stages), start=None)
    models = run_stages(config, out, log)
    command = shlex.join(["bertjax", "compress", *sys.argv[1:]])
    report = prove(
        models, config.data, out, asked=to_dict(config), next_steps=next_steps(config, models), command=command
    )
    partial = out / ".bundle.partial"
    shutil.copytree(models[-1].folder, partial, dirs_exist_ok=True)
    report.write_json(partial / "report.json")
    replace_folder(partial, out / "bundle")
    show(report)
    log.event("finished", len(config.stages))
    log.close()
    finish(out, {row.name: row.score for row in report.rows})
    note(f"the report: {out / 'report.md'}")


def run_stages(config: Config, out: Path, log: Any) -> list[Model]:
    """Every stage in order; returns the models for the report, the baseline first and the result last."""
    from bertjax.measure import WITHOUT_TEACHER

    from .data import has_labels, training_task
    from .log import note

    models, stages = [], config.planned_stages()
    task = training_task(config.data)
    if isinstance(stages[0], Finetune) and has_trained_head(config.model, task):
        note(f"{config.model} already has a head for this task: it is the teacher as it is")
        models.append(Model(stages.pop(0).name, resolve_model(config.model)))
    context = Context(config.model, config.data, str(out / "stages"))
    done = run_in_order(stages, context, lambda number, name: log.event("stage", number, name=name))
    models += [Model(stage.name, bundle) for stage, _, bundle in done]
    distilled = [(stage, data) for stage, data, _ in done if isinstance(stage, Distill)]
    if distilled and has_labels(config.data, task):
        folder = out / "stages" / "without-teacher"
        log.event("stage", len(stages) + 1, name="without-teacher")
        _, data = distilled[-1]
        without_teacher([stage for stage, _ in distilled]).run(Context(config.model, data, str(folder)))
        models.insert(-1, Model(WITHOUT_TEACHER, folder / "bundle"))
    return models


def next_steps(config: Config, models: list[Model]) -> list[tuple[str, str]]:
    """What to try from here, as commands that run."""
    data = f"--data.train={config.data.train} --data.eval={config.data.eval} --data.max_length={config.data.max_length}"
    distil = f"bertjax distill --model={models[0].folder} {data}"
    label = f'echo "a quiet masterpiece" | bertjax predict --model={config.out}/bundle'
    return [
        ("Label text of your own", label),
        ("Keep one more layer", f"{distil} --student.num_hidden_layers=3 --epochs=4 --out={config.out}-deeper"),
        ("Learn twice as long", f"{distil} --student.num_hidden_layers=2 --epochs=8 --out={config.out}-longer"),
    ]


def show(report: Any) -> None:
    """The table and what it means, on the terminal."""
    from rich.console import Console

    from bertjax.measure import rich_table, verdicts

    console = Console()
    console.print(rich_table(report))
    for sentence in verdicts(report):
        console.print(f"- {sentence.replace('**', '')}", markup=False)


def has_trained_head(model: str, task: Any) -> bool:
    """Whether the model needs no fine-tuning: it has a head for this kind of task, with these labels."""
    from .data import open_model

    return not open_model(model, task, 0)[0].fresh


def resolve_model(model: str) -> Path:
    from bertjax.bundle import resolve

    return resolve(model)


def without_teacher(stages: list[Distill]) -> Finetune:
    """The same small model with the same start and as many steps, trained on the labels alone. What the last of several
    students leaves open is as in the one before it."""
    last, sizes = stages[-1], ("hidden_size", "num_attention_heads", "intermediate_size", "embedding_size")
    chosen = {name: [size for s in stages if (size := getattr(s.student, name)) is not None] for name in sizes}
    student = dataclasses.replace(last.student, **{name: given[-1] for name, given in chosen.items() if given})
    shared = {f.name: getattr(last, f.name) for f in dataclasses.fields(Finetune) if f.name not in ("name", "student")}
    return Finetune(**shared, name="without-teacher", student=student)


if __name__ == "__main__":
    from .settings import run

    run("compress")
