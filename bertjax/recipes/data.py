"""The fields that every script shares, so that one name means one thing everywhere."""

from dataclasses import dataclass
from typing import Literal

from bertjax.errors import UserError
from bertjax.text.tasks import Kind, Task

Metric = Literal[
    "auto",
    "accuracy",
    "f1",
    "f1_macro",
    "matthews",
    "pearson",
    "spearman",
    "f1_micro",
    "entity_f1",
    "tag_accuracy",
    "squad_f1",
    "squad_em",
    "similarity_spearman",
    "recall_at_10",
    "ndcg_at_10",
]

EVERYDAY = ("model", "data.train", "data.eval", "out")
"""The everyday flags of most commands (`bertjax.engine.help`)."""
OF_TRAINING = ("epochs", "batch_size", "optimiser.learning_rate", "data.max_length", "seed")
"""The everyday flags of a training."""


@dataclass(frozen=True)
class Data:
    """The text, and how to read it."""

    train: str = "demo"
    """Training examples: a file (.tsv .csv .jsonl .json .parquet .conll), tfds:NAME/SPLIT, or demo."""
    eval: str = "demo"
    """Examples to score on: a file, tfds:NAME/SPLIT, or demo."""
    text: str | None = None
    """Column of the text. Default: found by its usual names."""
    text_pair: str | None = None
    """Column of the second text, for tasks on pairs."""
    label: str | None = None
    """Column of the label. Default: found by its usual names."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits of a new head. Default: as found in the data."""
    kind: Kind = "auto"
    """Kind of task. auto: inferred from the data."""
    metric: Metric = "auto"
    """Metric. auto: the usual metric of the task."""
    max_length: int = 128
    """Longest input in tokens. Longer examples are truncated; how many is printed before the first step and stands in
    the report."""
    rows: int | None = None
    """Use only this many training examples, chosen by a hash of their text, so that they are always the same. Default:
    all."""

    reference: str | None = None
    """For texts to embed without scores: the model whose similarities are the gold ones, a folder, hf:NAME or demo.
    Default: the model that the command begins with."""

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise UserError(
                f"--data.max_length={self.max_length}: expected at least 3 tokens, two of which are special"
            )
        if self.rows is not None and self.rows < 1:
            raise UserError(f"--data.rows={self.rows}: expected at least 1 training example")
        self.task  # noqa: B018  (its own checks, while the command line can still be named)

    @property
    def task(self) -> Task:
        """What these fields say of the task; `bertjax.text.sources.infer_task` finds the rest in the data."""
        return Task(self.kind, self.text, self.text_pair, self.label, self.labels, self.metric)
