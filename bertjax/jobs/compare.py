"""Comparison of compression methods: a common teacher, and a training run for every row and seed.

All rows have the same student shape and training budget, unless a row sets its own shape. The two baselines without a
teacher are trained on labels alone: one with that budget, one that also gets the budget of the teacher's training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertjax.engine.log import note
from bertjax.engine.record import differences
from bertjax.errors import UserError
from bertjax.jobs.comparison import Bench, predict
from bertjax.jobs.compress import resolve_model
from bertjax.jobs.data import Text, describe_for, has_trained_head
from bertjax.jobs.stages import Done, run_in_order
from bertjax.jobs.training import result_of
from bertjax.recipes.compare import MORE_EPOCHS, NO_TEACHER, Config, Row
from bertjax.recipes.stage import Context, Stage
from bertjax.storage.paths import as_path, write_text

if TYPE_CHECKING:
    from bertjax.report.methods import MethodRun


def is_finished(config: Config, settings: dict[str, Any]) -> bool:
    """Whether the report has all rows and seeds of the config, and none of them failed."""
    report = as_path(config.out) / "report.json"
    if config.row is not None or not report.is_file():
        return False
    stored = json.loads(report.read_text(encoding="utf-8"))
    return not differences(stored["config"], settings) and not any(row["failures"] for row in stored["rows"])


def set_up(config: Config, text: Text) -> Bench:
    """The teacher, given or trained, and the training data."""
    out = as_path(config.out)
    task = text.task()
    examples = text.training_examples(task, labelled=True)
    facts = describe_for(text, config.trained or config.model, task)
    if config.trained or has_trained_head(config.model, task):
        teacher = resolve_model(config.trained or config.model)
        epochs = result_of(str(teacher.parent), config.data).epochs
    else:
        done = run_in_order(config.teacher, Context(config.model, config.data, text.reader, str(out / "teacher")))
        teacher, epochs = done[-1].result.bundle, sum(result.epochs for _, result in done)
    return Bench(config, out, text, task, str(teacher), len(examples), epochs, facts)


def run_row(bench: Bench, row: Row, seed: int) -> MethodRun:
    """Trains a row with one seed, or reads the finished result, and predicts the evaluation examples once."""
    from bertjax.metrics.scores import score
    from bertjax.renamed import renamed
    from bertjax.report.methods import MethodRun

    config, without = bench.config, row.name in (NO_TEACHER, MORE_EPOCHS)
    folder = bench.out / "rows" / row.name / f"seed{seed}"
    model, teacher = (config.model, None) if without else (bench.teacher, bench.teacher)
    outputs = str(bench.out / "teacher-outputs")
    context = Context(model, config.data, bench.text.reader, str(folder), teacher, outputs)
    done = run_in_order(planned_stages(bench, row, seed), context)
    stored = folder / "outcome.json"
    if stored.is_file():
        return MethodRun(**renamed(json.loads(stored.read_text(encoding="utf-8")), MethodRun.__dataclass_fields__))
    predictions, gold = predict(bench, done[-1].result.bundle)
    costs = [cost_of(bench, one) for one in done]
    run = MethodRun(seed, predictions, *(sum(parts) for parts in zip(*costs, strict=True)))
    plain = predictions.tolist() if hasattr(predictions, "tolist") else predictions
    write_text(stored, json.dumps({**vars(run), "predictions": plain}, allow_nan=False) + "\n")
    note(f"row {row.name}/seed{seed}: {bench.task.metric} {score(bench.task.metric, predictions, gold):.4f}")
    return run


def planned_stages(bench: Bench, row: Row, seed: int) -> list[Stage]:
    """The stages of a row, with the student shape and seed of the comparison.

    The budget is divided in proportion to the lengths that the stages have in the config. A row that augments the data
    is trained on as many examples as the others, which is fewer epochs.
    """
    config = bench.config
    shape = row.student or config.student
    lengths = iter(lengths_of(bench, row.name, [stage.relative_length for stage in row.stages if stage.trains]))
    settings = {name: getattr(config, name) for name in ("batch_size", "dtype")}
    common = {"seed": seed} | {name: value for name, value in settings.items() if value is not None}
    adds_data = any(stage.adds_data for stage in row.stages)

    def with_budget(stage: Stage) -> Stage:
        if stage.student_shape is not None or stage is config.alone:
            stage = stage.with_student(shape)
        stage = stage.with_training(**common)
        if not stage.trains:
            return stage
        length = next(lengths)
        if adds_data and length["epochs"]:
            if stage.packed:
                raise UserError(
                    f"row {row.name}: it augments the data and packs it, so the budget must be given in --steps"
                )
            whole = stage.with_training(steps=None, epochs=length["epochs"])
            length = {"steps": whole.planned_steps(bench.examples), "epochs": None}
        return stage.with_training(**length)

    return [with_budget(stage) for stage in row.stages]


def lengths_of(bench: Bench, name: str, shares: Sequence[float]) -> list[dict[str, Any]]:
    """The steps or epochs of each stage of a row. Steps add up to the budget in spite of rounding."""
    config = bench.config
    more = bench.teacher_epochs + 1 if name == MORE_EPOCHS else 0.0
    if config.steps is None:
        assert config.epochs is not None
        return [{"steps": None, "epochs": (config.epochs + more) * share / sum(shares)} for share in shares]
    batch_size = config.batch_size or config.alone.batch_size
    budget = config.steps + round(more * -(-bench.examples // batch_size))
    ends = [round(budget * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return [{"steps": max(1, end - start), "epochs": None} for start, end in zip([0, *ends], ends, strict=False)]


def cost_of(bench: Bench, done: Done) -> tuple[float, float, float]:
    """Examples that a stage was trained on, examples that the teacher processed for it, and seconds."""
    result, examples = done.result, bench.examples
    if result.data != bench.config.data:
        examples = len(Text(result.data, bench.text.reader).training_examples(bench.task))
    return result.epochs * examples, result.teacher_epochs * examples, result.seconds
