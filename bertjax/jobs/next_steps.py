"""Suggestions after a compression: complete commands, made from the config of the run."""

import shlex
from pathlib import Path
from typing import Any

from bertjax.engine.commands import as_flags, command_for, flags, line
from bertjax.jobs.report import Model
from bertjax.recipes.compress import BOUNDS, Config
from bertjax.recipes.distill import Distill
from bertjax.storage.paths import as_path, is_remote
from bertjax.student import Student
from bertjax.text.tasks import Task

Step = tuple[str, str]
"""A suggestion, and its command."""


def next_steps(config: Config, models: list[Model], task: Task) -> list[Step]:
    """The suggestions for a run. `models` are in the order of the report: the first one first, the result last."""
    learn = [] if config.chooses else learn_more(config, models)
    return [*verify(config, models, task), ("Label text of your own", label(config, task)), *learn]


def verify(config: Config, models: list[Model], task: Task) -> list[Step]:
    """`bertjax verify` on the two exported files, with the bounds of the config; none if one could not be exported, or
    for a bucket, which `bertjax verify` does not read."""
    if len(models) < 3 or not (models[1].exported and models[-1].exported) or is_remote(config.out):
        return []
    data = config.data
    fields = {"eval": data.eval, "text": data.text, "text_pair": data.text_pair, "label": data.label, "kind": task.kind}
    fields |= {"metric": None if data.metric == "auto" else data.metric, "max_length": data.max_length}
    options = {"model": as_path(config.out) / "exported", "against": models[1].folder}
    options |= {f"data.{name}": value for name, value in fields.items()}
    options |= {name: getattr(config, name) for name in BOUNDS}
    given = {name: value for name, value in options.items() if value is not None}
    return [("Measure the two exported files again", line("verify", *as_flags(given)))]


def label(config: Config, task: Task) -> str:
    """One text, or two with a tab between them, through `bertjax predict`."""
    pair = task.kind == "qa" or (task.text_pair is not None and task.kind != "embedding")
    texts = shlex.join(["printf", "%s\\t%s\\n", "a text", "and its second"] if pair else ["echo", "a text to judge"])
    model, length = f"--model={as_path(config.out) / 'bundle'}", f"--max_length={config.data.max_length}"
    return f"{texts} | {line('predict', model, length)}"


def learn_more(config: Config, models: list[Model]) -> list[Step]:
    """The same compression from the finished teacher, with a student of another depth and with longer training. If
    nothing was distilled: the distillation of a student with half of the layers."""
    depth, places = depth_of(models[0].folder), [i for i, s in enumerate(config.stages) if s.distils]
    if not places:
        data = [f"--data.{flag[2:]}" if flag.startswith("--") else flag for flag in flags(config.data)]
        size = as_flags({"student.num_hidden_layers": depth // 2, "out": f"{config.out}-half"})
        half = line("distill", f"--model={models[0].folder}", *data, *size)
        return [("Distil into a student of half the layers", half)] if depth > 1 else []
    stage = config.stages[places[-1]]
    assert isinstance(stage, Distill)
    begin = {"model": models[0].folder} if config.stages[0].finetunes else {}
    prefix, steps = f"stages__{places[-1]}__", []
    if (other := another_depth(stage, depth)) is not None:
        what = "Keep one more layer" if other > stage.student.num_hidden_layers else "Keep half of these layers"
        changes = {f"{prefix}student__num_hidden_layers": other}
        steps.append((what, command_for("compress", config, **begin, **changes, out=f"{config.out}-{other}-layers")))
    longer = twice(config, stage, prefix)
    return [
        *steps,
        ("Train twice as long", command_for("compress", config, **begin, **longer, out=f"{config.out}-longer")),
    ]


def depth_of(folder: Path) -> int:
    """Number of layers of a bundle."""
    from bertjax.bundle import stored_config

    return stored_config(str(folder)).num_hidden_layers


def another_depth(stage: Distill, depth: int) -> int | None:
    """One layer more than the student has, if the teacher's `depth` is more than that, or else half of them. None if
    the depth is not free: layers are listed one by one, shared, or taken from another model."""
    student: Student = stage.student
    named = [value for loss in (student, *stage.losses) for value in vars(loss).values() if isinstance(value, tuple)]
    if named or student.as_is or student.groups or student.init_from not in ("teacher", "random"):
        return None
    layers = student.num_hidden_layers
    return layers + 1 if layers + 1 < depth else layers // 2 or None


def twice(config: Config, stage: Distill, prefix: str) -> dict[str, Any]:
    """The changes that double the training of a stage; where the config sets the length of all stages, of all of
    them."""
    lengths = {"steps": config.steps, "epochs": config.epochs}
    if lengths != {"steps": None, "epochs": None}:
        return {name: 2 * value for name, value in lengths.items() if value is not None}
    name = "epochs" if stage.steps is None else "steps"
    return {f"{prefix}{name}": 2 * (getattr(stage, name) or 3.0)}
