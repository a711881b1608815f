"""Stages: each begins with a model folder and makes one, so that any of them can follow any other.

A finished stage is not run again, and an unfinished one continues: its settings and its results are in its own folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.recipes.stage import Context, Stage, StageResult
from bertjax.storage.paths import as_path, write_text


class Done(NamedTuple):
    """A stage that made a model."""

    stage: Stage
    result: StageResult


FAILED = 4
"""Exit code where something failed and was left out of what was finished."""


class Failure(NamedTuple):
    """What failed, and why."""

    what: str
    error: Exception

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, UserError) else f"{type(self.error).__name__}: "
        return kind + str(self.error)


Result = TypeVar("Result")


def attempt(what: str, folder: Any, work: Callable[[], Result]) -> Result | Failure:
    """The result of the work, or why it failed, so that the rest goes on. An error that is no user's mistake leaves its
    traceback in `folder/error.txt`."""
    import traceback

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
    """Ends the process with the code and the sentence, where there is one."""
    if sentence:
        print(sentence, file=sys.stderr)
        sys.exit(code)


def planned(stages: Sequence[Stage], examples: int) -> str:
    """The stages in a line, with about how many steps each trains for so many training examples. A stage that makes
    more examples makes the following ones longer."""
    steps = [(stage.name, stage.planned_steps(examples)) for stage in stages]
    return ", ".join(f"{name} (about {count:,} steps)" if count else name for name, count in steps)


def run_in_order(
    stages: Sequence[Stage],
    context: Context,
    announce: Callable[[int, str], None] = lambda number, name: None,
    failures: list[Failure] | None = None,
) -> list[Done]:
    """Runs every stage in a folder of its own in `context.out`, on the model of the one before; returns those that made
    a model. With a list of `failures`, a stage that fails is added to it and is the last."""
    done: list[Done] = []
    outer = as_path(context.out)
    context = context._replace(finetuned=context.model)
    for number, stage in enumerate(stages, start=1):
        announce(number, stage.name)
        folder = outer / f"{number}-{stage.name}"
        context = context._replace(out=str(folder))
        work = partial(stage.run, context)
        result = work() if failures is None else attempt(stage.name, folder, work)
        if isinstance(result, Failure):
            assert failures is not None
            failures.append(result)
            break
        context = context._replace(data=result.data, control=result.control or context.control)
        if result.bundle is not None:
            first = not done
            done.append(Done(stage, result))
            context = context._replace(model=str(result.bundle))
            if first and stage.finetunes:
                context = context._replace(finetuned=context.model)
    return done
