"""The model card: a bundle's `README.md`, which says what the model is, what it was measured to do, and how to get it.

Its front matter (YAML between dashes) is what the Hugging Face hub reads: license, task, and the score as a result that
can be searched. It is written by the hub's own client, so it is what that expects.
"""

import json
import os
from typing import Any

from bertjax import manifest
from bertjax.measure.onnx import onnx_file
from bertjax.measure.report import Report, Row
from bertjax.measure.words import how_measured, markdown_table, metric_name, verdicts
from bertjax.paths import at
from bertjax.text.tasks import Task

PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "tokens": "token-classification",
    "qa": "question-answering",
}
"""Kind of task: what the hub calls it."""
METRIC_TYPES = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "entity_f1": "f1",
    "squad_f1": "f1",
    "squad_em": "exact_match",
}
"""Metric: what the hub's metrics are called, where that differs."""


def write_card(
    folder: str | os.PathLike,
    report: Report,
    row: str,
    *,
    task: Task,
    source: str,
    command: str,
    base_model: str | None = None,
    language: str = "en",
) -> Any:
    """Write the card of the bundle in `folder`, which is the row named `row` of the report, and return its path.

    `source` names the data, `command` made the bundle, `base_model` is the hub's name of what it was made from.
    """
    place, measured = at(folder), report.row(row)
    front = _front_matter(place, measured, report.metric, task, source, base_model, language)
    parts = [f"---\n{front}\n---", f"# {_title(place, row)}", _about(measured, report, task, source)]
    parts += ["## Use", _usage(place, task), "## What was measured", markdown_table(report)]
    said = [sentence for sentence in verdicts(report) if sentence.startswith(f"**{row}**")]
    parts += ["\n".join(f"- {sentence}" for sentence in said)] if said else []
    parts += [how_measured(report), "## Made by", f"```sh\n{command}\n```"]
    manifest.put_text(folder, "README.md", "\n\n".join(parts) + "\n")
    return place / "README.md"


def _front_matter(
    folder: Any, row: Row, metric: str, task: Task, source: str, base_model: str | None, language: str
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    kind, pipeline = METRIC_TYPES.get(metric, metric), PIPELINES[task.kind]
    result = EvalResult(
        task_type=pipeline,
        dataset_type=source,
        dataset_name=source,
        metric_type=kind,
        metric_name=metric_name(metric),
        metric_value=round(row.score, 4),
    )
    data = ModelCardData(
        language=language,
        license="apache-2.0",
        library_name="bertjax",
        pipeline_tag=pipeline,
        tags=["bertjax", "jax", "flax", "bert", "model-compression"],
        base_model=base_model,
        metrics=[kind],
        model_name=_title(folder, row.name),
        eval_results=[result],
    )
    return data.to_yaml()


def _title(folder: Any, row: str) -> str:
    """The folder's name where it says something, else the row's."""
    return row if folder.name in ("", "bundle") else folder.name


def _about(row: Row, report: Report, task: Task, source: str) -> str:
    labels = f" Labels: {', '.join(task.labels)}." if task.labels else ""
    low, high = (f"{100 * end:.1f}" for end in row.score_ci95)
    return (
        f"A BERT for {task.kind.replace('_', ' ')}, trained and measured on {source}: {metric_name(report.metric)} "
        f"{100 * row.score:.1f} (95 % interval {low} to {high}), {row.parameters / 1e6:.1f} million parameters.{labels}"
    )


def _usage(folder: Any, task: Task) -> str:
    if (file := onnx_file(folder)) is not None:
        return _exported_usage(task, os.path.relpath(file, folder))
    pairs = ', ["the second text"]' if task.text_pair else ""
    lines = [
        "```python",
        "import bertjax",
        "",
        'bundle = bertjax.load("path/to/this/folder")',
        f'bundle.predict(["a text to judge"]{pairs}).labels',
        "```",
    ]
    if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") != "bertjax":
        lines += ["", "The folder opens with `transformers` too, and gives the same logits."]
    return "\n".join(lines)


def _exported_usage(task: Task, file: str) -> str:
    """The file needs no framework: its runtime and a tokenizer."""
    pair = ', "the second text"' if task.text_pair else ""
    lines = [
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        'text = Tokenizer.from_file("path/to/this/folder/tokenizer.json").encode("a text to judge"PAIR)',
        f'session = onnxruntime.InferenceSession("path/to/this/folder/{file}")',
        'given = {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}',
        "inputs = {one.name: np.array([given[one.name]]) for one in session.get_inputs()}",
        "session.run(None, inputs)",
        "```",
    ]
    return "\n".join(lines).replace("PAIR", pair)
