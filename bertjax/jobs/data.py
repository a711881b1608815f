"""From the `data` section of a config to encoded examples, and to a model whose head fits them."""

from typing import Any, NamedTuple

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.recipes.data import Data
from bertjax.recipes.training import Training
from bertjax.storage.paths import as_path


class Split(NamedTuple):
    """Examples as people wrote them and as the model reads them."""

    examples: Any
    encoded: Any


def read_split(data: Data, source: str, task: Any, tokenizer: Any, split: str, labelled: bool = True) -> Split:
    """Reads and encodes one source, of a training split `data.rows` examples."""
    from bertjax.text.encode import encode_examples
    from bertjax.text.examples import chosen_by_text
    from bertjax.text.sources import load_examples

    examples = load_examples(source, task, split, labelled=labelled)
    if split == "train":
        examples = chosen_by_text(examples, data.rows)
    return Split(examples, encode_examples(examples, task, tokenizer, data.max_length))


def tell(data: Data, train: Split | None, held_out: Split, role: str = "train", source: str | None = None) -> Any:
    """Says what was read, before anything is learned from it, and returns it for the report (`Facts`). `train` is what
    is learned or, by another `role`, chosen from; `source` names it where it is not `data.train`."""
    from bertjax.text.facts import described, facts_of, overlap

    learned = train and train.examples
    sources = [(role, source or data.train, train, None)] if train else []
    sources.append(("eval", data.eval, held_out, learned))
    facts = tuple(
        facts_of(role, short(name), one.examples, one.encoded, data.max_length, known)
        for role, name, one, known in sources
    )
    shown = learned if learned and learned.labels is not None else held_out.examples
    note(f"{described(shown)} (otherwise: --data.text, .label, .kind, .labels, .metric)")
    for one in facts:
        note(one.sentence())
    if warning := overlap(facts):
        note(f"warning: {warning}")
    return facts


def tell_first(data: Data, name: str, task: Any, learned: bool = True) -> Any:
    """As `tell`, for who has read nothing yet: the text as the model of that name reads it; `learned` says whether the
    training text is looked at at all."""
    bundle, task = open_model(name, task, 0)
    train = read_split(data, data.train, task, bundle.tokenizer, "train", labelled=False) if learned else None
    return tell(data, train, read_split(data, data.eval, task, bundle.tokenizer, "test"))


def short(source: str) -> str:
    """A source as reports name it: a file without its folder."""
    from pathlib import Path

    return Path(source).name if as_path(source).exists() else source


def training_examples(data: Data, task: Any, labelled: bool = False) -> Any:
    """The examples to learn from: all of `data.train`, or `data.rows` of them."""
    from bertjax.text.examples import chosen_by_text
    from bertjax.text.sources import load_examples

    return chosen_by_text(load_examples(data.train, task, "train", labelled=labelled), data.rows)


def training_task(data: Data) -> Any:
    """The task with everything that the training data says about it."""
    from bertjax.text.sources import infer_task

    return infer_task(data.train, data.task)


def has_labels(data: Data, task: Any) -> bool:
    """Whether the training data has labels, or is text alone."""
    return training_examples(data, task).labels is not None


def open_model(name: str, task: Any, seed: int, **settings: Any) -> tuple[Any, Any]:
    """A bundle with a head for the task, and the task with its labels in the order of that head.

    A model that already has a head for this kind of task keeps it, and its labels must be the data's. Any other gets a
    new head, drawn from `seed` and listed in `newly_initialized`.
    """
    from bertjax.bundle import architecture_for, load, stored_config
    from bertjax.text.tasks import align_labels

    stored = stored_config(name)
    architecture = architecture_for(task.kind, stored.model_type)
    problem = {"regression": "regression", "multi_label": "multi_label_classification"}.get(task.kind)
    if stored.architecture == architecture:
        task = align_labels(task, dict(enumerate(stored.labels)), name)
    labels = {"regression": ("score",), "qa": ("start", "end")}.get(task.kind, task.labels)
    if not labels:
        raise UserError(f"{name} has no head for this task and the data has no labels to make one from.")
    bundle = load(name, architecture=architecture, labels=labels, seed=seed, problem_type=problem, **settings)
    if bundle.tokenizer is None:
        raise UserError(f"{name} has no tokenizer.json or vocab.txt; a model is trained together with its tokenizer.")
    return bundle, task


def to_be_changed(bundle: Any, name: str) -> Any:
    """The bundle, from which nobody leaves early until it is calibrated anew: its answers will be others."""
    import dataclasses

    from bertjax.adaptive import forget_threshold

    exits = bundle.config.exits
    if exits is not None and exits.leaving is not None:
        note(f"{name}: its threshold is forgotten, for its answers will change; calibrate again (bertjax calibrate)")
    return dataclasses.replace(bundle, config=forget_threshold(bundle.config))


def training_batches(config: Any, encoded: Any, model: Any) -> Any:
    """What a run learns from, for a model of this `BertConfig`: rows of an example each, those of like length together,
    or with `config.packed` of several."""
    from bertjax.engine.hosts import process_shard
    from bertjax.text.batches import batches
    from bertjax.text.buckets import length_buckets
    from bertjax.text.packing import packed_batches

    longest, common = config.data.max_length, {"seed": config.seed, **process_shard()}
    if not config.packed:
        buckets = length_buckets(encoded.lengths, longest)
        return batches(encoded, config.batch_size, buckets=buckets, **common)
    if model.unpackable:
        raise UserError(f"--packed: {model.unpackable}; leave it out.")
    most, limit = encoded.lengths.max(), model.max_position_embeddings
    if most > limit:
        raise UserError(
            f"--data.max_length={longest}: the longest text has {most} pieces, the model {limit} positions; "
            "give so many, or fewer."
        )
    packed = packed_batches(encoded, config.batch_size, row_length=longest, **common)
    texts = len(encoded) / packed.steps_per_epoch
    note(
        f"packed: a step of {config.batch_size} rows learns from {texts:.0f} texts; compare runs by texts, not by steps"
    )
    return packed


def predict_split(bundle: Any, split: Split) -> tuple[Any, Any]:
    """Predictions and labels of a split, as the score compares them."""
    from bertjax.predict import run_rows, score_inputs

    logits, _ = run_rows(bundle.model, bundle.device_params, split.encoded)
    return score_inputs(split.encoded, split.examples, logits)


def predict_exported(folder: Any, split: Split) -> tuple[Any, Any]:
    """As `predict_split`, of an exported folder in ONNX Runtime."""
    from bertjax.machine.processor import thread_count
    from bertjax.measure.onnx import answer, longest_input, open_session
    from bertjax.predict import Answered, answered_rows, score_inputs
    from bertjax.storage import manifest
    from bertjax.storage.paths import local

    folder = local(folder)
    manifest.check(folder)
    session = open_session(folder, thread_count())

    def run(batches: Any) -> Any:
        return (Answered(answer(session, *batch), None) for batch in batches)

    logits, _ = answered_rows(run, split.encoded, longest_input(folder))
    return score_inputs(split.encoded, split.examples, logits)


def score_of(bundle: Any, split: Split) -> float:
    """The task's score of a model on a split."""
    from bertjax.metrics.scores import score

    return score(split.encoded.task.metric, *predict_split(bundle, split))


def compute_settings(training: Training) -> dict[str, Any]:
    """How a model computes in this run, in fields of `BertConfig`. A dropout that is not there is said once.

    Raises:
      UserError: The kernel does not run here.
    """
    settings = {"dtype": training.dtype, "remat": training.remat, "attention": training.attention}
    if training.attention == "xla":
        return settings
    from bertjax.engine.log import note
    from bertjax.model.attention import require_backend

    require_backend(training.attention)
    note(f"--attention={training.attention} drops no attention probabilities: attention_probs_dropout_prob is now 0")
    return {**settings, "attention_probs_dropout_prob": 0.0}
