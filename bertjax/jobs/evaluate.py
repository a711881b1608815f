"""Models measured side by side."""

from pathlib import Path

from bertjax.errors import UserError
from bertjax.recipes.evaluate import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    from bertjax.engine.commands import asked as asked_command
    from bertjax.engine.fields import to_dict
    from bertjax.engine.log import note
    from bertjax.jobs.compress import resolve_model, show
    from bertjax.jobs.data import open_model, tell_first, training_task
    from bertjax.jobs.report import Model, build_report
    from bertjax.text.sources import infer_task

    # The default is the demo, which says nothing about other text.
    learned = config.data.train != "demo" or config.data.eval == "demo"
    task = training_task(config.data) if learned else infer_task(config.data.eval, config.data.task, "test")
    models: list[Model] = []
    for name in (config.model, *config.against):
        model = Model(short_name(name, [model.name for model in models]), resolve_model(name))
        if model.exported and not models:
            raise UserError(
                f"{name} is an exported file; the baseline is a model: its bundle, and the file --against it."
            )
        if not model.exported and open_model(name, task, 0)[0].newly_initialized:
            raise UserError(f"{name} has no trained head for this task; fine-tune it first (bertjax finetune).")
        models.append(model)
        if config.bfloat16 and not model.exported:
            models.append(model._replace(name=f"{model.name}-bfloat16", dtype="bfloat16"))
    if not learned:
        note("without --data.train no bag of words can be fitted to stand beside the models")
    facts = tell_first(config.data, str(models[0].folder), task, learned)
    told = {"command": asked_command("evaluate", config), "words": learned, "facts": facts}
    report = build_report(models, config.data, as_path(config.out), asked=to_dict(config), task=task, **told)
    show(report)
    note(f"the report: {as_path(config.out) / 'report.md'}")


def short_name(folder: str, taken: list[str]) -> str:
    """The last parts of a path that say something, made different from those before."""
    parts = [part for part in Path(folder).parts if part not in ("bundle", "/", ".")]
    name = parts[-1] if parts else folder
    return name if name not in taken else folder
