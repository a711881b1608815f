"""The report of a model with early exits at several thresholds: score, mean depth, FLOPs and time."""

from pathlib import Path
from typing import Any

NO_EXIT, LAST = "no early exit", "the model without exits"
ORACLE = "oracle: the first exit that agrees with the last layer"
BATCH = 32
ROWS = 6
"""Number of the tried thresholds that are in the table."""


def report_depths(
    early: Any, calibration: Any, split: Any, config: Any, out: Path, facts: Any = ()
) -> dict[str, float]:
    """Measures on examples that no choice depended on, writes the report into `out` and returns the main numbers.
    `facts` are the summary of the data."""
    import numpy as np

    from bertjax.adaptive.calibration import depths_of, exited_logits, logits_at_exits, scored_predictions
    from bertjax.engine.fields import to_dict
    from bertjax.engine.log import note
    from bertjax.engine.record import device, versions
    from bertjax.metrics.scores import score
    from bertjax.metrics.uncertainty import paired_difference_interval, score_interval
    from bertjax.report.early_exit import EarlyExitReport, ThresholdRow, threshold_table
    from bertjax.report.parts import write_table

    task, gold = split.encoded.task, split.encoded.labels
    exit_logits, logits = logits_at_exits(early.model, early.device_params, split.encoded)
    full, depth = scored_predictions(early.config, logits), early.config.depth
    rules = rules_to_report(calibration)
    count = min(config.sample, len(gold))
    timed = np.random.default_rng(0).permutation(len(gold))[: count - count % BATCH if count >= BATCH else count]
    times = time_all(early, rules, split.encoded, timed, config.data.max_length)
    costs = cost_by_depth(early, round(float(np.median(split.encoded.lengths))))

    def row(name: str, exits: Any) -> ThresholdRow:
        predictions = scored_predictions(early.config, exited_logits(exit_logits, logits, exits))
        depths = depths_of(early.config, exits)
        own, plain = times.get(name, {}), times[LAST]
        return ThresholdRow(
            name,
            score=score(task.metric, predictions, gold),
            score_ci95=score_interval(task.metric, predictions, gold),
            difference_ci95=paired_difference_interval(task.metric, predictions, full, gold),
            mean_depth=float(depths.mean()),
            layer_saving=1 - float(depths.mean()) / depth,
            flops=None if costs is None else float(np.mean([costs[int(d)] for d in depths])),
            ms={kind: float(np.median(ms)) for kind, ms in own.items()} or None,
            time_saving={kind: float(np.median(1 - ms / plain[kind])) for kind, ms in own.items()} or None,
            timed_layer_saving=1 - float(depths[timed].mean()) / depth if own else None,
        )

    taken = exits_taken(early.config, rules, exit_logits, logits, task.kind)
    rows = tuple(row(name, exits) for name, exits in taken.items())
    report = EarlyExitReport(
        task=f"{task.kind} of {config.data.eval}",
        metric=task.metric,
        device=device(),
        depth=depth,
        calibrated=None if calibration.exit_rule is None else vars(calibration.exit_rule),
        why_none=calibration.why_none,
        bound=config.bound,
        timed=len(timed),
        rows=rows,
        held_out=tuple({**vars(t.exit_rule), **t._asdict(), "exit_rule": None} for t in calibration.tried),
        config=to_dict(config),
        versions=versions(),
        texts=tuple(facts),
    )
    note(write_table(report, threshold_table(report), report.texts, out))
    final = next((r for r in rows if r.name.endswith("calibrated")), rows[1])
    return {task.metric: final.score, "mean depth": final.mean_depth}


def exits_taken(config: Any, rules: dict[str, Any], exit_logits: Any, logits: Any, kind: str) -> dict[str, Any]:
    """The exit of every example, for each row of the table."""
    import numpy as np

    from bertjax.adaptive.policies import first_exit, oracle_exit, policy_of

    none_exited = np.full(len(logits), len(exit_logits))
    taken = {LAST: none_exited, NO_EXIT: none_exited}
    taken |= {name: first_exit(policy_of(config, rule), exit_logits, logits) for name, rule in rules.items()}
    return taken | ({ORACLE: oracle_exit(exit_logits, logits)} if kind == "classification" else {})


def rules_to_report(calibration: Any) -> dict[str, Any]:
    """Some of the tried thresholds by name, in the order of increasing early exits."""
    import numpy as np

    tried = [one.exit_rule for one in calibration.tried]
    indices = sorted({int(i) for i in np.linspace(0, len(tried) - 1, min(ROWS, len(tried)))})
    chosen = [tried[i] for i in indices]
    if calibration.exit_rule is not None and calibration.exit_rule not in chosen:
        chosen = sorted([*chosen, calibration.exit_rule], key=tried.index)
    return {
        f"{one.rule} {one.threshold:.3g}{', calibrated' if one == calibration.exit_rule else ''}": one for one in chosen
    }


def time_all(early: Any, rules: dict[str, Any], encoded: Any, rows: Any, max_length: int) -> dict[str, Any]:
    """Milliseconds per text, by repeat, for each of the `WAYS` of calling: for the plain model, for no early exit, and
    for every threshold."""
    import numpy as np

    from bertjax.adaptive import EarlyExitExecutor, policy_of, remove_exits, segmented_model
    from bertjax.engine.log import note
    from bertjax.measure.depth import time_executors
    from bertjax.model import ExitRule, build
    from bertjax.predict import forward
    from bertjax.report.early_exit import WAYS
    from bertjax.text.batches import gather, inputs_of
    from bertjax.text.buckets import bucket_of, length_buckets

    buckets = length_buckets(encoded.lengths, max_length)
    rows = rows[np.argsort(encoded.lengths[rows], kind="stable")]

    def batch(part: Any) -> Any:
        length = int(bucket_of(encoded.lengths[part].max(keepdims=True), buckets)[0])
        return inputs_of(gather(encoded, part, length))

    alone = [batch(rows[i : i + 1]) for i in range(len(rows))]
    full = [batch(rows[i : i + BATCH]) for i in range(0, len(rows) - BATCH + 1, BATCH)]
    config, params = remove_exits(early.config, early.device_params)
    plain = forward.bound(build(config), params)
    never = (
        ExitRule("patience", float(early.config.depth), 1.0) if len(config.labels) == 1 else ExitRule("entropy", 0.0)
    )

    def executor(rule: Any) -> Any:
        return EarlyExitExecutor(segmented_model(early.config, policy_of(early.config, rule)), early.device_params)

    executors = {
        LAST: lambda batches: [np.asarray(plain(*batch)) for batch in batches],
        NO_EXIT: executor(never),
    }
    executors |= {name: executor(rule) for name, rule in rules.items()}
    calls = dict(zip(WAYS, [[[one] for one in alone], [[one] for one in full], [full]], strict=True))
    if not full:
        calls = {kind: batches for kind, batches in calls.items() if kind == "batch_1"}
    return time_executors(executors, calls, notify=lambda doing: note(f"measuring: {doing}"))


def cost_by_depth(early: Any, length: int) -> dict[int, float] | None:
    """FLOPs of one text of this length by the number of depth steps before its exit, as counted by XLA; None if XLA
    gives none."""
    import jax
    import numpy as np

    from bertjax.adaptive import segmented_model
    from bertjax.adaptive.executors import _advance, _begin
    from bertjax.adaptive.policies import Confidence

    segmented = segmented_model(early.config, Confidence("entropy", 0.0))
    row = np.ones((1, length), np.int32)
    rows, total, by_depth = _begin(segmented, early.device_params, row, row, row * 0, segmented.start(1)), 0.0, {}
    for number, (segment, own, depth) in enumerate(
        zip(segmented.segments, segmented.params_of(early.device_params), segmented.depths, strict=True)
    ):
        inputs = own, rows.mask, jax.numpy.asarray(number), rows.hidden, rows.memory, rows.places
        counted = (_advance.lower(segment, *inputs).compile().cost_analysis() or {}).get("flops")
        if counted is None:
            return None
        total += counted
        by_depth[depth] = total
        rows = _advance(segment, *inputs).rows  # fewer tokens, if the model drops some
    return by_depth
