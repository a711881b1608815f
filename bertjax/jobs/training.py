"""A prepared training run: all inputs of a recipe opened, read and checked.

Each kind of training has a function `prepare(config, text) -> Prepared`. `train` runs the result, and `--compile_only`
compiles it. As a stage of a compression it runs in the stage's own folder and is not scored there, because the report
scores every model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Split, Text, evenly_spaced, score_of, training_batches
from bertjax.jobs.removal import shapes
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Control, StageResult, TrainingStage
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.distill.progressive import Progressive
    from bertjax.learn.assemble import Learning
    from bertjax.learn.loss import Loss
    from bertjax.learn.objective import Teacher
    from bertjax.learn.transform import Transform
    from bertjax.model import BertConfig
    from bertjax.text.batches import BatchIterator
    from bertjax.text.encode import Encoded


@dataclass(frozen=True)
class Prepared:
    """A prepared training run."""

    label: str
    """What is done, for the progress line."""
    student: Bundle
    """The model before training."""
    learning: Learning
    batches: BatchIterator
    score: Callable[[Bundle], dict[str, float]]
    """Scores the trained model on held-out text."""
    fingerprints: dict[str, str]
    """Fingerprints of the text, for the record of the run."""
    sample: Encoded | None = None
    """Text whose ids are stored with a model of integers, to check its export on."""
    record: dict[str, Any] = field(default_factory=dict)
    """Further entries for the record of the run: `teacher_seconds`, the time for the teacher's stored outputs."""
    peak: float | None = None
    """FLOP/s that a device can reach; the log then holds the fraction of it that was used."""


def supervised(
    training: TrainingStage,
    data: Data,
    label: str,
    student: Bundle,
    losses: Mapping[str, Loss],
    splits: tuple[Split, Split],
    *,
    teachers: Sequence[Teacher] = (),
    transforms: Sequence[Transform] = (),
    packed: bool = False,
    progressive: Progressive | None = None,
    dropout: bool = True,
    examples: int | None = None,
) -> Prepared:
    """A run on examples of a task, from `splits`: those to train on, and those that are held out.

    Args:
      transforms: Of the job; those of the recipe follow, and what rounds to integers comes last.
      examples: How many examples losses and transforms begin from.
    """
    from bertjax.distill.progressive import layer_by_layer
    from bertjax.learn.assemble import assemble
    from bertjax.student import sample_batches

    train, held_out = splits
    check_pairs(training, losses, train.encoded)
    check_packing(packed, progressive, losses, student.config, [teacher.bundle.config for teacher in teachers])
    batches = training_batches(training, data, train.encoded, student.config if packed else None)
    steps = training.total_steps(batches.steps_per_epoch)
    learning = assemble(
        student,
        losses,
        steps=steps,
        seed=training.seed,
        teachers=teachers,
        transforms=sorted((*transforms, *training.all_transforms), key=lambda one: one.stores_integers),
        penalties=training.penalties,
        sample=lambda: evenly_spaced(train.encoded, examples) if examples else sample_batches(train.encoded),
        curriculum=layer_by_layer(progressive, student.config, teachers[0].bundle.model, steps)
        if progressive
        else None,
        dropout=dropout,
    )
    seconds = [teacher.stored.seconds or 0 for teacher in teachers if teacher.stored]
    return Prepared(
        label,
        student,
        learning,
        batches,
        partial(score_of, split=held_out),
        {"train": train.encoded.fingerprint, "eval": held_out.encoded.fingerprint},
        train.encoded,
        {"teacher_seconds": sum(seconds) if seconds else None} if teachers else {},
    )


def check_pairs(training: Training, losses: Mapping[str, Loss], encoded: Encoded) -> None:
    """Refuses losses on pairs of texts where there are none, or where a micro-batch would part them."""
    if encoded.task.kind != "embedding":
        return
    of_pairs = [type(loss).__name__ for loss in losses.values() if loss.reads_pairs or loss.reads_labels]
    if of_pairs and not encoded.paired:
        raise UserError(f"{of_pairs[0]} learns from pairs of texts: name the second column with --data.text_pair.")
    if of_pairs and training.batch_size % (2 * training.micro_batches):
        raise UserError(
            f"--batch_size={training.batch_size}: {of_pairs[0]} compares the texts of a pair; expected a multiple of "
            f"{2 * training.micro_batches} rows."
        )
    scores = encoded.labels
    if scores is not None and abs(scores).max() > 1 and any(loss.reads_labels for loss in losses.values()):
        raise UserError(
            f"the scores of pairs go from {scores.min():g} to {scores.max():g}; they are learned as cosines; "
            "expected -1 to 1: divide them by the highest."
        )


def check_packing(
    packed: bool,
    progressive: Progressive | None,
    losses: Mapping[str, Loss],
    student: BertConfig,
    teachers: Sequence[BertConfig],
) -> None:
    """Refuses losses that treat a row as one example, and models that cannot read several in one row."""
    if not packed:
        return
    inside = [
        type(loss).__name__ for loss in losses.values() for t in teachers or [student] if not loss.packable(student, t)
    ]
    if progressive:
        inside.append("progressive")
    if inside:
        raise UserError(
            f"--packed: {inside[0]} would take the examples of a row for one; leave it out, or learn from "
            "SoftTargets, HardLabels and MatchedStates alone."
        )
    for teacher in teachers:
        if teacher.unpackable:
            raise UserError(f"--packed: {teacher.unpackable}, for a teacher too; leave it out.")


def task_losses(losses: Mapping[str, Loss], student: BertConfig, ponder: float) -> dict[str, Loss]:
    """The losses, and the price of a recurrence's steps if the student has one."""
    from bertjax.learn.task_losses import PonderCost

    return {**losses, **({"ponder": PonderCost(ponder)} if student.recurrence else {})}


def train(training: Training, out: str, prepared: Prepared) -> Bundle:
    """Trains, and saves the model as `out/bundle`."""
    from bertjax.engine.log import note
    from bertjax.engine.loop import fit
    from bertjax.engine.record import keep, update_record
    from bertjax.quantized.calibration import calibration_of

    folder, learning = as_path(out), prepared.learning
    update_record(folder, **prepared.record)
    trained = fit(training, folder, prepared.label, learning, prepared.batches, prepared.peak)
    assert learning.finish is not None
    config, params = learning.finish(*trained)
    if config.hidden_size != prepared.student.config.hidden_size:
        note(f"hidden columns left: {config.hidden_size} of {prepared.student.config.hidden_size}")
    if config.depth_steps() != prepared.student.config.depth_steps():
        note(f"left of the model: {shapes(config)}")
    bundle = dataclasses.replace(prepared.student, config=config, params=params, newly_initialized=())
    if config.quantization and config.quantization.activations and prepared.sample is not None:
        bundle = dataclasses.replace(bundle, calibration=calibration_of(prepared.sample))
    keep(bundle, folder / "bundle")
    return bundle


def train_unscored(config: Any, text: Text, prepare: Callable[[Any, Text], Prepared]) -> None:
    """Runs the training of a config in its folder, unless it is finished there; does not score the model."""
    from bertjax.engine.record import begin, finish

    out = as_path(config.out)
    if begin(out, config, text.reader):
        return
    prepared = prepare(config, text)
    train(config, config.out, prepared)
    finish(out, {}, **prepared.fingerprints)


def result_of(out: str, data: Data, control: Control | None = None) -> StageResult:
    """The result of a finished stage, read from its folder."""
    from bertjax.engine.log import worked_seconds
    from bertjax.engine.record import read_record

    folder = as_path(out)
    record = read_record(folder) or {}
    result = StageResult(
        folder / "bundle", data, training_step_bytes=record.get("training_step_bytes"), control=control
    )
    if "epochs" not in record:
        return result
    result = result._replace(epochs=record["epochs"], seconds=worked_seconds(folder))
    if "teacher_seconds" not in record:
        return result
    if record["teacher_seconds"] is None:  # the teacher ran in every step
        return result._replace(teacher_epochs=result.epochs)
    return result._replace(teacher_epochs=1.0, seconds=result.seconds + record["teacher_seconds"])
