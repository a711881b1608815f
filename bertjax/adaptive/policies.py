"""Policies: when an example exits, as pure functions of its logits at one exit after the other.

A policy is a frozen dataclass with two methods. `start` returns its memory of each example, a tree of NumPy arrays with
a row per example. `decide` takes that memory and the logits of one exit, and returns the new memory and a flag for each
example. It must treat every row by itself, so that the batch has no influence. You can write your own policy.

Thresholds are rows of the memory and do not count when two policies are compared: one compiled program serves all.

The counter of PABEE's published code looks at the whole batch, so predictions there depend on the batch. Here each
example has its own counter.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bertjax.adaptive.confidence import HIGH_IS_SURE, LOW_IS_SURE
from bertjax.errors import UserError
from bertjax.model.config import BertConfig
from bertjax.model.depth import ExitRule


@runtime_checkable
class Policy(Protocol):
    """The interface of policies. Hashable, because `decide` is part of a compiled program."""

    def start(self, rows: int) -> Any: ...

    def decide(self, memory: Any, logits: Float[Array, "b c"]) -> tuple[Any, Bool[Array, "b"]]: ...


@dataclass(frozen=True)
class Confidence:
    """Exits where one prediction is confident enough, by a rule of confidence.py."""

    rule: str
    threshold: float = field(compare=False)

    def start(self, rows: int) -> Float[np.ndarray, "b"]:
        return np.full(rows, self.threshold, np.float32)

    def decide(
        self, memory: Float[Array, "b"], logits: Float[Array, "b c"]
    ) -> tuple[Float[Array, "b"], Bool[Array, "b"]]:
        if self.rule in LOW_IS_SURE:
            return memory, LOW_IS_SURE[self.rule](logits) < memory
        return memory, HIGH_IS_SURE[self.rule](logits) > memory


class PatienceState(NamedTuple):
    """The memory of `Patience`."""

    agreed: Any
    """The number of successive predictions that agreed with the one before."""
    before: Any
    """The previous prediction; NaN if there was none."""
    patience: Any
    tolerance: Any


@dataclass(frozen=True)
class Patience:
    """Exits after `patience` predictions in a row that agree with the one before (PABEE, Zhou et al. 2020): at the
    `patience + 1`-th exit at the earliest. Two classes agree if they are equal, two numbers (logits of width 1) if they
    differ by less than `tolerance`."""

    patience: int = field(compare=False)
    tolerance: float = field(default=0.0, compare=False)

    def start(self, rows: int) -> PatienceState:
        numbers = np.full(rows, self.patience, np.int32), np.full(rows, self.tolerance, np.float32)
        return PatienceState(np.zeros(rows, np.int32), np.full(rows, np.nan, np.float32), *numbers)

    def decide(self, memory: PatienceState, logits: Float[Array, "b c"]) -> tuple[PatienceState, Bool[Array, "b"]]:
        if logits.shape[-1] == 1:
            prediction = logits[:, 0].astype(jnp.float32)
            same = jnp.abs(prediction - memory.before) < memory.tolerance
        else:
            finite = jnp.all(jnp.isfinite(logits), axis=-1)
            prediction = jnp.where(finite, jnp.argmax(logits, axis=-1).astype(jnp.float32), jnp.nan)
            same = prediction == memory.before
        agreed = jnp.where(same, memory.agreed + 1, 0)
        return memory._replace(agreed=agreed, before=prediction), agreed >= memory.patience


def policy_of(config: BertConfig, exit_rule: ExitRule | None = None) -> Policy:
    """The policy of a config, or of another `exit_rule` for its exits.

    Raises:
      UserError: No rule is stored, or it is not defined for this kind of output.
    """
    rule = exit_rule or (config.exits and config.exits.exit_rule)
    if not rule:
        raise UserError(
            "the model has no exit rule, which decides when an example exits; calibrate the model first (bertjax "
            "calibrate), or pass an ExitRule."
        )
    regression = len(config.labels) == 1 or config.problem_type == "regression"
    if config.problem_type == "multi_label_classification":
        raise UserError(
            "early exit does not support multi-label classification, which has no single prediction per example; "
            "expected single-label classification or regression."
        )
    if rule.rule == "patience":
        if rule.threshold != int(rule.threshold) or rule.threshold < 1:
            raise UserError(
                f"rule=patience with threshold={rule.threshold}; expected a whole number of agreeing predictions, at "
                "least 1."
            )
        if regression and not rule.tolerance > 0:
            raise UserError(
                f"rule=patience with tolerance={rule.tolerance}; regression needs a tolerance above 0, such as 0.1: "
                "predictions that differ by less agree."
            )
        return Patience(int(rule.threshold), rule.tolerance)
    if regression:
        raise UserError(
            f"rule={rule.rule} needs class probabilities, and this model does regression; use rule=patience with a "
            "tolerance."
        )
    return Confidence(rule.rule, rule.threshold)


def first_exit(
    policy: Policy, exit_logits: Float[np.ndarray, "e n c"], logits: Float[np.ndarray, "n c"]
) -> Int[np.ndarray, "n"]:
    """The number of the exit that each example takes, `e` for none, from the logits of all exits."""
    memory, exit_numbers = policy.start(len(logits)), np.full(len(logits), len(exit_logits))
    decide = jax.jit(policy.decide)
    for number, logits_at_exit in enumerate(exit_logits):
        memory, exits = decide(memory, jnp.asarray(logits_at_exit))
        exit_numbers = np.where(np.asarray(exits) & (exit_numbers == len(exit_logits)), number, exit_numbers)
    return exit_numbers


def oracle_exit(exit_logits: Float[np.ndarray, "e n c"], logits: Float[np.ndarray, "n c"]) -> Int[np.ndarray, "n"]:
    """The first exit whose prediction is that of the last layer: as early as any rule could exit without changing a
    prediction. It needs the last layer, so it is an upper bound on the gain, not a usable policy."""
    agrees = exit_logits.argmax(axis=-1) == logits.argmax(axis=-1)
    return np.where(agrees.any(axis=0), agrees.argmax(axis=0), len(exit_logits))
