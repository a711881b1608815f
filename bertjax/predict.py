"""From texts to labels and probabilities, in batches of a few shapes.

The forward pass is compiled once per model and shape and returns the logits alone. The model's config decides how they
become labels: softmax over classes, sigmoid per label, a number, a tag per word, or an answer span.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import expit, softmax

from bertjax.errors import UserError
from bertjax.machine.layout import run_in_parts
from bertjax.machine.xla import Forward
from bertjax.metrics.neighbours import compared
from bertjax.metrics.scores import answers
from bertjax.model import BertConfig, BertModel
from bertjax.params import Tree
from bertjax.text.batches import Inputs, eval_batches, inputs_of
from bertjax.text.buckets import length_buckets
from bertjax.text.encode import Encoded, encode_examples
from bertjax.text.examples import Examples
from bertjax.text.tasks import Kind, Task
from bertjax.text.tokenizer import Tokenizer


class Predictions(NamedTuple):
    """Predictions for texts, one entry per text, in the order given."""

    labels: list[Any]
    """Class name; list of names (multi-label); number (regression); list of tags, one per word; answer text; the
    numbers of an embedding."""
    probabilities: Float[np.ndarray, "texts classes"] | None
    """None for regression, tags, answers and embeddings."""
    truncated: int
    """Number of texts that were longer than the limit and were cut at their end."""
    depths: list[int] | None = None
    """Depth steps that were computed for each text; None for a model without early exit or halting."""


@Forward
def forward(
    model: BertModel, params: Tree, ids: Int[Array, "b l"], mask: Int[Array, "b l"], types: Int[Array, "b l"]
) -> Array:
    """Logits in float32, and nothing else, so that XLA removes unused outputs. A recurrence stops when the whole batch
    has halted."""
    early = model.config.recurrence is not None
    logits = model.apply({"params": params}, ids, mask, types, stop_early=early).logits  # type: ignore[union-attr]
    return logits.astype(jnp.float32)


class BatchOutput(NamedTuple):
    """The output of a batch, filler rows included."""

    logits: np.ndarray
    depths: Int[np.ndarray, "b"] | None
    """Depth steps of each row, for models with early exit."""


def runner(model: BertModel, params: Tree) -> Callable[[Iterable[Inputs]], Iterator[BatchOutput]]:
    """A function from batches of (ids, mask, types) to their outputs, with early exit if the config has an exit rule.
    With early exit, all batches are read before the first output."""
    config = model.config
    exits = config.exits and config.exits.exit_rule
    halts = config.recurrence and config.recurrence.halting and model.reads_first
    if not exits and config.retention and any(config.retention.thresholds) and model.reads_first:
        from bertjax.adaptive import TokenCountExecutor

        counted = TokenCountExecutor(model, params)
        return lambda batches: (BatchOutput(logits, None) for logits in counted(batches))
    if not (exits or halts):
        run = forward.bound(model, params)
        return lambda batches: (BatchOutput(run_in_parts(run, *batch), None) for batch in batches)
    from bertjax.adaptive import EarlyExitExecutor, segmented_model

    executor = EarlyExitExecutor(segmented_model(config), params)
    return lambda batches: (BatchOutput(*output) for output in executor(list(batches)))


def kind_of(config: BertConfig) -> Kind:
    """The kind of task of a config's head."""
    if config.architecture.endswith("ForTokenClassification"):
        return "tokens"
    if config.architecture.endswith("ForQuestionAnswering"):
        return "qa"
    if config.embedding:
        return "embedding"
    if not config.architecture.endswith("ForSequenceClassification"):
        raise UserError(f"a {config.architecture} has no head that labels text; fine-tune it first.")
    if config.problem_type == "multi_label_classification":
        return "multi_label"
    return "regression" if config.problem_type == "regression" or len(config.labels) == 1 else "classification"


def run_rows(
    model: BertModel, params: Tree, encoded: Encoded, batch_size: int = 32
) -> tuple[list[np.ndarray], list[int] | None]:
    """Logits of every row of `encoded` ([tokens, ...] per row for tags and answers), and the depth steps that were
    computed for each row, None for a model without early exit or halting."""
    return run_rows_with(runner(model, params), encoded, model.config.max_tokens, batch_size)


def run_rows_with(
    run: Callable[[Iterable[Inputs]], Iterator[BatchOutput]], encoded: Encoded, longest: int, batch_size: int = 32
) -> tuple[list[np.ndarray], list[int] | None]:
    """As `run_rows`, with any function from batches to outputs."""
    buckets = length_buckets(encoded.lengths, longest)
    batches, again = tee(eval_batches(encoded, batch_size, buckets))
    rows: list[np.ndarray] = [np.empty(0)] * len(encoded)
    depths, differ = [0] * len(encoded), False
    for batch, output in zip(batches, run(map(inputs_of, again)), strict=True):
        for position in np.flatnonzero(batch["weights"]):
            number, row = batch["example_ids"][position], output.logits[position]
            rows[number] = row[: batch["attention_mask"][position].sum()] if row.ndim > 1 else row
            if output.depths is not None:
                depths[number], differ = int(output.depths[position]), True
    if invalid := [number for number, row in enumerate(rows) if not np.isfinite(row).all()]:
        raise UserError(
            f"the logits of {len(invalid)} of {len(rows)} texts are not finite (the first is text {invalid[0]}): "
            "an activation overflows. Train the model again, with a lower learning rate, or use dtype=float32."
        )
    return rows, depths if differ else None


def predict(
    model: BertModel,
    params: Tree,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    batch_size: int,
    max_length: int,
) -> Predictions:
    """Labels and probabilities for texts, in their order; empty for an empty list."""
    kind, labels = kind_of(model.config), model.config.labels
    check_inputs(kind, texts, pairs, batch_size)
    if not texts:
        return Predictions([], None, 0)
    words = [text.split() or [text] for text in texts] if kind == "tokens" else None
    joined = [" ".join(row) for row in words] if words else list(texts)
    examples = Examples(joined, list(pairs) if pairs is not None else None, words=words, source="texts to predict")
    threshold = model.config.no_answer_threshold or 0.0
    task = Task(kind=kind, labels=labels if kind != "qa" else (), no_answer_threshold=threshold)
    encoded = encode_examples(examples, task, tokenizer, max_length)
    logits, depths = run_rows(model, params, encoded, batch_size)
    return Predictions(*labels_from_logits(kind, labels, logits, encoded, examples), encoded.truncated, depths)


def embed(
    model: BertModel, params: Tree, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int, max_length: int
) -> Float[np.ndarray, "texts width"]:
    """The embeddings of texts, in their order."""
    if not texts:
        return np.zeros((0, model.config.output_size), np.float32)
    encoded = encode_examples(Examples(list(texts)), Task(kind="embedding"), tokenizer, max_length)
    return np.stack(run_rows(model, params, encoded, batch_size)[0])


def check_inputs(kind: Kind, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int) -> None:
    if isinstance(texts, str):
        raise UserError("texts is a single string; give a list of strings.")
    if pairs is not None and (isinstance(pairs, str) or len(pairs) != len(texts)):
        raise UserError(f"there are {len(texts)} texts; give pairs as a list of as many strings.")
    if pairs is None and kind == "qa":
        raise UserError("this model answers questions: give them as texts, and the contexts they are about as pairs.")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")


def score_inputs(encoded: Encoded, examples: Examples, logits: list[np.ndarray]) -> tuple[Any, Any]:
    """Predictions and labels in the form that `bertjax.metrics.scores.score` compares (see its table)."""
    kind, gold = encoded.task.kind, encoded.labels
    if kind in ("tokens", "qa"):
        predicted, _ = labels_from_logits(kind, encoded.task.labels, logits, encoded, examples)
        expected = examples.labels or []
        return predicted, expected if kind == "tokens" else [answer["text"] for answer in expected]
    if kind == "embedding":
        return compared(encoded.task.metric, np.stack(logits), gold, examples.texts, examples.pairs)
    return answers(kind, np.stack(logits)), gold


def labels_from_logits(
    kind: Kind, labels: Sequence[str], logits: list[np.ndarray], encoded: Encoded, examples: Examples
) -> tuple[list[Any], np.ndarray | None]:
    """Predictions from the logits of every row: (one label per example, probabilities or None)."""
    if kind == "classification":
        probabilities = softmax(np.stack(logits), axis=-1)
        return [labels[i] for i in probabilities.argmax(axis=-1)], probabilities
    if kind == "multi_label":
        probabilities = expit(np.stack(logits))
        return [[name for name, p in zip(labels, row, strict=True) if p > 0.5] for row in probabilities], probabilities
    if kind == "regression":
        return [float(row[0]) for row in logits], None
    if kind == "embedding":
        return [row.tolist() for row in logits], None
    from bertjax.text.answers import tags_or_answers

    return tags_or_answers(logits, encoded, examples), None
