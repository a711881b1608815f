"""Methods held against each other: the teacher, every row with every seed, and what they share."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from bertjax.errors import UserError
from bertjax.jobs.comparison import Bench, predict
from bertjax.jobs.stages import FAILED, Failure, attempt, leave_if, left_out, run_in_order
from bertjax.recipes.augment import Augment
from bertjax.recipes.compare import MORE_EPOCHS, NO_TEACHER, Config, Row
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.prune import Prune
from bertjax.recipes.quantize import Quantize
from bertjax.recipes.stage import Context, Stage
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path, write_text


def main(config: Config) -> None:
    from bertjax.engine.fields import to_dict
    from bertjax.engine.hosts import on_main_process
    from bertjax.engine.log import note
    from bertjax.engine.record import begin

    out = as_path(config.out)
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
            from bertjax.jobs.comparison import measure, show
            from bertjax.report.write import write_comparison

            report = measure(bench, outcomes)
            write_comparison(report, out)
            show(report)
            note(f"the report: {out / 'report.md'}")
            leave_if(left_out(failures), FAILED)

        on_main_process(conclude)


def set_up(config: Config, out: Path) -> Bench:
    """The teacher, made or found, and what there is to learn from."""
    from bertjax.engine.record import read_record
    from bertjax.jobs.compress import has_trained_head, resolve_model
    from bertjax.jobs.data import tell_first, training_examples, training_task

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
    from bertjax.engine.log import note
    from bertjax.metrics.scores import score
    from bertjax.renamed import renamed
    from bertjax.report.method_report import MethodRun

    config, without = bench.config, row.name in (NO_TEACHER, MORE_EPOCHS)
    stages = planned_stages(bench, row, seed)
    model, teacher = (config.model, None) if without else (bench.teacher, bench.teacher)
    context = Context(model, config.data, str(folder), teacher, str(bench.out / "teacher-outputs"))
    done = run_in_order(stages, context)
    stored = folder / "outcome.json"
    if stored.is_file():
        return MethodRun(**renamed(json.loads(stored.read_text(encoding="utf-8")), MethodRun.__dataclass_fields__))
    predictions, gold = predict(bench, done[-1].bundle)
    costs = [cost_of(stage.bundle.parent, examples_of(bench, stage.data)) for stage in done]
    run = MethodRun(seed, predictions, *(sum(parts) for parts in zip(*costs, strict=True)))
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
    rests = (isinstance(stage, Quantize) and stage.qat == "off") or (
        isinstance(stage, Prune) and not stage.finetune_after
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
    from bertjax.jobs.data import training_examples

    return bench.examples if data == bench.config.data else len(training_examples(data, bench.task))


def cost_of(folder: Path, examples: int) -> tuple[float, float, float]:
    """Examples that a stage was trained on, those that the teacher read for it, and seconds. What is pruned is trained
    in a folder below."""
    from bertjax.engine.log import worked_seconds
    from bertjax.engine.record import read_record

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
