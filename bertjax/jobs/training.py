"""A prepared training run: all inputs of a recipe opened, read and checked.

Each kind of training has a function `prepare(config, text) -> Prepared`. `train` runs the result, and `--compile_only`
compiles it. As a stage of a compression it runs in the stage's own folder and is not scored there, because the report
scores every model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertjax.jobs.data import Split, Text
from bertjax.params import Tree
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Control, StageResult
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.engine.loop import Trained
    from bertjax.learn.phases import Phases
    from bertjax.learn.step import Objective
    from bertjax.text.batches import BatchIterator


@dataclass(frozen=True)
class Prepared:
    """A prepared training run."""

    label: str
    """What is done, for the progress line."""
    params: Tree
    """The trained parameters that ship."""
    objective: Objective
    batches: BatchIterator
    finish: Callable[[Trained], Bundle]
    """Makes the final model from the training result."""
    train: Split
    held_out: Split
    extra: Tree = field(default_factory=dict)
    """Trained parameters that do not ship."""
    state: Tree = field(default_factory=dict)
    constants: Tree = field(default_factory=dict)
    add_to_batch: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch
    phases: Phases | None = None
    record: dict[str, Any] = field(default_factory=dict)
    """Further entries for the record of the run: `teacher_seconds`, the time for the teacher's stored outputs."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the encoded examples, for the record of the run."""
        return {"train": self.train.encoded.fingerprint, "eval": self.held_out.encoded.fingerprint}


def train(training: Training, out: str, prepared: Prepared) -> Bundle:
    """Trains, and saves the model as `out/bundle`."""
    from bertjax.engine.loop import fit
    from bertjax.engine.record import keep, update_record

    trained = fit(
        training,
        as_path(out),
        prepared.label,
        params=prepared.params,
        extra=prepared.extra,
        objective=prepared.objective,
        batches=prepared.batches,
        prepare=prepared.add_to_batch,
        constants=prepared.constants,
        state=prepared.state,
        phases=prepared.phases,
    )
    bundle = prepared.finish(trained)
    keep(bundle, as_path(out) / "bundle")
    update_record(as_path(out), **prepared.record)
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
