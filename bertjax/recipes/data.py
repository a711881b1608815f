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
    "squad_f1",
    "squad_em",
]


@dataclass(frozen=True)
class Data:
    """The text, and how to read it."""

    train: str = "demo"
    """Training examples: a file (.tsv .csv .jsonl .json .parquet .conll), tfds:NAME/SPLIT, or demo."""
    eval: str = "demo"
    """Examples to score on: a file, tfds:NAME/SPLIT, or demo."""
    text: str | None = None
    """Column of the text. None finds it by its usual names."""
    text_pair: str | None = None
    """Column of the second text, for tasks on pairs."""
    label: str | None = None
    """Column of the answer. None finds it by its usual names."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order in which a new head answers. None given: as in the data."""
    kind: Kind = "auto"
    """Kind of task. auto reads it off the data."""
    metric: Metric = "auto"
    """The score that counts. auto takes the usual one of the kind."""
    max_length: int = 128
    """Longest input in tokens. Longer text is cut, and counted before the first step and in the report."""
    rows: int | None = None
    """So many of the training examples, chosen by a hash of their text: always the same ones. None takes all."""

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
        columns = {"text": self.text, "text_pair": self.text_pair, "label": self.label}
        return Task(kind=self.kind, labels=self.labels, metric=self.metric, **columns)
