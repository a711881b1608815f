"""The log of a run: `metrics.jsonl`, TensorBoard files beside it, and a progress line on the terminal.

A line of `metrics.jsonl` is one JSON object with `step`, `time` (seconds since the epoch) and numbers, or an `event`.
Lines are only appended, so a resumed run shows where it was interrupted. A bucket cannot append: there a local copy is
written and uploaded with every event, hence before every checkpoint. On a terminal and in a notebook the progress
is a bar; elsewhere it is a plain line every few seconds, so that a log file stays readable.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Any

from bertjax.engine.hosts import is_main_process
from bertjax.errors import UserError
from bertjax.machine.notebook import in_notebook
from bertjax.storage.paths import is_remote, send


class Log:
    """Writes metrics to files and progress to the terminal, under the name `label`.

    Without `start` there is no progress line. A `quiet` log (of any process but the main one) writes nothing.
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
        self._board: Any = None
        self._progress = None if start is None or quiet else Progress(label, total, start)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Logs the numbers of one step."""
        self._write({"step": step, **values})
        if self._quiet:
            return
        if self._board is None:
            from tensorboardX import SummaryWriter  # with the first numbers: its import takes seconds beside torch

            self._board = SummaryWriter(str(self._folder / "tensorboard"), flush_secs=30)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def event(self, event: str, step: int, **details: Any) -> None:
        """Logs a start, restart, compilation, checkpoint or stop."""
        self._write({"step": step, "event": event, **details})
        self.flush()

    def progress(self, step: int, examples: int, loss: float | None) -> None:
        """Reports `examples` more examples, up to and including `step`."""
        if self._progress is not None:
            self._progress.update(step, examples, loss)

    def exclude(self, seconds: float) -> None:
        """Excludes seconds (of compilation) from the examples per second."""
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
        """Uploads the log where the folder is in a bucket, so that it survives this machine."""
        if self._bucket is None or self._quiet:
            return
        if self._board is not None:
            self._board.flush()
        try:
            send(self._folder, self._bucket)
        except OSError as error:
            raise UserError(f"cannot write to {self._bucket}: {error.strerror or error}.") from None

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(json_safe({**line, "time": round(time.time(), 3)}), allow_nan=False) + "\n")
        self._file.flush()


class Progress:
    """A bar on a terminal and in a notebook, a line every ten seconds elsewhere; all with examples per second and, but
    for the notebook's, the remaining time."""

    def __init__(self, label: str, total: int, start: int):
        self.label, self.total = label, total
        self.began = self.printed = time.monotonic()
        self.first: int | None = None
        self.examples = 0
        self.bar = None
        if in_notebook():
            self.bar = NotebookBar(label, total, start)
        elif sys.stderr.isatty():
            self.bar = TerminalBar(label, total, start)
        else:
            note(f"{label}: step {start} of {total}")

    def update(self, step: int, examples: int, loss: float | None) -> None:
        now = time.monotonic()
        if self.first is None:  # the first step is much slower than the others
            self.began, self.first = now, step
            return
        self.examples += examples
        passed = max(now - self.began, 1e-9)
        rate = f"{self.examples / passed:.0f} examples/s" + (f", loss {loss:.3f}" if loss is not None else "")
        if self.bar is not None:
            self.bar.update(step, rate)
        elif (now - self.printed >= 10 and passed >= 2) or step == self.total:
            self.printed = now
            remaining = (self.total - step) * passed / (step - self.first)
            note(f"{self.label}: step {step} of {self.total}, {rate}, {remaining:.0f} s left")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class TerminalBar:
    """A bar of rich on stderr."""

    def __init__(self, label: str, total: int, start: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task(label, total=total, completed=start, rate="")
        self.bar.start()

    def update(self, step: int, rate: str) -> None:
        self.bar.update(self.task, completed=step, rate=rate)

    def close(self) -> None:
        self.bar.stop()


class NotebookBar:
    """A bar in the output of a cell, as plain HTML: no widgets, which not every notebook can show."""

    PERIOD = 0.5
    """Seconds between two changes: each is a message to the browser."""

    def __init__(self, label: str, total: int, start: int):
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        self.label, self.total, self.step, self.rate = label, total, start, ""
        self.changed = time.monotonic()
        self.handle = display(self, display_id=True)

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.step}" max="{self.total}"></progress>'
        return f"<div>{escape(self.label)} {bar} {self.step}/{self.total} {escape(self.rate)}</div>"

    def __repr__(self) -> str:
        return f"{self.label} {self.step}/{self.total} {self.rate}"

    def update(self, step: int, rate: str) -> None:
        self.step, self.rate = step, rate
        if time.monotonic() - self.changed > self.PERIOD:
            self.close()

    def close(self) -> None:
        """Shows where it stands now."""
        self.changed = time.monotonic()
        self.handle.update(self)


def worked_seconds(folder: Path) -> float:
    """Training time over all restarts, without compilation and the time between restarts."""
    seconds, began, last = 0.0, 0.0, 0.0
    for line in map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if line.get("event") in ("start", "restart"):
            seconds, began = seconds + last - began, line["time"]
        last = line["time"]
        if line.get("event") == "compiled":
            seconds -= line["seconds"]
    return seconds + last - began


def json_safe(value: Any) -> Any:
    """A value for JSON, which has no NaN: null for numbers that are not finite (undefined metrics)."""
    if isinstance(value, dict):
        return {name: json_safe(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """Prints one line to stderr, in the main process."""
    if is_main_process():
        print(text, file=sys.stderr, flush=True)
