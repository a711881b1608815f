"""The description of a task: which columns to read, the kind of label, and the metric.

A `Task` is a frozen dataclass of plain values, so it can be part of a config file, a report and a bundle. Every field
may be left open: `"auto"`, `None` and `()` are inferred from the data (by `sources.infer_task`), and what is given is
never overruled. The order of `labels` is the order of the model's outputs. So for a model with a trained head its own
label names decide: call `align_labels` first and load the data with the task that it returns.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bertjax.errors import UserError

Kind = Literal["auto", "classification", "regression", "multi_label", "tokens", "qa", "embedding"]
OF_A_MODEL = ("embedding",)
"""Kinds whose gold answers, where the text has none, are those of a reference model: any text will do."""
BY_TOKEN = ("tokens", "qa")
"""Kinds whose models have outputs for every token, and not one output per text."""

# The possible metrics of each kind; the first is the default.
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "f1_macro", "matthews"),
    "regression": ("pearson", "spearman"),
    "multi_label": ("f1_micro",),
    "tokens": ("entity_f1", "tag_accuracy"),
    "qa": ("squad_f1", "squad_em"),
    "embedding": ("similarity_spearman", "recall_at_10", "ndcg_at_10", "spearman", "pearson"),
}

CHUNKS = {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""The letter before the type of an entity, and the same in BIOES: begin, inside, end, single."""


@dataclass(frozen=True)
class Task:
    """One task: the columns to read, the kind of label, the label names, and the metric.

    `text` and `text_pair` are the input columns and `label` is the label column. `labels` are the class names in the
    order of the model's outputs; it stays empty for regression, question answering and embeddings. For embeddings the
    label is the score of a pair of texts.
    """

    kind: Kind = "auto"
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    metric: str = "auto"
    no_answer_threshold: float = 0.0
    """For question answering, the model's own: see `BertConfig.no_answer_threshold`."""

    def __post_init__(self):
        if self.kind != "auto" and self.kind not in METRICS:
            raise UserError(f'unknown kind of task "{self.kind}"; expected one of: auto, {", ".join(METRICS)}')
        fitting = METRICS.get(self.kind, tuple(metric for metrics in METRICS.values() for metric in metrics))
        if self.metric != "auto" and self.metric not in fitting:
            raise UserError(
                f'unknown metric "{self.metric}" for kind "{self.kind}"; expected one of: {", ".join(fitting)}'
            )
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"the task's labels contain a name twice: {', '.join(self.labels)}")


def align_labels(task: Task, id2label: Mapping, where: str) -> Task:
    """The task with its labels in the order of a trained head's outputs, or a `UserError` that shows both sets.

    `id2label` is the model's own (keys 0, 1, .. as integers or, from JSON, strings); `where` names the model in
    messages. The rules, first match wins:

    1. regression needs a head with one output, question answering one with two, an embedding has no labels: label names
       do not matter;
    2. a task without labels (unlabelled text) takes the model's names;
    3. every label of the task is one of the model's: the model's names in its order (a small file may lack a class);
    4. the model's names are the placeholders LABEL_0, LABEL_1, ..: the task's own names if their number fits;
    5. the labels of the data are 0 .. n-1 or LABEL_0 .. and the model has n names that are not numbers: they are
       positions, as in GLUE's files.
    """
    names = tuple(str(name) for _, name in sorted((int(key), name) for key, name in id2label.items()))
    outputs = {"regression": 1, "qa": 2, "embedding": len(names)}.get(task.kind)
    if outputs is not None:
        if len(names) != outputs:
            raise UserError(
                f"{where}: kind {task.kind} needs a head with {outputs} output(s), this one has {len(names)}"
            )
        return task
    positions = tuple(str(position) for position in range(len(names)))
    if set(task.labels) <= set(names):
        return dataclasses.replace(task, labels=names)
    placeholders = tuple(f"LABEL_{position}" for position in positions)
    if names == placeholders and len(task.labels) == len(names):
        return task
    numbers = any(name.removeprefix("-").isdecimal() for name in names)
    if task.labels == placeholders or (sorted(task.labels) == sorted(positions) and not numbers):
        return dataclasses.replace(task, labels=names)
    if len(names) == 1:
        raise UserError(
            f"{where} has one output, but the data has classes: {', '.join(task.labels[:20])}\n"
            "set kind=regression if these are numbers, or start from a model without a trained head"
        )
    raise UserError(
        f"the labels of the data and of {where} disagree\n"
        f"  data:  {', '.join(task.labels)}\n"
        f"  model: {', '.join(names)}\n"
        "rename the labels in one of the two, or start from a model without a trained head"
    )
