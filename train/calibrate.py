"""Choose the early-exit threshold of a model with exits, and measure what it gains; or the threshold of no answer.

    bertjax calibrate --model=runs/exits/bundle --held_out=demo --data.eval=demo --out=runs/calibrate
    bertjax calibrate --model=runs/exits/bundle --held_out=held-out.tsv --data.eval=dev.tsv --out=runs/mine

Of all thresholds whose score on --held_out is at most --bound below that of the full model, confidence interval
included, the one with the earliest exits is chosen. A bound of one point needs at least 368 examples. These examples
must not have been used in training.
The table of OUT/report.md is measured on other examples, --data.eval. OUT/bundle holds the threshold, and exits early
wherever it is loaded. If no threshold keeps the bound, the table still shows what each would have cost.

A model that answers questions has no exits. For it the threshold of no answer is chosen (SQuAD 2): how much better no
answer must score than the best span, so that the metric on --held_out is highest.
"""

import dataclasses

from bertjax.engine.command_line import run
from bertjax.engine.log import note
from bertjax.engine.record import begin, finish
from bertjax.errors import UserError
from bertjax.jobs.answer_threshold import with_answer_threshold
from bertjax.jobs.data import Text, describe, open_model, require_other_text, tokenizer_of
from bertjax.jobs.early_exit_report import report_depths
from bertjax.recipes.calibrate import Config
from bertjax.storage.paths import as_path


def main(config: Config) -> None:
    import bertjax
    from bertjax.adaptive import calibrate
    from bertjax.adaptive.calibration import logits_at_exits

    out, text = as_path(config.out), Text.of(config.data)
    if begin(out, config, text.reader):
        return
    bundle, task = open_model(config.model, text.task(config.held_out), 0)
    exits = bundle.config.exits
    if exits is None and task.kind != "qa":
        raise UserError(
            f"{config.model} has no exits; add and train them first (bertjax exits). Without exits it can drop tokens "
            f"within the same bound: bertjax drop_tokens --bound={config.bound:g}."
        )
    if bundle.newly_initialized:
        raise UserError(f"{config.model} has no trained head for this task; fine-tune it first (bertjax finetune).")
    held_out = text.held_out(task, tokenizer_of(bundle), config.held_out, "validation")
    reported = text.held_out(task, tokenizer_of(bundle))
    why = "The threshold must be chosen on one text and measured on another."
    require_other_text(held_out, config.held_out, reported, "--data.eval", why)
    facts = describe(config.data, held_out, reported, "held_out", config.held_out)
    if exits is None:
        calibrated, result = with_answer_threshold(bundle, held_out, reported)
        bertjax.save(calibrated, out / "bundle")
        finish(out, result, held_out=held_out.encoded.fingerprint, eval=reported.encoded.fingerprint)
        return
    calibration = calibrate(
        bundle.config,
        *logits_at_exits(bundle.model, bundle.device_params, held_out.encoded),
        held_out.encoded.labels,
        metric=task.metric,
        bound=config.bound,
        rule=config.rule,
        tolerance=config.tolerance,
    )
    if calibration.exit_rule is None:
        note(f"no example exits early: {calibration.why_none}")
    rule = dataclasses.replace(exits, exit_rule=calibration.exit_rule)
    early = dataclasses.replace(bundle, config=bundle.config.replace(exits=rule))
    bertjax.save(early, out / "bundle")
    result = report_depths(early, calibration, reported, config, out, facts)
    finish(out, result, held_out=held_out.encoded.fingerprint, eval=reported.encoded.fingerprint)


if __name__ == "__main__":
    run(main, __doc__, trains=False)
