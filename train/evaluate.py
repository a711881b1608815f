"""Measure finished models side by side: score with its interval, size, memory, arithmetic, time. Nothing is trained.

    bertjax evaluate --model=runs/a/bundle --against runs/b/bundle --data.eval=dev.tsv --out=runs/compared

The first model is the baseline that the others are compared with. Exported folders may stand among those, and are
measured in their own runtime. With --data.train a bag of words, fitted on that, stands beside them. The report is
OUT/report.md.
"""

from dataclasses import dataclass, field
from pathlib import Path

from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data

TRAINS = False


@dataclass(frozen=True)
class Config:
    """Evaluation."""

    model: str = "runs/quickstart/stages/1-teacher/bundle"
    """The baseline: a folder or hf:NAME, with a trained head."""
    against: tuple[str, ...] = ()
    """More models to compare with it, and folders of exported ones."""
    data: Data = field(default_factory=Data)
    out: str = "runs/evaluate"
    """Folder for the report."""
    bfloat16: bool = False
    """Measure each bundle a second time with its products in bfloat16, which TPUs, GPUs and processors with AMX do
    several times as fast."""


def main(config: Config) -> None:
    from bertjax.text.sources import infer_task

    from .commands import asked as asked_command
    from .compress import resolve_model, show
    from .data import open_model, tell_first, training_task
    from .fields import to_dict
    from .log import note
    from .proof import Model, prove

    # The default is the demo, which says nothing about other text.
    learned = config.data.train != "demo" or config.data.eval == "demo"
    task = training_task(config.data) if learned else infer_task(config.data.eval, config.data.task, "test")
    models: list[Model] = []
    for name in (config.model, *config.against):
        model = Model(short_name(name, [model.name for model in models]), resolve_model(name))
        if model.exported and not models:
            raise UserError(
                f"{name} is an exported file; the baseline is a model: its bundle, and the file --against it."
            )
        if not model.exported and open_model(name, task, 0)[0].fresh:
            raise UserError(f"{name} has no trained head for this task; fine-tune it first (bertjax finetune).")
        models.append(model)
        if config.bfloat16 and not model.exported:
            models.append(model._replace(name=f"{model.name}-bfloat16", dtype="bfloat16"))
    if not learned:
        note("without --data.train no bag of words can be fitted to stand beside the models")
    facts = tell_first(config.data, str(models[0].folder), task, learned)
    told = {"command": asked_command("evaluate", config), "words": learned, "facts": facts}
    report = prove(models, config.data, at(config.out), asked=to_dict(config), task=task, **told)
    show(report)
    note(f"the report: {at(config.out) / 'report.md'}")


def short_name(folder: str, taken: list[str]) -> str:
    """The last parts of a path that say something, made different from those before."""
    parts = [part for part in Path(folder).parts if part not in ("bundle", "/", ".")]
    name = parts[-1] if parts else folder
    return name if name not in taken else folder


if __name__ == "__main__":
    from .settings import run

    run("evaluate")
