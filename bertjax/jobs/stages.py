"""Running stages: each begins with a model folder and makes one, so that any stage can follow any other.

Settings and results of a stage are in its own folder: a finished stage is not run again, and an interrupted one
continues.
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
    """A finished stage and its model."""

    stage: Stage
    result: StageResult


FAILED = 4
"""Exit code if something failed and was left out of the result."""


class Failure(NamedTuple):
    """What failed, and the error."""

    what: str
    error: Exception

    def __str__(self) -> str:
        kind = "" if isinstance(self.error, UserError) else f"{type(self.error).__name__}: "
        return kind + str(self.error)


Result = TypeVar("Result")


def attempt(what: str, folder: Any, work: Callable[[], Result], failures: list[Failure] | None) -> Result | None:
    """The result of the work. If it fails, the failure is added to the list and the result is None, so that the rest
    can continue; without a list, the error is raised. The traceback of an error that is no `UserError` is written to
    `folder/error.txt`."""
    import traceback

    try:
        return work()
    except Exception as error:
        if failures is None:
            raise
        if not isinstance(error, UserError):
            write_text(as_path(folder) / "error.txt", traceback.format_exc())
        failures.append(Failure(what, error))
        note(f"{what} failed: {failures[-1]}")
        return None


def left_out(failures: Sequence[Failure]) -> str:
    """A sentence on what failed; empty if nothing did."""
    if not failures:
        return ""
    reasons = "; ".join(f"{one.what} ({str(one).splitlines()[0][:200]})" for one in failures)
    return f"Failed and left out: {reasons}. The same command tries what failed again, and keeps the rest."


class Incomplete(SystemExit):
    """A job is done but for what the sentence says. It ends a command with its code; a function of `bertjax.api` hands
    the sentence on."""

    def __init__(self, sentence: str, code: int):
        super().__init__(code)
        self.sentence = sentence


def leave_if(sentence: str | None, code: int) -> None:
    """Ends the job with this exit code and sentence, if there is a sentence."""
    if sentence:
        print(sentence, file=sys.stderr)
        raise Incomplete(sentence, code)


def planned(stages: Sequence[Stage], examples: int) -> str:
    """The stages in one line, with the approximate number of training steps for this number of examples. Stages after a
    data augmentation will take more steps."""
    steps = [(stage.name, stage.planned_steps(examples)) for stage in stages]
    return ", ".join(f"{name} (about {count:,} steps)" if count else name for name, count in steps)


def run_in_order(
    stages: Sequence[Stage],
    context: Context,
    announce: Callable[[int, str], None] = lambda number, name: None,
    failures: list[Failure] | None = None,
) -> list[Done]:
    """Runs every stage in a folder of its own in `context.out`, each on the model of the previous one; returns the
    stages that made a model. If a list of `failures` is given, a failing stage is added to it and ends the sequence;
    otherwise it raises."""
    done: list[Done] = []
    outer = as_path(context.out)
    context = context._replace(finetuned=context.model)
    for number, stage in enumerate(stages, start=1):
        announce(number, stage.name)
        folder = outer / f"{number}-{stage.name}"
        context = context._replace(out=str(folder))
        result = attempt(stage.name, folder, partial(stage.run, context), failures)
        if result is None:
            break
        context = context._replace(data=result.data, control=result.control or context.control)
        if result.bundle is not None:
            first = not done
            done.append(Done(stage, result))
            context = context._replace(model=str(result.bundle))
            if first and stage.finetunes:
                context = context._replace(finetuned=context.model)
    return done
