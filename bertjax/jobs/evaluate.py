"""The models of an evaluation, under short names."""

from pathlib import Path

from bertjax.errors import UserError
from bertjax.jobs.compress import resolve_model
from bertjax.jobs.data import has_trained_head
from bertjax.jobs.report import Model
from bertjax.measure.faster import require_runtime
from bertjax.recipes.evaluate import Config
from bertjax.text.tasks import Task


def open_models(config: Config, task: Task) -> list[Model]:
    """The models of a config under short names, the baseline first. With `config.bfloat16`, each bundle appears in both
    dtypes."""
    require_runtime(config.runtime)
    models: list[Model] = []
    for name in (config.model, *config.against):
        model = Model(short_name(name, [model.name for model in models]), resolve_model(name))
        if model.exported and not models:
            raise UserError(
                f"{name} is an exported folder, but --model must be a bundle. Give its bundle as --model, and "
                f"--against={name}."
            )
        if not model.exported and not has_trained_head(name, task):
            raise UserError(f"{name} has no trained head for this task; fine-tune it first (bertjax finetune).")
        models.append(model)
        if config.bfloat16 and not model.exported:
            models.append(model._replace(name=f"{model.name}-bfloat16", dtype="bfloat16"))
    return models


def short_name(folder: str, taken: list[str]) -> str:
    """The last part of a path that is not "bundle"; the whole path if that name is taken."""
    parts = [part for part in Path(folder).parts if part not in ("bundle", "/", ".")]
    name = parts[-1] if parts else folder
    return name if name not in taken else folder
