"""What packing saves: padding to the maximum, batches of like length, and several texts a row, on real lengths.

    python -m tests.benchmarks.packing --data=FILE [--max_length=64] [--positions=2048] [--repeats=5] [--seconds=3]

A fine-tuning step of MiniLM-L6-H384 (dropout, clipped gradient, AdamW) is timed in every shape that a way has, each in
a process of its own, in turns; all batches have as many positions. A way's epoch is its steps in each shape times the
median of the repeat; examples per second are those of the epoch, and ratios are taken within a repeat. First it is
shown that a text has the same loss in all three (dropout off), so that nobody is fast by learning something else.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks.speed import take_turns

WAYS = ("padded to the maximum", "batches of like length", "packed")
SAMPLE = 256
"""Texts whose losses are compared."""


class Shape(NamedTuple):
    """One shape of a way, how many steps of an epoch have it, and a batch of it."""

    way: str
    rows: int
    length: int
    steps: float
    batch: dict[str, np.ndarray]

    def __str__(self) -> str:
        return f"{self.way}, {self.rows} x {self.length}"


def shapes(encoded: Any, max_length: int, positions: int) -> Iterator[Shape]:
    """All shapes of all ways, with as many positions a batch."""
    from bertjax.text.batches import batches, gather
    from bertjax.text.buckets import bucket_of, length_buckets
    from bertjax.text.packing import pack_rows, packed_batches

    rows = positions // max_length
    whole = next(batches(encoded, rows, seed=0, buckets=(max_length,)))
    yield Shape(WAYS[0], rows, max_length, len(encoded) / rows, whole)
    edges = bucket_of(encoded.lengths, length_buckets(encoded.lengths, max_length))
    for length in map(int, np.unique(edges)):
        members, many = np.flatnonzero(edges == length), positions // length
        yield Shape(WAYS[1], many, length, len(members) / many, gather(encoded, np.resize(members, many), length))
    packed = next(packed_batches(encoded, rows, row_length=max_length, seed=0))
    yield Shape(WAYS[2], rows, max_length, len(pack_rows(encoded.lengths, max_length)) / rows, packed)


def step_on(batch: dict[str, np.ndarray], folder: str) -> tuple[Callable[[], float], dict]:
    """One fine-tuning step on a batch, in the process where it is timed."""
    import bertjax
    from tests.benchmarks.frameworks import fine_tuning_step

    step = fine_tuning_step(bertjax.load(folder))
    return lambda: step(batch), {}


def losses(bundle: Any, run: Any) -> np.ndarray:
    """The loss of every text in its own order, whatever it shared a batch with: the derivative of the weighted sum with
    respect to the text's weight."""
    import jax

    from bertjax.learn.losses import classification
    from bertjax.text.batches import inputs_of, places_of

    @jax.jit
    def of_each(params: Any, batch: Any) -> Any:
        logits = bundle.model.apply({"params": params}, *inputs_of(batch), **places_of(batch)).logits
        return jax.grad(lambda weights: classification(logits, {**batch, "weights": weights})[0])(batch["weights"])

    found: dict[int, float] = {}
    for batch in run:
        said = np.asarray(of_each(bundle.device_params, batch))
        found |= {int(row): float(said[at]) for at, row in np.ndenumerate(batch["example_ids"]) if row >= 0}
    return np.array([found[row] for row in range(len(found))])


def largest_difference(bundle: Any, encoded: Any, max_length: int) -> float:
    """How far the losses of a text are apart, between any two ways."""
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets
    from bertjax.text.packing import packed_batches

    common: dict[str, Any] = {"batch_size": 16, "seed": 0, "epochs": 1}
    ways = [
        batches(encoded, buckets=(max_length,), **common),
        batches(encoded, buckets=length_buckets(encoded.lengths, max_length), **common),
        packed_batches(encoded, row_length=max_length, **common),
    ]
    return float(np.ptp(np.stack([losses(bundle, run) for run in ways]), axis=0).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="labelled texts: a file, or demo")
    parser.add_argument("--max_length", type=int, default=64, help="longest text, and length of a packed row")
    parser.add_argument("--positions", type=int, default=2048, help="of every batch, padding included")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each shape in each repeat")
    arguments = parser.parse_args()
    import bertjax
    from bertjax.text.encode import encode_examples
    from bertjax.text.examples import chosen_by_text
    from bertjax.text.sources import infer_task, load_examples

    longest, task = arguments.max_length, infer_task(arguments.data)
    bundle = bertjax.load("demo", architecture="BertForSequenceClassification", labels=task.labels)
    assert bundle.tokenizer is not None
    examples = load_examples(arguments.data, task, "train")
    some, encoded = (
        encode_examples(e, task, bundle.tokenizer, longest) for e in (chosen_by_text(examples, SAMPLE), examples)
    )
    apart = largest_difference(bundle, some, longest)
    assert apart < 1e-5, apart
    print(f"{len(encoded)} texts, {encoded.lengths.mean():.1f} pieces on average, at most {longest}")
    print(f"losses of {len(some)} texts differ by {apart:.1e} at most between the ways")
    with tempfile.TemporaryDirectory() as folder:
        bertjax.save(bundle, folder)
        every = {str(shape): shape for shape in shapes(encoded, longest, arguments.positions)}
        builders = {name: partial(step_on, shape.batch, folder) for name, shape in every.items()}
        _, times = take_turns(builders, arguments.repeats, arguments.seconds)
    for name, shape in every.items():
        print(f"  {name:42} {statistics.median(times[name]):8.1f} ms, {shape.steps:8.1f} steps")
    epochs = {  # seconds, of every repeat
        way: np.sum([np.array(times[name]) * s.steps for name, s in every.items() if s.way == way], axis=0) / 1000
        for way in WAYS
    }
    for way in WAYS:
        padding = sum(s.steps * s.rows * s.length for s in every.values() if s.way == way) / encoded.lengths.sum() - 1
        ratios = epochs[WAYS[0]] / epochs[way]
        speed = len(encoded) / np.median(epochs[way])
        span = f"{np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f})"
        print(f"{way:24} {speed:7.1f} examples/s  {span}, {padding:.2f} padding a piece")
    ratios = epochs[WAYS[1]] / epochs[WAYS[2]]
    print(f"packed beside batches of like length: {np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
