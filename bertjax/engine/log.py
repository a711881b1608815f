"""What a run says while it works: `metrics.jsonl` always, TensorBoard beside it, and a progress line for people.

A line of `metrics.jsonl` is one JSON object with `step`, `time` (seconds since the epoch) and numbers, or an `event`.
Lines are only ever appended, so a restarted run shows where it was cut. A bucket cannot append: there the files are
written on this machine, from where those of the bucket end, and sent with every event, so before every checkpoint. On a
terminal the progress is a bar with the time left; elsewhere it is a plain line every few seconds, so that a log file
stays readable.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bertjax.engine.hosts import is_main_process
from bertjax.engine.tensorboard import Board
from bertjax.errors import UserError
from bertjax.storage.paths import is_remote, send


class Log:
    """Metrics to files, progress to the terminal. `label` names the run in what people see.

    Without `start` there is no progress line; a `quiet` log (of any process but the first) says and writes nothing.
    """

    def __init__(self, folder: Path, label: str, total: int, start: int | None = None, quiet: bool = False):
        self._bucket, self._quiet = (folder if is_remote(folder) else None), quiet
        if self._bucket is not None:
            folder = Path(tempfile.mkdtemp(prefix="bertjax-"))
            if not quiet and (self._bucket / "metrics.jsonl").is_file():
                (folder / "metrics.jsonl").write_bytes((self._bucket / "metrics.jsonl").read_bytes())
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = Path(os.devnull if quiet else folder / "metrics.jsonl").open("a", encoding="utf-8")  # noqa: SIM115
        self._board = None if quiet else Board(folder / "tensorboard")
        self._progress = None if start is None or quiet else Progress(label, total, start)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one step."""
        self._write({"step": step, **values})
        if self._board is not None:
            for name, value in values.items():
                self._board.scalar(name, value, step)

    def event(self, event: str, step: int, **details: Any) -> None:
        """Something that happened: start, restart, checkpoint, stop."""
        self._write({"step": step, "event": event, **details})
        self.flush()

    def progress(self, step: int, examples: int, loss: float | None) -> None:
        """`examples` more were seen, up to and including `step`."""
        if self._progress is not None:
            self._progress.update(step, examples, loss)

    def exclude(self, seconds: float) -> None:
        """Time that went into something else (compiling) and says nothing about the pace of steps."""
        if self._progress is not None:
            self._progress.began += seconds

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._bucket is not None:
            self.flush()
            shutil.rmtree(self._folder, ignore_errors=True)

    def flush(self) -> None:
        """Whatever happens to this machine now, what was said so far is not lost with it."""
        if self._bucket is None or self._quiet:
            return
        try:
            send(self._folder, self._bucket)
        except OSError as error:
            raise UserError(f"cannot write to {self._bucket}: {error.strerror or error}.") from None

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(defined({**line, "time": round(time.time(), 3)}), allow_nan=False) + "\n")
        self._file.flush()


class Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; both say examples per second and the time left."""

    def __init__(self, label: str, total: int, start: int):
        self.label, self.total, self.start = label, total, start
        self.began = self.printed = time.monotonic()
        self.first: int | None = None
        self.examples = 0
        self.bar = self._bar() if sys.stderr.isatty() else None
        if self.bar is None:
            note(f"{label}: step {start} of {total}")

    def _bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=Console(stderr=True))
        self.task = bar.add_task(self.label, total=self.total, completed=self.start, rate="")
        bar.start()
        return bar

    def update(self, step: int, examples: int, loss: float | None) -> None:
        now = time.monotonic()
        if self.first is None:  # The first step is slower than all others.
            self.began, self.first = now, step
            return
        self.examples += examples
        passed = max(now - self.began, 1e-9)
        said = f"{self.examples / passed:.0f} examples/s" + (f", loss {loss:.3f}" if loss is not None else "")
        if self.bar is not None:
            self.bar.update(self.task, completed=step, rate=said)
        elif (now - self.printed >= 10 and passed >= 2) or step == self.total:
            self.printed = now
            left = (self.total - step) * passed / (step - self.first)
            note(f"{self.label}: step {step} of {self.total}, {said}, {left:.0f} s left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def worked_seconds(folder: Path) -> float:
    """What the steps of a run took, over all its restarts: compiling, and the time between them, left out."""
    seconds, began, last = 0.0, 0.0, 0.0
    for line in map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if line.get("event") in ("start", "restart"):
            seconds, began = seconds + last - began, line["time"]
        last = line["time"]
        if line.get("event") == "compiled":
            seconds -= line["seconds"]
    return seconds + last - began


def defined(value: Any) -> Any:
    """For JSON, which has no NaN: null where a number is none, as a metric that is not defined for a batch."""
    if isinstance(value, dict):
        return {name: defined(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """One line for the person who watches, of the first process."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)
