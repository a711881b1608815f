"""From the `data` section of a config to encoded examples, and to a model whose head fits them.

Every command and stage reads its text through `Text`, so that a source is read once per run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.stage import Context
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path
from bertjax.text.tasks import OF_A_MODEL

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.measure.runtimes import FileRuntime
    from bertjax.model import BertConfig
    from bertjax.text.batches import BatchIterator
    from bertjax.text.encode import Encoded
    from bertjax.text.examples import Examples
    from bertjax.text.facts import Facts
    from bertjax.text.reader import TextReader
    from bertjax.text.tasks import Task
    from bertjax.text.tokenizer import Tokenizer


class Split(NamedTuple):
    """Examples as text and as encoded tokens."""

    examples: Examples
    encoded: Encoded


class Text(NamedTuple):
    """The text that a config names, each source read once."""

    data: Data
    reader: TextReader
    verbose: bool = False
    """Whether to print the summary of the data. A command prints it once, its stages do not."""

    @classmethod
    def of(cls, data: Data, verbose: bool = True, model: str | None = None) -> Text:
        """Text with nothing read yet; `model` is the reference model that the data leaves open."""
        from bertjax.text.reader import TextReader

        return cls(with_reference(data, model), TextReader(), verbose)

    @classmethod
    def of_context(cls, context: Context) -> Text:
        """The text of a stage, which shares the reader of its run."""
        return cls(context.data, context.reader)

    def task(self, source: str | None = None, split: str = "train") -> Task:
        """The task with its open kind, labels and metric filled in from the training data, or from another source.
        Columns stay as given: another source of the same task may name them differently."""
        given = self.data.task
        found, _ = self.reader.read(source or self.data.train, given, split)
        if found.kind in OF_A_MODEL:  # pairs to score on may have scores where the text to learn from has none
            found = self.reader.read(self.data.eval, given, "test")[0]
        return dataclasses.replace(given, kind=found.kind, labels=found.labels, metric=found.metric)

    def training_examples(self, task: Task, labelled: bool = False) -> Examples:
        """All examples of `data.train`, or `data.rows` of them."""
        from bertjax.text.examples import chosen_by_text

        return chosen_by_text(self.reader.read(self.data.train, task, "train", labelled)[1], self.data.rows)

    def training(self, task: Task, tokenizer: Tokenizer, labelled: bool = True) -> Split:
        """The training examples, encoded."""
        return self._encoded(self.training_examples(task, labelled), task, tokenizer)

    def held_out(
        self, task: Task, tokenizer: Tokenizer, source: str | None = None, split: str = "test", labelled: bool = True
    ) -> Split:
        """The examples of `data.eval`, or of another source, encoded."""
        modelled = task.kind in OF_A_MODEL
        examples = self.reader.read(source or self.data.eval, task, split, labelled and not modelled)[1]
        found = self._encoded(examples, task, tokenizer)
        if not modelled or found.encoded.labels is not None or not labelled:
            return found
        return found._replace(encoded=dataclasses.replace(found.encoded, labels=self.reference(examples, task)))

    def reference(self, examples: Examples, task: Task) -> Any:
        """The embeddings of the data's reference model for examples, computed once per run."""
        import numpy as np

        from bertjax.predict import run_rows

        if self.data.reference is None:
            raise UserError(
                "texts to embed without scores are judged by the similarities of a model: --data.reference=FOLDER"
            )

        def embeddings() -> Any:
            bundle, _ = open_model(self.data.reference or "", task, 0)
            encoded = self._encoded(examples, task, tokenizer_of(bundle)).encoded
            return np.stack(run_rows(bundle.model, bundle.device_params, encoded)[0])

        return self.reader.once((self.data.reference, examples.fingerprint, task, self.data.max_length), embeddings)

    def describe(self, train: Split, held_out: Split) -> None:
        """Prints the summary of the data, before training."""
        if self.verbose:
            describe(self.data, train, held_out)

    def _encoded(self, examples: Examples, task: Task, tokenizer: Tokenizer) -> Split:
        return Split(examples, self.reader.encode(examples, task, tokenizer, self.data.max_length))


def with_reference(data: Data, model: str | None) -> Data:
    """The data with a model as the reference that it leaves open, if texts are to be embedded."""
    if data.kind != "embedding" or data.reference is not None or model is None:
        return data
    return dataclasses.replace(data, reference=model)


def describe(
    data: Data, train: Split | None, held_out: Split, role: str = "train", source: str | None = None
) -> tuple[Facts, ...]:
    """Prints the summary of the data before training, and returns it for the report.

    `train` are the examples to train on or, with another `role`, to calibrate or choose on; `source` names them if they
    are not from `data.train`.
    """
    from bertjax.text.facts import facts_of, overlap, task_summary

    learned = train and train.examples
    sources: list[tuple[str, str, Split, Examples | None]]
    sources = [(role, source or data.train, train, None)] if train else []
    sources.append(("eval", data.eval, held_out, learned))
    facts = tuple(
        facts_of(role, short(name), one.examples, one.encoded, data.max_length, known)
        for role, name, one, known in sources
    )
    shown = learned if learned and learned.labels is not None else held_out.examples
    note(f"{task_summary(shown)} (otherwise: --data.text, .label, .kind, .labels, .metric)")
    for one in facts:
        note(one.sentence())
    if warning := overlap(facts):
        note(f"warning: {warning}")
    return facts


def require_other_text(held_out: Split, source: str, other: Split, role: str, why: str) -> None:
    """Raises a `UserError` if the examples of `--held_out`, named `source`, are those of another role."""
    if held_out.encoded.fingerprint == other.encoded.fingerprint:
        raise UserError(f"--held_out and {role} are the same text, {source}. {why}")


def describe_for(text: Text, model: str, task: Task, learned: bool = True) -> tuple[Facts, ...]:
    """As `describe`, for the tokenizer of a model; `learned` tells whether the training text is used at all."""
    bundle, task = open_model(model, task, 0)
    train = text.training(task, tokenizer_of(bundle), labelled=False) if learned else None
    return describe(text.data, train, text.held_out(task, tokenizer_of(bundle)))


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle from `open_model`, which always has one."""
    assert bundle.tokenizer is not None
    return bundle.tokenizer


def short(source: str) -> str:
    """The name of a source in reports: a file without its folder."""
    return Path(source).name if as_path(source).exists() else source


def open_model(name: str, task: Task, seed: int, **settings: Any) -> tuple[Bundle, Task]:
    """A bundle with a head for the task, and the task with its labels in the order of that head.

    A model that already has a head for this kind of task keeps it, and its labels must match the data's. Any other gets
    a new head, drawn from `seed` and listed in `newly_initialized`.
    """
    from bertjax.bundle import architecture_for, load, stored_config
    from bertjax.text.tasks import align_labels

    stored = stored_config(name)
    architecture = architecture_for(task.kind, stored.model_type)
    problem = {"regression": "regression", "multi_label": "multi_label_classification"}.get(task.kind)
    if stored.architecture == architecture:
        task = align_labels(task, dict(enumerate(stored.labels)), name)
    fixed = {"regression": ("score",), "qa": ("start", "end"), "embedding": stored.labels}
    labels = fixed.get(task.kind, task.labels)
    if not labels:
        raise UserError(f"{name} has no head for this task and the data has no labels to make one from.")
    bundle = load(name, architecture=architecture, labels=labels, seed=seed, problem_type=problem, **settings)
    if bundle.tokenizer is None:
        raise UserError(f"{name} has no tokenizer.json or vocab.txt; a model is trained together with its tokenizer.")
    return bundle, dataclasses.replace(task, no_answer_threshold=bundle.config.no_answer_threshold or 0.0)


def has_trained_head(model: str, task: Task) -> bool:
    """Whether the model needs no fine-tuning: it has a head for this kind of task, with these labels."""
    return not open_model(model, task, 0)[0].newly_initialized


def without_threshold(bundle: Bundle, name: str) -> Bundle:
    """The bundle without its threshold of early exit or of no answer: its outputs will change, so it has to be
    calibrated again."""
    from bertjax.adaptive import forget_threshold

    config = forget_threshold(bundle.config)
    if config != bundle.config:
        note(f"{name}: its threshold is removed, as its answers will change; run bertjax calibrate again")
    return dataclasses.replace(bundle, config=config)


def training_batches(training: Training, data: Data, encoded: Encoded, packed_for: BertConfig | None) -> BatchIterator:
    """The batches of a run: one example per row, with examples of similar length together; or several examples per row,
    packed for a model of the config `packed_for`."""
    from bertjax.engine.hosts import process_shard
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets
    from bertjax.text.packing import packed_batches

    longest, common = data.max_length, {"seed": training.seed, **process_shard()}
    if packed_for is None:
        buckets = length_buckets(encoded.lengths, longest)
        return batches(encoded, training.batch_size, buckets=buckets, **common)
    if packed_for.unpackable:
        raise UserError(f"--packed: {packed_for.unpackable}; leave it out.")
    most, limit = encoded.lengths.max(), packed_for.max_tokens
    if most > limit:
        raise UserError(
            f"--data.max_length={longest}: the longest example has {most} tokens, the model {limit} positions; "
            f"give --data.max_length={limit}, or fewer."
        )
    packed = packed_batches(encoded, training.batch_size, row_length=longest, **common)
    examples = len(encoded) / packed.steps_per_epoch
    note(
        f"packed: a step of {training.batch_size} rows learns from {examples:.0f} examples; compare runs by examples, "
        "not by steps"
    )
    return packed


def evenly_spaced(encoded: Encoded, count: int, one_length: bool = False) -> list[Any]:
    """About `count` examples, evenly spaced over the data, in batches of 32. Batches are padded to buckets, or all to
    one length."""
    import numpy as np

    from bertjax.text.batches import gather
    from bertjax.text.buckets import length_buckets

    rows = np.unique(np.linspace(0, len(encoded) - 1, min(len(encoded), count)).round().astype(np.int64))
    rows = rows[np.argsort(encoded.lengths[rows], kind="stable")]
    longest = int(encoded.lengths[rows].max())
    buckets = np.array([longest] if one_length else length_buckets(encoded.lengths, int(encoded.lengths.max())))
    parts = [rows[start : start + 32] for start in range(0, len(rows), 32)]
    return [gather(encoded, p, int(buckets[buckets >= encoded.lengths[p].max()][0])) for p in parts]


def predict_split(bundle: Bundle, split: Split) -> tuple[Any, Any]:
    """Predictions and labels of a split, in the form that the metric compares."""
    from bertjax.predict import run_rows, score_inputs

    logits, _ = run_rows(bundle.model, bundle.device_params, split.encoded)
    return score_inputs(split.encoded, split.examples, logits)


def predict_exported(folder: Path, split: Split, runtime: FileRuntime = "onnxruntime") -> tuple[Any, Any]:
    """As `predict_split`, for an exported folder in its runtime."""
    from bertjax.machine.processor import thread_count
    from bertjax.measure.onnx import answer, longest_input, open_session
    from bertjax.predict import BatchOutput, run_rows_with, score_inputs
    from bertjax.storage import manifest
    from bertjax.storage.paths import local

    folder = local(folder)
    manifest.check(folder)
    session = open_session(folder, thread_count(), runtime=runtime)

    def run(batches: Iterable[Any]) -> Iterator[BatchOutput]:
        return (BatchOutput(*answer(session, *batch)) for batch in batches)

    logits, _ = run_rows_with(run, split.encoded, longest_input(folder))
    return score_inputs(split.encoded, split.examples, logits)


def score_of(bundle: Bundle, split: Split) -> dict[str, float]:
    """The task's metric and the score of a model on a split; and what is left there of a model that drops tokens."""
    from bertjax.metrics.scores import score
    from bertjax.token_dropping.costs import tokens_left
    from bertjax.token_dropping.counts import measured_tokens

    metric, left = split.encoded.task.metric, tokens_left(bundle.config, split.encoded.lengths)
    if bundle.config.retention and left is None:
        left = measured_tokens(bundle.model, bundle.device_params, split.encoded)
    return {metric: score(metric, *predict_split(bundle, split)), **(left.numbers if left else {})}


def compute_settings(training: Training) -> dict[str, Any]:
    """The fields of `BertConfig` that set how this run computes. Prints a note if the attention kernel has no dropout.

    Raises:
      UserError: The kernel does not run here.
    """
    settings = {"dtype": training.dtype, "remat": training.remat, "attention": training.attention}
    if training.attention == "xla":
        return settings
    from bertjax.model.attention import require_backend

    require_backend(training.attention)
    note(f"--attention={training.attention} drops no attention probabilities: attention_probs_dropout_prob is now 0")
    return {**settings, "attention_probs_dropout_prob": 0.0}
