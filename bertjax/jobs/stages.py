"""Stages: each takes a model folder and leaves one, so that any of them follows any other.

A finished stage is not run again, and an unfinished one continues: what a stage was asked and what it did stands in its
own folder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.stage import Context, Stage
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path, write_text


class Done(NamedTuple):
    """A stage that left a model."""

    stage: Stage
    data: Data
    """What it was given."""
    bundle: Any


FAILED = 4
"""Exit code where something failed and was left out of what was finished."""


class Failure(NamedTuple):
    """What did not work, and why."""

    what: str
    error: Exception

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, UserError) else f"{type(self.error).__name__}: "
        return kind + str(self.error)


Result = TypeVar("Result")


def attempt(what: str, folder: Any, work: Callable[[], Result]) -> Result | Failure:
    """What the work gives, or why there is nothing, so that the rest goes on. A defect, perhaps in a loss of the user's
    own, leaves its traceback in `folder/error.txt`."""
    import traceback

    from bertjax.engine.log import note

    try:
        return work()
    except Exception as error:
        if not isinstance(error, UserError):
            write_text(as_path(folder) / "error.txt", traceback.format_exc())
        failure = Failure(what, error)
        note(f"{what} failed: {failure}")
        return failure


def left_out(failures: Sequence[Failure]) -> str:
    """A sentence on what failed; empty if nothing did."""
    if not failures:
        return ""
    reasons = "; ".join(f"{one.what} ({str(one).splitlines()[0][:200]})" for one in failures)
    return f"Failed and left out: {reasons}. The same command tries what failed again, and keeps the rest."


def leave_if(sentence: str | None, code: int) -> None:
    """Leaves with the code and the sentence, where there is one."""
    import sys

    if sentence:
        print(sentence, file=sys.stderr)
        sys.exit(code)


def to_do(stages: Sequence[Stage], examples: int) -> str:
    """What is to be done, in a line; of what trains, about how many steps, as far as so many training examples say it:
    a stage that makes more of them makes longer ones."""
    parts = []
    for stage in stages:
        name = stage.name
        if isinstance(stage, Training) and getattr(stage, "qat", "") != "off":
            name += f" (about {stage.total_steps(-(-examples // stage.batch_size)):,} steps)"
        parts.append(name)
    return ", ".join(parts)


def run_in_order(
    stages: Sequence[Stage],
    context: Context,
    announce: Callable[[int, str], None] = lambda number, name: None,
    failures: list[Failure] | None = None,
) -> list[Done]:
    """Every stage in a folder of its own in `context.out`, on the model of the one before; returns those that left a
    model. With a list of `failures`, a stage that fails is added to it and is the last."""
    done: list[Done] = []
    first = context.model
    for number, stage in enumerate(stages, start=1):
        announce(number, stage.name)
        folder = as_path(context.out) / f"{number}-{stage.name}"
        model = str(done[-1].bundle) if done else context.model
        given = context._replace(model=model, out=str(folder), first=first)
        other = stage.run(given) if failures is None else attempt(stage.name, folder, partial(stage.run, given))
        if isinstance(other, Failure):
            failures.append(other)  # type: ignore[union-attr]
            break
        if other is None:
            done.append(Done(stage, context.data, folder / "bundle"))
            if len(done) == 1 and isinstance(stage, Finetune):
                first = str(done[0].bundle)
        else:
            context = context._replace(data=other)
    return done
