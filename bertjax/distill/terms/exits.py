"""Losses on the output of an early exit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.learn.loss import Loss, LossFunction

if TYPE_CHECKING:
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.learn.transform import Update
    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class ExitLabels(Loss):
    """The supervised loss of the task at one exit, counted from 0; `exit` None is the last layer."""

    exit: int | None = None
    odd_steps: bool = False
    """Learn in every second step only (BERxiT, Xin et al. 2021, section 3.1)."""

    reads_labels: ClassVar[bool] = True
    reads_teacher: ClassVar[bool] = False

    def weight_at(self, update: Update) -> Any:
        import jax.numpy as jnp

        return self.weight * jnp.asarray(update.step % 2, jnp.float32) if self.odd_steps else self.weight

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.learn.losses import TASK_LOSSES
        from bertjax.predict import kind_of

        task_loss = TASK_LOSSES[kind_of(student)]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            return task_loss(student_out.logits if self.exit is None else student_out.exit_logits[self.exit], batch)

        return loss


@dataclass(frozen=True)
class ExitSoftTargets(Loss):
    """Divergence of an exit from the probabilities of the model's own last layer, for regression the squared error
    (FastBERT, Liu et al. 2020, section 3.2)."""

    exit: int = 0

    reads_teacher: ClassVar[bool] = False

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.predict import kind_of

        regression = kind_of(student) == "regression"

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            logits, target, weights = student_out.exit_logits[self.exit], student_out.logits, batch["weights"]
            if regression:
                return losses.squared_error(logits, target, weights)
            return losses.soft_targets(logits, target, weights, 1.0)

        return loss
