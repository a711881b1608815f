"""The model card: a bundle's `README.md`, which says what the model is, what it was measured to do, and how to get it.

Its front matter (YAML between dashes) is what the Hugging Face hub reads: license, task, and the score as a result that
can be searched. It is written by the hub's own client, so it is what that expects.
"""

import json
import os
from typing import Any

from bertjax.measure.onnx import onnx_file
from bertjax.model.config import stated_max_tokens
from bertjax.report.models import ModelRow, Report, how_measured, model_table, verdicts
from bertjax.report.number_text import metric_name
from bertjax.report.parts import bullets, document, section, shell
from bertjax.report.usage import bundle_usage, exported_usage
from bertjax.storage import manifest
from bertjax.storage.paths import as_path
from bertjax.text.tasks import Task

PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "tokens": "token-classification",
    "qa": "question-answering",
    "embedding": "sentence-similarity",
}
"""Kind of task: what the hub calls it."""
METRIC_TYPES = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "entity_f1": "f1",
    "tag_accuracy": "accuracy",
    "squad_f1": "f1",
    "squad_em": "exact_match",
    "similarity_spearman": "spearmanr",
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
    max_length: int,
    learned_from: str | None = None,
    base: str | None = None,
) -> Any:
    """Write the card of the bundle in `folder`, which is the row named `row` of the report, and return its path.

    `source` names the data that it was measured on, truncated at `max_length` tokens; `learned_from` the training data,
    if any. `command` made the bundle from the model `base`: a folder, hf:NAME or demo.
    """
    place, measured = as_path(folder), report.row(row)
    front = _front_matter(place, measured, report.metric, task, source, _known_of(base))
    made = _made(base, learned_from)
    sentences = [sentence for sentence in verdicts(report) if sentence.startswith(f"**{row}**")]
    text = document(
        _title(place, row),
        _about(measured, report, task, source, max_length) + made,
        section("Use", _usage(place, task, max_length)),
        section("What was measured", model_table(report).markdown()),
        bullets(sentences),
        how_measured(report),
        section("Made by", shell(command)),
    )
    manifest.put_text(folder, "README.md", f"---\n{front}\n---\n\n{text}")
    return place / "README.md"


def _front_matter(folder: Any, row: ModelRow, metric: str, task: Task, source: str, known: dict[str, Any]) -> str:
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
        **known,
        library_name="bertjax",
        pipeline_tag=pipeline,
        tags=["bertjax", "jax", "flax", "bert", "model-compression"],
        metrics=[kind],
        model_name=_title(folder, row.name),
        eval_results=[result],
    )
    return data.to_yaml()


def _title(folder: Any, row: str) -> str:
    """The folder's name, or the row's where that says nothing."""
    return row if folder.name in ("", "bundle") else folder.name


def _made(base: str | None, learned_from: str | None) -> str:
    origin = f" from `{base.removeprefix('hf:')}`" if base else ""
    text = f" with the text of {learned_from}" if learned_from else ""
    return f" Made{origin}{text}." if origin or text else ""


def _about(row: ModelRow, report: Report, task: Task, source: str, max_length: int) -> str:
    labels = f" Labels: {', '.join(task.labels)}." if task.labels else ""
    low, high = (f"{100 * end:.1f}" for end in row.score_ci95)
    return (
        f"A BERT for {task.kind.replace('_', ' ')}, measured on {source}: {metric_name(report.metric)} "
        f"{100 * row.score:.1f} (95 % interval {low} to {high}), {row.parameters / 1e6:.1f} million parameters. The "
        f"numbers hold for inputs truncated at {max_length} tokens.{labels}"
    )


def _usage(folder: Any, task: Task, max_length: int) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    length = min(max_length, stated_max_tokens(config, f"{folder}/config.json"))
    if (file := onnx_file(folder)) is not None:
        exits = config.get("bertjax", {}).get("exits") or {}
        return exported_usage(task, os.path.relpath(file, folder), length, exits.get("exit_rule"))
    return bundle_usage(task, length, stock=config.get("model_type") != "bertjax")


def _known_of(base: str | None) -> dict[str, Any]:
    """Name on the hub, licence and language from the card of the model that this one was made from; nothing else is
    claimed."""
    if base is None or base.startswith("hf:"):
        return {"base_model": base and base.removeprefix("hf:")}
    from huggingface_hub import ModelCard

    path = as_path(base) / "README.md"
    try:
        data: Any = ModelCard(path.read_text(encoding="utf-8")).data
    except Exception:  # no card, or one that cannot be parsed, for any reason
        return {}
    return {name: getattr(data, name, None) for name in ("base_model", "license", "language")}
