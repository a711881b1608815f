"""The threshold of early exit, from held-out text: the lowest depth whose loss of score is certified
(`bertjax.metrics.bound`).

Thresholds are tried from the one with which the fewest examples exit early.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.adaptive.policies import first_exit, policy_of
from bertjax.errors import UserError
from bertjax.machine.xla import Forward
from bertjax.metrics.bound import in_order, why_none
from bertjax.metrics.scores import score
from bertjax.metrics.uncertainty import paired_difference_interval
from bertjax.model import BertConfig, BertModel
from bertjax.model.depth import ExitRule, Rule
from bertjax.params import Tree
from bertjax.text.batches import eval_batches, inputs_of
from bertjax.text.buckets import length_buckets
from bertjax.text.encode import Encoded

STEPS = 40
"""Quantiles of the confidences; a threshold is tried between two neighbours."""


class Tried(NamedTuple):
    """The result of one rule on the held-out text."""

    exit_rule: ExitRule
    score: float
    loss_ci95: tuple[float, float]
    """Of the full model's score minus the score with this rule."""
    mean_depth: float


class Calibrated(NamedTuple):
    exit_rule: ExitRule | None
    """None: no threshold keeps the bound, so no example exits early."""
    tried: tuple[Tried, ...]
    """All rules up to the first that breaks the bound; every rule if the first one breaks it."""
    why_none: str = ""
    """Why the held-out text certifies nothing, and how much text would."""


def calibrate(
    config: BertConfig,
    exit_logits: Float[np.ndarray, "e n c"],
    logits: Float[np.ndarray, "n c"],
    labels: Any,
    *,
    metric: str,
    bound: float,
    rule: Rule = "entropy",
    tolerance: float = 0.0,
) -> Calibrated:
    """The most aggressive rule whose score is certified to be at most `bound` (0.01 is one point) below that of the
    last layer."""
    assert config.exits is not None
    full = scored_predictions(config, logits)

    def measured() -> Iterator[Tried]:
        for exit_rule in candidates(config, rule, tolerance, exit_logits):
            exit_numbers = first_exit(policy_of(config, exit_rule), exit_logits, logits)
            early = scored_predictions(config, exited_logits(exit_logits, logits, exit_numbers))
            loss = paired_difference_interval(metric, full, early, labels)
            depth = float(depths_of(config, exit_numbers).mean())
            yield Tried(exit_rule, score(metric, early, labels), loss, depth)

    certified, tried = in_order(measured(), bound)
    if certified is not None:
        return Calibrated(certified.exit_rule, tried)
    if not tried:
        why = "all predictions at the exits are equally confident, so there is no threshold to try"
        return Calibrated(None, tried, why)
    return Calibrated(None, tried, why_none(tried[0], bound, len(labels), "the most conservative threshold"))


def candidates(
    config: BertConfig, rule: Rule, tolerance: float, exit_logits: Float[np.ndarray, "e n c"]
) -> Sequence[ExitRule]:
    """Rules from conservative to aggressive: for patience every number, else quantiles of the confidences. Each
    threshold lies half-way between two confidences, because an example exactly on it could fall on either side by
    rounding."""
    if rule == "patience":
        policy_of(config, ExitRule(rule, 1.0, tolerance))
        if len(exit_logits) < 2:
            raise UserError(
                "rule=patience compares the predictions of successive exits, so it needs at least two exits; this "
                "model has one. Use another rule, or add exits."
            )
        return [ExitRule(rule, float(count), tolerance) for count in range(len(exit_logits) - 1, 0, -1)]
    policy_of(config, ExitRule(rule, 0.0))  # raises if the rule does not suit the model
    sign = 1 if rule in LOW_IS_SURE else -1
    confidences = sign * np.asarray((LOW_IS_SURE | HIGH_IS_SURE)[rule](jnp.asarray(exit_logits)), np.float64)
    confidences = confidences[np.isfinite(confidences)]
    levels = np.unique(confidences)
    if len(levels) < 2:
        return []
    # The least confident example that still exits. A threshold at which all exit is not tried.
    last = np.quantile(confidences, np.linspace(0, 1, STEPS + 1)[1:-1], method="nearest")
    index = np.minimum(np.searchsorted(levels, last), len(levels) - 2)
    thresholds = sign * (levels[index] + levels[index + 1]) / 2
    # As many digits as float32 has: probabilities close to 1 differ in the last ones.
    rounded = dict.fromkeys(float(f"{threshold:.7g}") for threshold in thresholds)
    return [ExitRule(rule, threshold) for threshold in rounded]


def exited_logits(
    exit_logits: Float[np.ndarray, "e n c"], logits: Float[np.ndarray, "n c"], exit_numbers: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n c"]:
    """The logits with which each example exits."""
    return np.concatenate([exit_logits, logits[None]])[exit_numbers, np.arange(len(exit_numbers))]


def depths_of(config: BertConfig, exit_numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Depth steps of each example, from the exit that it took."""
    assert config.exits is not None
    return np.array([*(number + 1 for number in config.exits.after), config.depth])[exit_numbers]


def scored_predictions(config: BertConfig, logits: Float[np.ndarray, "n c"]) -> np.ndarray:
    """Predictions from logits, as the score compares them."""
    number = len(config.labels) == 1 or config.problem_type == "regression"
    return logits[:, 0] if number else logits.argmax(axis=-1)


@Forward
def _at_exits(model: BertModel, params: Tree, ids: Array, mask: Array, types: Array) -> tuple[Array, Array]:
    output: Any = model.apply({"params": params}, ids, mask, types)
    return jnp.stack(output.exit_logits).astype(jnp.float32), output.logits.astype(jnp.float32)


def logits_at_exits(
    model: BertModel, params: Tree, encoded: Encoded, batch_size: int = 32
) -> tuple[Float[np.ndarray, "e n c"], Float[np.ndarray, "n c"]]:
    """The logits of every example at each exit and after the last layer, in the order of the rows."""
    assert model.config.exits is not None
    exits, classes = len(model.config.exits.after), len(model.config.labels)
    early, last = np.zeros((exits, len(encoded), classes), np.float32), np.zeros((len(encoded), classes), np.float32)
    buckets = length_buckets(encoded.lengths, model.config.max_tokens)
    for batch in eval_batches(encoded, batch_size, buckets):
        inputs = inputs_of(batch)
        at_exits, logits = _at_exits(model, params, *inputs)
        real = np.flatnonzero(batch["weights"])
        rows = batch["example_ids"][real]
        early[:, rows], last[rows] = np.asarray(at_exits)[:, real], np.asarray(logits)[real]
    return early, last
