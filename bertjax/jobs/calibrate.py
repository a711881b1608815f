"""The threshold of early exit, from text that was held out."""

from bertjax.errors import UserError
from bertjax.recipes.calibrate import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    import dataclasses

    import bertjax
    from bertjax.adaptive import calibrate
    from bertjax.adaptive.calibration import answers_at_exits
    from bertjax.engine.log import note
    from bertjax.engine.record import begin, finish
    from bertjax.jobs.data import open_model, read_split, tell, training_task
    from bertjax.jobs.early_exit_report import report_depths

    out = as_path(config.out)
    if begin(out, config):
        return
    bundle, task = open_model(config.model, training_task(dataclasses.replace(config.data, train=config.held_out)), 0)
    if bundle.config.exits is None:
        raise UserError(f"{config.model} has no exits; train some first (bertjax exits).")
    if bundle.newly_initialized:
        raise UserError(f"{config.model} has no trained head for this task; fine-tune it first (bertjax finetune).")
    held_out = read_split(config.data, config.held_out, task, bundle.tokenizer, "validation")
    reported = read_split(config.data, config.data.eval, task, bundle.tokenizer, "test")
    if held_out.encoded.fingerprint == reported.encoded.fingerprint:
        raise UserError(f"--held_out and --data.eval are the same text, {config.held_out}: what chose is no proof.")
    facts = tell(config.data, held_out, reported, "held_out", config.held_out)
    found = calibrate(
        bundle.config,
        *answers_at_exits(bundle.model, bundle.device_params, held_out.encoded),
        held_out.encoded.labels,
        metric=task.metric,
        bound=config.bound,
        rule=config.rule,
        tolerance=config.tolerance,
    )
    if found.leaving is None:
        note(f"nobody leaves early: {found.why_none}")
    exits = dataclasses.replace(bundle.config.exits, leaving=found.leaving)
    early = dataclasses.replace(bundle, config=bundle.config.replace(exits=exits))
    bertjax.save(early, out / "bundle")
    result = report_depths(early, found, reported, config, out, facts)
    finish(out, result, held_out=held_out.encoded.fingerprint, eval=reported.encoded.fingerprint)
