"""Data augmentation by word substitution (`bertjax.text.augment`), written part by part so that it can be resumed.

The copies of an example depend on seed and example alone. So parts can be divided among processes, and an interrupted
run computes only those that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjax.errors import UserError
from bertjax.jobs.data import Text, tokenizer_of
from bertjax.recipes.augment import Augment, Config
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Context, StageResult
from bertjax.storage.paths import as_path, remove, staged, write_text

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.text.examples import Examples
    from bertjax.text.tasks import Task

PART = 128
"""Examples per part."""


def augment(config: Config, text: Text) -> Data:
    """Writes `config.out/augmented.jsonl`, and returns the config's data with that file as training text."""
    from bertjax.engine.hosts import barrier, on_main_process, process_shard
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, update_record
    from bertjax.text.facts import task_summary

    out, file = as_path(config.out), as_path(config.out) / "augmented.jsonl"
    examples = text.training_examples(config.data.task)
    task = examples.task
    note(task_summary(examples))
    if task.kind in ("tokens", "qa"):
        raise UserError(
            f"{config.data.train}: the labels of a task of kind {task.kind} refer to words of the text, so copies with "
            "other words would not fit them. Use the text without augmentation."
        )
    new: dict[str, Any] = {"labels": task.labels, "kind": task.kind, "metric": task.metric}
    data = dataclasses.replace(config.data, train=str(file), rows=None, **new)
    if begin(out, config, text.reader):
        return data
    parts = out / "parts" / examples.fingerprint[:16]
    count = make_parts(open_source(config, task, examples), parts, **process_shard())
    barrier()
    on_main_process(lambda: collect(parts, count, file))
    update_record(out, data={"train": examples.fingerprint}, result={})
    remove(parts.parent)
    with file.open(encoding="utf-8") as lines:
        note(f"{file}: {len(examples)} examples, {sum(1 for _ in lines)} with their copies")
    return data


def make_parts(source: Source, parts: Path, process_index: int, process_count: int) -> int:
    """Writes this process's share of the parts, except those that exist; returns the number of all parts."""
    from bertjax.engine.log import Progress

    examples = len(source.examples)
    mine = range(process_index, -(-examples // PART), process_count)
    missing = [number for number in mine if not (parts / part_name(number)).is_file()]
    bar = Progress("augmenting", len(mine), len(mine) - len(missing))
    for done, number in enumerate(missing, start=len(mine) - len(missing) + 1):
        lines = source.lines(number * PART, min((number + 1) * PART, examples))
        write(parts / part_name(number), "".join(lines))
        bar.update(done, PART, None)
    bar.close()
    return -(-examples // PART)


def part_name(number: int) -> str:
    return f"{number:06d}.jsonl"


def write(path: Path, text: str) -> None:
    """Writes a file atomically."""
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Free space, or give another --out.") from None


def collect(parts: Path, count: int, file: Path) -> None:
    """Joins all parts, in order, into one file."""
    with staged(file.parent) as folder:
        whole = folder / f".{file.name}.partial"
        with whole.open("wb") as target:
            for number in range(count):
                with (parts / part_name(number)).open("rb") as part:
                    shutil.copyfileobj(part, target)
        os.replace(whole, folder / file.name)


@dataclass(frozen=True)
class Source:
    """Examples, and everything that their copies depend on."""

    config: Config
    task: Task
    examples: Examples
    bundle: Bundle
    names: list[str]
    near: dict[str, list[str]]
    """Nearest neighbours, as candidates for the words that the masked language model does not predict."""
    buckets: tuple[int, ...]
    """Lengths that masked texts are padded to. They are the same for every part, so that the content of a part does not
    depend on the run that writes it."""

    def lines(self, start: int, end: int) -> Iterator[str]:
        """These examples and their copies as lines of JSON."""
        from bertjax.text.augment import read_texts, substituted
        from bertjax.text.draws import SUBSTITUTES, Draws

        columns = [column[start:end] for column in (self.examples.texts, self.examples.pairs) if column is not None]
        read = [read_texts(column, tokenizer_of(self.bundle), self.names) for column in columns]
        candidates = [self.candidates(texts) for texts in read]
        for row in range(end - start):
            original = [column[row] for column in columns]
            yield self.line(start + row, original)
            for side, texts in enumerate(read):
                draws = Draws(self.config.seed, 0, SUBSTITUTES, start + row, side)
                copies = self.config.tried, self.config.probability
                for copy in substituted(original[side], texts[row].words, candidates[side][row], *copies, draws):
                    yield self.line(start + row, [*original[:side], copy, *original[side + 1 :]])

    def candidates(self, texts: list[Any]) -> list[list[list[str]]]:
        """The candidates for every word of every text."""
        predicted: list[dict[int, list[str]]] = [{} for _ in texts]
        if self.config.substitutes == "predictions":
            from bertjax.distill.substitutes import likely_words

            sizes = {"count": self.config.candidates, "batch_size": self.config.batch_size, "buckets": self.buckets}
            predicted = likely_words(self.bundle, texts, self.names, **sizes)  # type: ignore[arg-type]
        return [
            [known.get(number, self.near.get(word.name, [])) for number, word in enumerate(text.words)]
            for text, known in zip(texts, predicted, strict=True)
        ]

    def line(self, row: int, texts: list[str]) -> str:
        named: dict[Any, Any] = dict(zip((self.task.text, self.task.text_pair), texts, strict=False))
        if self.examples.labels is not None:
            named[self.task.label] = self.examples.labels[row]
        return json.dumps(named, ensure_ascii=False) + "\n"


def open_source(config: Config, task: Task, examples: Examples) -> Source:
    """Reads all examples once, for the words that need neighbours and the lengths of the masked texts."""
    import numpy as np

    from bertjax.text.augment import neighbours, read_texts, token_strings
    from bertjax.text.buckets import length_buckets

    bundle = open_masked_lm(config)
    predicting, limit = config.substitutes == "predictions", bundle.config.max_tokens
    names, seen, lengths = token_strings(tokenizer_of(bundle)), Counter(), [4]
    queries: dict[str, tuple[int, ...]] = {}
    for column in (examples.texts, examples.pairs or []):
        for start in range(0, len(column), PART):
            for text in read_texts(column[start : start + PART], tokenizer_of(bundle), names):
                single = [word for word in text.words if len(word.tokens) == 1] if predicting else []
                lengths += [min(2 * len(text.ids) - 1, limit)] * len(single)
                others = [word for word in text.words if word not in single]
                seen.update(word.name for word in others)
                queries |= {word.name: word.tokens for word in others}
    table = np.asarray(bundle.params["embeddings"]["word"]["embedding"])
    near = neighbours(queries, seen, table, names, config.candidates)
    return Source(config, task, examples, bundle, names, near, length_buckets(np.array(lengths), limit))


def open_masked_lm(config: Config) -> Bundle:
    """The model, with its MLM head if substitutes are predictions."""
    from bertjax.bundle import load, stored_config
    from bertjax.model.config import PREFIXES

    stored = stored_config(config.model)
    predicting = config.substitutes == "predictions"
    architecture = PREFIXES[stored.model_type] + "ForMaskedLM" if predicting else None
    bundle = load(config.model, architecture=architecture)
    if bundle.tokenizer is None:
        raise UserError(f"{config.model} has no tokenizer.json or vocab.txt, so text cannot be tokenised.")
    if predicting and (bundle.newly_initialized or bundle.tokenizer.mask_id is None):
        raise UserError(
            f"{config.model} has no trained MLM head to predict masked words with. Train one on text like yours,\n"
            f"  bertjax pretrain --model={config.model} --sentences=none --data.train=TEXT --out=runs/words\n"
            "and give --model=runs/words/bundle; or use --substitutes=neighbours, which needs none."
        )
    return bundle


def run(recipe: Augment, context: Context) -> StageResult:
    """The stage: the context's data with the augmented training file."""
    model = recipe.model or context.model
    config = Config(**{**vars(recipe), "model": model, "data": context.data, "out": context.out})
    return StageResult(None, augment(config, Text.of_context(context)))
