"""Stages: each takes a model folder and leaves one, so that any of them follows any other.

A finished stage is not run again, and an unfinished one continues: what a stage was asked and what it did stands in its
own folder.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from bertjax.paths import at

from .common import Data
from .finetune import Finetune


class Stage(Protocol):
    """What `stages` in a config may hold: a frozen dataclass whose `run` leaves a model in `context.out/bundle`, or
    returns other data for the stages that follow."""

    @property
    def name(self) -> str: ...

    def run(self, context: "Context") -> Data | None: ...


class Context(NamedTuple):
    """What a stage is given."""

    model: str
    """The model to begin with: the bundle of the stage before, or the model that the user gave."""
    data: Data
    out: str
    """The stage's own folder; its model is to be written to `out/bundle`."""
    teacher: str | None = None
    """Who teaches in every stage. None: whoever teaches is the model to begin with, and the student is cut from it."""
    outputs: str | None = None
    """Folder of the teacher's stored outputs, if not in the stage's own."""
    first: str | None = None
    """The model of the run that knew the task first; who only refines what came out of it may learn from it."""


class Done(NamedTuple):
    """A stage that left a model."""

    stage: Stage
    data: Data
    """What it was given."""
    bundle: Any


def run_in_order(
    stages: Sequence[Stage], context: Context, announce: Callable[[int, str], None] = lambda number, name: None
) -> list[Done]:
    """Every stage in a folder of its own in `context.out`, on the model of the one before; returns those that left a
    model."""
    done: list[Done] = []
    first = context.model
    for number, stage in enumerate(stages, start=1):
        announce(number, stage.name)
        folder = at(context.out) / f"{number}-{stage.name}"
        model = str(done[-1].bundle) if done else context.model
        other = stage.run(context._replace(model=model, out=str(folder), first=first))
        if other is None:
            done.append(Done(stage, context.data, folder / "bundle"))
            if len(done) == 1 and isinstance(stage, Finetune):
                first = str(done[0].bundle)
        else:
            context = context._replace(data=other)
    return done
