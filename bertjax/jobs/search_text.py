"""The text that a search learns from, and the text that it chooses on.

The held-out part is chosen by a hash of the text, so equal texts, or the texts of a group, are on one side. Both parts
are files of the run's folder, which every stage reads like any other text. A teacher that was trained on the held-out
part scores too well there: what others lose against it is then overestimated, which is said where it shows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.jobs.data import Text
from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.storage.paths import write_text
from bertjax.text.tasks import OF_A_MODEL

if TYPE_CHECKING:
    from bertjax.text.examples import Examples
    from bertjax.text.tasks import Task

SHARE, MOST = 6, 1000
"""One in so many examples is held out, and at most so many examples."""


def searched_data(config: Config, text: Text, task: Task, out: Path) -> Data:
    """The data of the search: `train` is what it learns from, `eval` is what it chooses on.

    Raises:
      UserError: There are no labels to choose by, or the held-out text is the evaluation text.
    """
    data = text.data
    if config.held_out is not None:
        chosen, reported = (text.reader.read(source, task, "test")[1] for source in (config.held_out, data.eval))
        if chosen.fingerprint == reported.fingerprint:
            raise UserError(
                f"--held_out and --data.eval are the same text, {data.eval}: a score on what chose the model says too "
                "much. Give another --held_out, or leave it out: a part of the training text is taken."
            )
        return dataclasses.replace(data, eval=config.held_out)
    examples = text.training_examples(task, labelled=task.kind not in OF_A_MODEL)
    held = held_out_rows(examples, config.seed or 0)
    files = {name: out / "text" / f"{name}.jsonl" for name in ("train", "held-out")}
    rows = {"train": [row for row in range(len(examples)) if row not in held], "held-out": sorted(held)}
    if not rows["train"]:
        raise UserError(f"{data.train} has {len(examples)} examples, too few to hold some out: give --held_out.")
    for name, file in files.items():
        if not file.is_file():
            lines = (json.dumps(record(examples, row), ensure_ascii=False) for row in rows[name])
            write_once(file, "".join(f"{line}\n" for line in lines))
    note(f"{len(held)} of {len(examples)} training examples are held out, to choose on")
    of = examples.task
    fields = {name: getattr(of, name) for name in ("text", "text_pair", "label", "kind", "labels", "metric")}
    return dataclasses.replace(data, train=str(files["train"]), eval=str(files["held-out"]), rows=None, **fields)


def write_once(file: Path, content: str) -> None:
    """Writes a file in the main process; the others wait until it is written."""
    from bertjax.engine.hosts import on_main_process

    on_main_process(lambda: write_text(file, content))


def held_out_rows(examples: Examples, seed: int) -> set[int]:
    """The rows of the held-out part: those whose texts, or groups, have the smallest hashes."""
    keys = examples.groups or list(map("\t".join, zip(examples.texts, examples.pairs or examples.texts, strict=True)))
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    wanted, held = min(MOST, len(examples) // SHARE), set[int]()
    for key in sorted(rows, key=lambda key: hashlib.sha256(f"{seed}\t{key}".encode()).digest()):
        if len(held) + len(rows[key]) <= wanted:
            held.update(rows[key])
    if not held:
        raise UserError(f"{examples.source}: {len(examples)} examples are too few to hold some out: give --held_out.")
    return held


def record(examples: Examples, row: int) -> dict[str, Any]:
    """An example as a line of a table."""
    task = examples.task
    columns = {task.text: examples.words or examples.texts, task.text_pair: examples.pairs, task.label: examples.labels}
    return {name: column[row] for name, column in columns.items() if name is not None and column is not None}
