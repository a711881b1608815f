"""How many steps a model that halts takes, and whether halting early saves the time that the steps promise.

The *steps* of an example are the recurrence steps until its last position halts, those of a loop over this example
alone. *The share realised* is the saving in time over the saving in steps, (1 - t_early / t_full) / (1 - steps / most).
Both times are of one compiled program at batch 1: `full` has parameters with which nothing halts before the last step.
Both include the cost of a call outside the loop (dispatch, embeddings, head), so the share stays below 1, and is low
where steps are so cheap that the call is most of the work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bertjax.model import BertModel
from bertjax.params import Tree, flatten, unflatten

NEVER = -1e4
"""A halting bias with which no position halts by itself."""


class CellPredictions(NamedTuple):
    """Which positions a token classifier predicts rightly, and the steps that it takes."""

    right: Bool[np.ndarray, "rows l"]
    """False where there is no label."""
    labelled: Bool[np.ndarray, "rows l"]
    steps: Int[np.ndarray, "rows"]

    @property
    def positions(self) -> float:
        """Share of labelled positions that are right."""
        return float(self.right.sum() / self.labelled.sum())

    @property
    def rows(self) -> Bool[np.ndarray, "rows"]:
        """Which rows are right at every labelled position."""
        return (self.right == self.labelled).all(axis=1)


def cell_predictions(model: BertModel, params: Tree, batches: Sequence[dict[str, np.ndarray]]) -> CellPredictions:
    """Predictions for batches of equal shape, in order."""

    @jax.jit
    def asked(params: Tree, ids: Array, mask: Array) -> tuple[Array, Array]:
        output: Any = model.apply({"params": params}, ids, mask)
        return output.logits.argmax(-1), output.trace.halting.steps.max(-1)

    found = []
    for batch in batches:
        predicted, steps = asked(params, batch["input_ids"], batch["attention_mask"])
        labelled = batch["labels"] >= 0
        found.append((labelled & (np.asarray(predicted) == batch["labels"]), labelled, np.asarray(steps).astype(int)))
    return CellPredictions(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def rank_correlation(steps: Int[np.ndarray, "n"], difficulty: Int[np.ndarray, "n"]) -> tuple[float, float]:
    """Spearman's correlation and its two-sided p-value; 0 and 1 where one of the two never varies."""
    from scipy.stats import spearmanr

    if np.ptp(steps) == 0 or np.ptp(difficulty) == 0:
        return 0.0, 1.0
    found: Any = spearmanr(steps, difficulty)
    return float(found.statistic), float(found.pvalue)


def never_halting(params: Tree) -> Tree:
    """The parameters of a model that halts, with a bias that keeps every position going until the last step."""
    flat = flatten(params)
    return unflatten({**flat, "encoder/halting/bias": np.full_like(flat["encoder/halting/bias"], NEVER)})


@dataclass(frozen=True)
class Times:
    """Milliseconds per call at batch 1: for every example the median over repeats, then the mean over examples."""

    early: float
    full: float
    steps: float
    """Mean steps of the examples that were timed."""
    most: int
    """Steps of a full run."""
    fixed: dict[int, float]
    """Of models of fixed depth, by depth."""

    @property
    def share_realised(self) -> float:
        """The saving in time over the saving in steps; NaN where no step was saved."""
        saved = 1 - self.steps / self.most
        return (1 - self.early / self.full) / saved if saved else float("nan")


def time_early_stopping(
    model: BertModel,
    params: Tree,
    fixed: dict[int, tuple[BertModel, Tree]],
    ids: Int[np.ndarray, "n l"],
    mask: Int[np.ndarray, "n l"],
    repeats: int = 9,
) -> Times:
    """Times the model stopping early and running in full, and models of fixed depth, which take turns, each
    with all examples. Taking turns call by call, each would find the weights of another in the processor's cache."""
    recurrence = model.config.recurrence
    assert recurrence is not None
    program = early_stopping(model)
    calls = {"early": (program, params), "full": (program, never_halting(params))}
    calls |= {str(depth): (early_stopping(other), p) for depth, (other, p) in fixed.items()}
    calls = {name: (function, jax.device_put(p)) for name, (function, p) in calls.items()}
    rows = [jax.device_put((ids[i : i + 1], mask[i : i + 1])) for i in range(len(ids))]
    times = {name: np.zeros((repeats, len(rows))) for name in calls}
    for function, given in calls.values():
        jax.block_until_ready(function(given, *rows[0]))  # compiles
    for repeat in range(repeats):
        for name, (function, given) in calls.items():
            times[name][repeat] = [milliseconds(function, given, *row) for row in rows]
    means = {name: float(np.median(spent, axis=0).mean()) for name, spent in times.items()}
    function, given = calls["early"]
    steps = np.mean([function(given, *row)[1] for row in rows])
    depths = {depth: means[str(depth)] for depth in fixed}
    return Times(means["early"], means["full"], float(steps), recurrence.steps, depths)


def early_stopping(model: BertModel) -> Callable[[Tree, Array, Array], tuple[Array, Array]]:
    """Logits, and the steps that were run."""

    @jax.jit
    def run(params: Tree, ids: Array, mask: Array) -> tuple[Array, Array]:
        output: Any = model.apply({"params": params}, ids, mask, stop_early=True)
        return output.logits, jnp.max(output.trace.halting.steps)

    return run


def milliseconds(function: Callable, *inputs: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return 1e3 * (time.perf_counter() - began)
