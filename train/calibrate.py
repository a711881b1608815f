"""Find the threshold at which a model with exits may be left early, and show what that gains.

    bertjax calibrate --model=runs/exits/bundle --held_out=held-out.tsv --data.eval=dev.tsv --out=runs/early

The threshold is the boldest whose score on --held_out is at most --bound below that of the whole model, interval
included, for which one point takes 368 texts at the very least. That text must have trained nothing, and is not what is
reported: the table of OUT/report.md is of --data.eval. OUT/bundle holds the threshold, and leaves early wherever it is
loaded; where the text can promise none, the table still shows what each would have cost.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from bertjax.errors import UserError
from bertjax.paths import at

from .common import Data

TRAINS = False


@dataclass(frozen=True)
class Config:
    """Calibration."""

    model: str = "runs/exits/bundle"
    """A model with exits: a folder or hf:NAME."""
    held_out: str = "demo"
    """Text with labels that trained nothing: a file, tfds:NAME/SPLIT, or demo (its validation split)."""
    data: Data = field(default_factory=Data)
    rule: Literal["entropy", "normalised_entropy", "max_probability", "margin", "patience"] = "entropy"
    """How sure an answer is: see bertjax.adaptive."""
    tolerance: float = 0.0
    """Of patience in regression: two numbers that differ by less agree."""
    bound: float = 0.01
    """Largest loss of score that may be: 0.01 is one point. The smaller, the more held-out text shows it."""
    sample: int = 256
    """Texts of --data.eval that are timed."""
    out: str = "runs/calibrate"
    """Folder for the model and the report."""

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise UserError(f"--sample={self.sample}: expected at least 1 text to time")
        if not 0 <= self.bound < math.inf:
            raise UserError(f"--bound={self.bound}: expected a loss of score that may be had, 0.01 for one point")


def main(config: Config) -> None:
    import dataclasses

    import bertjax
    from bertjax.adaptive import calibrate
    from bertjax.adaptive.calibration import answers_at_exits

    from .data import open_model, read_split, tell, training_task
    from .depth_table import report_depths
    from .log import note
    from .run import begin, finish

    out = at(config.out)
    if begin(out, config):
        return
    bundle, task = open_model(config.model, training_task(dataclasses.replace(config.data, train=config.held_out)), 0)
    if bundle.config.exits is None:
        raise UserError(f"{config.model} has no exits; train some first (bertjax exits).")
    if bundle.fresh:
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


if __name__ == "__main__":
    from .settings import run

    run("calibrate")
