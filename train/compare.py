"""Hold methods against each other: one teacher, one student shape, one budget, several seeds, one table.

    bertjax compare --config=compare --out=runs/compare
    bertjax compare --config=compare --row=minilm_v2/seed1 --out=runs/again

A row is a name and stages, as `compress` runs them; the first begins with the teacher. Every row sees as many examples,
in the same order for one seed: --epochs (or --steps) is the budget of a row, and where it has several stages, what each
says of its own epochs is its share. A stage that prunes takes parts out of the model instead of giving it the student's
shape, and one that rounds may follow; one that augments the text does not add to the budget. Three rows are always
there: no_teacher (the labels alone), more_epochs (the same, and on top as many passes as training the teacher and
asking it once cost) and bag_of_words.

Each row and seed has its folder, OUT/rows/ROW/seedN, and a finished one is not run again; a row that fails is reported
with its reason, the others go on, and the exit code is 4. Rows and seeds may be added to a finished comparison. The
report is OUT/report.md.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

from bertjax.distill.student import Student
from bertjax.distill.terms import SoftTargets
from bertjax.errors import UserError
from bertjax.paths import at, write_text

from .augment import Augment
from .common import Data
from .distill import Distill
from .fields import nearest
from .finetune import Finetune
from .loop import Training
from .prune import Prune
from .quantize import Quantize
from .stages import FAILED, Context, Failure, Stage, attempt, leave_if, left_out, run_in_order

NO_TEACHER, MORE_EPOCHS = "no_teacher", "more_epochs"
BUILT_IN = ("teacher", NO_TEACHER, MORE_EPOCHS, "bag_of_words")


def check_different(what: str, names: Sequence[str]) -> None:
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        built_in = " (rows which every comparison has by itself)" * any(name in BUILT_IN for name in doubled)
        raise UserError(f"{what} need names of their own; given twice: {', '.join(doubled)}{built_in}.")


@dataclass(frozen=True)
class Published:
    """What a paper says of a method, to stand beside ours."""

    value: float
    """In points, as our scores are printed."""
    source: str
    """Paper, table, model and data."""


@dataclass(frozen=True)
class Row:
    """A method: a name and stages."""

    name: str
    """Letters, digits and _ - . only: it names a folder."""
    stages: tuple[Stage, ...]
    """What is done, in order; the first stage begins with the teacher."""
    student: Student | None = None
    """In a config file: another shape than the suite's."""
    paper: Published | None = None
    """In a config file: what the method's paper reports."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise UserError(f"a row is called {self.name!r}; expected letters, digits and _ - . only.")
        if not self.stages:
            raise UserError(f"row {self.name} has no stages; expected at least one.")
        check_different(f"stages of row {self.name}", [stage.name for stage in self.stages])


@dataclass(frozen=True)
class Config:
    """A comparison of methods."""

    model: str = "demo"
    """The model to begin with: a folder, hf:NAME, or demo. Students without a teacher are cut from it."""
    data: Data = field(default_factory=Data)
    teacher: tuple[Stage, ...] = (Finetune(epochs=2),)
    """How the teacher is made of the model, once for all rows."""
    trained: str | None = None
    """A finished teacher, instead of making one: its folder."""
    student: Student = field(default_factory=Student)
    """The shape of every row's student."""
    rows: tuple[Row, ...] = (Row("soft_targets", (Distill(losses=(SoftTargets(),)),)),)
    """The methods."""
    alone: Finetune = field(default_factory=lambda: Finetune(name="alone"))
    """How the rows without a teacher are trained."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each row is trained once with each."""
    epochs: float | None = 3.0
    """Budget of every row in passes over the training data."""
    steps: int | None = None
    """Budget of every row in steps, instead of epochs: for a short trial."""
    batch_size: int | None = None
    """Examples per step in every row, instead of what its stages say."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute dtype of every row's training, instead of what its stages say: bfloat16 on TPU, GPU and processors with
    AMX."""
    row: str | None = None
    """Run this row alone (NAME), or one seed of it (NAME/seed1), and report nothing."""
    out: str = "runs/compare"
    """Folder for everything: teacher, rows, report.md."""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name}={value}: expected a number above 0")
        if self.epochs is None and self.steps is None:
            raise UserError("--epochs=none: give the budget of a row as --epochs or as --steps")
        for what in ("rows", "seeds"):
            if not getattr(self, what):
                raise UserError(f"{what} is empty; a comparison needs at least one.")
        check_different("rows", [*BUILT_IN, *(row.name for row in self.rows)])
        check_different("seeds", list(map(str, self.seeds)))
        self.chosen()

    def chosen(self) -> list[tuple[Row, int]]:
        """Every row with every seed, or what --row asks for; first seeds of all rows come first."""
        alone = [Row(name, (self.alone,)) for name in (NO_TEACHER, MORE_EPOCHS)]
        every = [(row, seed) for seed in self.seeds for row in (*alone, *self.rows)]
        if self.row is None:
            return every
        names = {f"{row.name}/seed{seed}": [(row, seed)] for row, seed in every}
        names |= {row.name: [(row, seed) for seed in self.seeds] for row, _ in every}
        if self.row not in names:
            known = ", ".join(dict.fromkeys(row.name for row, _ in every))
            raise UserError(
                f"--row={self.row}: no such row{nearest(self.row, list(names))}\n"
                f"rows: {known}; seeds: {', '.join(map(str, self.seeds))} (NAME/seed{self.seeds[0]})"
            )
        return names[self.row]


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    config: Config
    out: Path
    task: Any
    teacher: str
    examples: int
    """Rows of the training data."""
    taught: float
    """Passes over them that the teacher was trained for."""
    facts: Any = ()
    """What was said of the texts before the first step."""
    splits: dict[str, Any] = field(default_factory=dict)
    """The evaluation examples, by tokenizer."""


def main(config: Config) -> None:
    from .fields import to_dict
    from .log import note
    from .processes import alone
    from .run import begin

    out = at(config.out)
    asked = to_dict(config)
    begin(out, {name: value for name, value in asked.items() if name not in ("rows", "seeds", "row")})
    finished = out / "report.json"
    if config.row is None and finished.is_file():
        known = json.loads(finished.read_text(encoding="utf-8"))
        if known["config"] == asked and not any(row["failures"] for row in known["rows"]):
            note(f"{out}: finished already; the report: {out / 'report.md'}")
            return
    bench = set_up(config, out)
    outcomes: dict[str, dict[int, Any]] = {}
    failures: list[Failure] = []
    for row, seed in config.chosen():
        name = f"{row.name}/seed{seed}"
        folder = out / "rows" / name
        note(f"row {name}")
        work = partial(run_row, bench, row, seed, folder)
        found = work() if config.row else attempt(f"row {name}", folder, work)
        if isinstance(found, Failure):
            failures.append(found)
            found = str(found)
        outcomes.setdefault(row.name, {})[seed] = found
    if config.row is None:

        def conclude() -> None:
            from .comparison import measure, show

            report = measure(bench, outcomes)
            report.write(out)
            show(report)
            note(f"the report: {out / 'report.md'}")
            leave_if(left_out(failures), FAILED)

        alone(conclude)


def set_up(config: Config, out: Path) -> Bench:
    """The teacher, made or found, and what there is to learn from."""
    from .compress import has_trained_head, resolve_model
    from .data import tell_first, training_examples, training_task
    from .run import read_record

    task = training_task(config.data)
    examples = training_examples(config.data, task, labelled=True)
    facts = tell_first(config.data, config.trained or config.model, task)
    folders = []
    if config.trained or has_trained_head(config.model, task):
        teacher = resolve_model(config.trained or config.model)
        folders = [teacher.parent]
    else:
        done = run_in_order(config.teacher, Context(config.model, config.data, str(out / "teacher")))
        teacher, folders = done[-1].bundle, [stage.bundle.parent for stage in done]
    taught = sum((read_record(folder) or {}).get("epochs", 0.0) for folder in folders)
    return Bench(config, out, task, str(teacher), len(examples), taught, facts)


def run_row(bench: Bench, row: Row, seed: int, folder: Path) -> Any:
    """Trains a row with one seed, or finds it trained, and reads the evaluation examples once."""
    from bertjax.measure import score
    from bertjax.measure.methods import Run

    from .log import note

    config, without = bench.config, row.name in (NO_TEACHER, MORE_EPOCHS)
    stages = planned_stages(bench, row, seed)
    model, teacher = (config.model, None) if without else (bench.teacher, bench.teacher)
    context = Context(model, config.data, str(folder), teacher, str(bench.out / "teacher-outputs"))
    done = run_in_order(stages, context)
    stored = folder / "outcome.json"
    if stored.is_file():
        return Run(**json.loads(stored.read_text(encoding="utf-8")))
    predictions, gold = predict(bench, done[-1].bundle)
    costs = [cost_of(stage.bundle.parent, examples_of(bench, stage.data)) for stage in done]
    run = Run(seed, predictions, *(sum(parts) for parts in zip(*costs, strict=True)))
    plain = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    write_text(stored, json.dumps({**vars(run), "predictions": plain}, allow_nan=False) + "\n")
    note(f"row {row.name}/seed{seed}: {bench.task.metric} {score(bench.task.metric, predictions, gold):.4f}")
    return run


def planned_stages(bench: Bench, row: Row, seed: int) -> list[Stage]:
    """The stages with the suite's shape and seed, and the budget dealt out by what each says of its own length."""
    config = bench.config
    student = row.student or config.student
    learning = [stage for stage in row.stages if learns(stage)]
    shares = iter(lengths_of(bench, row.name, [stage.steps or stage.epochs or 1.0 for stage in learning]))
    asked = {name: getattr(config, name) for name in ("batch_size", "dtype")}
    common: dict[str, Any] = {"seed": seed} | {name: value for name, value in asked.items() if value is not None}
    augmented = any(isinstance(stage, Augment) for stage in row.stages)

    def steps_of(epochs: float, stage: Training) -> int:
        if getattr(stage, "packed", False):
            raise UserError(f"row {row.name}: with more text than the data, give packed rows a budget in --steps")
        return max(1, round(epochs * -(-bench.examples // (config.batch_size or stage.batch_size))))

    def planned(stage: Stage) -> Stage:
        if not isinstance(stage, Training):
            return stage
        cut = isinstance(stage, Distill) and not isinstance(stage, Prune)
        shaped = {"student": student} if cut or stage is config.alone else {}
        share = next(shares) if learns(stage) else {}
        if augmented and share.get("epochs"):  # as many examples as other rows see, and not as many passes
            share = {"steps": steps_of(share["epochs"], stage), "epochs": None}
        return dataclasses.replace(stage, **common, **share, **shaped)  # type: ignore[return-value]

    return [planned(stage) for stage in row.stages]


def learns(stage: Any) -> TypeGuard[Training]:
    """Whether a stage trains, and so has a share of the budget."""
    rests = (isinstance(stage, Quantize) and stage.learn == "nothing") or (
        isinstance(stage, Prune) and not stage.recover
    )
    return isinstance(stage, Training) and not rests


def lengths_of(bench: Bench, name: str, shares: Sequence[float]) -> list[dict[str, Any]]:
    """steps and epochs of each stage of a row. In steps they add up to the budget, whatever is rounded."""
    config = bench.config
    more = bench.taught + 1 if name == MORE_EPOCHS else 0.0
    if config.steps is None:
        assert config.epochs is not None
        return [{"steps": None, "epochs": (config.epochs + more) * share / sum(shares)} for share in shares]
    batch_size = config.batch_size or config.alone.batch_size
    budget = config.steps + round(more * -(-bench.examples // batch_size))
    ends = [round(budget * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return [{"steps": max(1, end - start), "epochs": None} for start, end in zip([0, *ends], ends, strict=False)]


def examples_of(bench: Bench, data: Data) -> int:
    """Rows of what a stage learned from."""
    from .data import training_examples

    return bench.examples if data == bench.config.data else len(training_examples(data, bench.task))


def cost_of(folder: Path, examples: int) -> tuple[float, float, float]:
    """Examples that a stage was trained on, those that the teacher read for it, and seconds. What is pruned is trained
    in a folder below."""
    from .log import worked_seconds
    from .run import read_record

    folder = folder / "recovery" if (folder / "recovery").is_dir() else folder
    record = read_record(folder) or {}
    if "epochs" not in record:
        return 0.0, 0.0, 0.0
    passes, seconds = record["epochs"] * examples, worked_seconds(folder)
    if "asked_seconds" not in record:
        return passes, 0.0, seconds
    if record["asked_seconds"] is None:  # the teacher ran in every step
        return passes, passes, seconds
    return passes, float(examples), seconds + record["asked_seconds"]


def predict(bench: Bench, folder: Path | str) -> tuple[Any, Any]:
    """Predictions of a model for the evaluation examples, and the labels."""
    import bertjax

    from .data import predict_split
    from .proof import evaluation_split

    bundle = bertjax.load(folder)
    return predict_split(bundle, evaluation_split(bench.splits, bench.config.data, bench.task, bundle.tokenizer))


if __name__ == "__main__":
    from .settings import run

    run("compare")
