"""The threshold of no answer, for models that answer questions which may have none (SQuAD 2).

The official script reports the best threshold of the very text that it scores. Here it is chosen on other text, so that
the reported score is one that a user gets.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bertjax.engine.log import note
from bertjax.errors import UserError
from bertjax.jobs.data import Split, score_of

if TYPE_CHECKING:
    from bertjax.bundle import Bundle


def with_answer_threshold(bundle: Bundle, held_out: Split, reported: Split) -> tuple[Bundle, dict[str, float]]:
    """The bundle with the threshold that scores best on `held_out`, and what it scores on `reported`.

    Raises:
      UserError: Every question of `held_out` has an answer, or none has.
    """
    import numpy as np

    from bertjax.metrics.scores import example_sums
    from bertjax.predict import run_rows
    from bertjax.text.answers import best_answers, best_threshold

    examples, encoded = held_out
    gold = [label["text"] for label in examples.labels or []]
    unanswered = sum(not golds for golds in gold)
    if unanswered in (0, len(gold)):
        raise UserError(
            f"{examples.source}: {unanswered} of {len(gold)} questions have no answer; a threshold needs questions of "
            "both kinds, as in SQuAD 2."
        )
    logits, _ = run_rows(bundle.model, bundle.device_params, encoded)
    found = best_answers([row[:, 0] for row in logits], [row[:, 1] for row in logits], encoded, examples)
    sums = example_sums(encoded.task.metric, gold, [one.text for one in found], [""] * len(gold))
    threshold = best_threshold(np.array([one.empty for one in found]), sums[0][:, 0], sums[1][:, 0])
    before = score_of(bundle, reported)
    calibrated = dataclasses.replace(bundle, config=bundle.config.replace(no_answer_threshold=threshold))
    task = dataclasses.replace(reported.encoded.task, no_answer_threshold=threshold)
    after = score_of(calibrated, reported._replace(encoded=dataclasses.replace(reported.encoded, task=task)))
    metric = reported.encoded.task.metric
    note(f"no answer above {threshold:.3f}: {metric} {100 * after[metric]:.1f}, and {100 * before[metric]:.1f} before")
    return calibrated, {**after, f"{metric} before": before[metric], "threshold": threshold}
