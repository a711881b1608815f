"""What a model learns without a teacher, as losses of the step: pre-training's objectives, and the cost of a
recurrence's steps. The labels of a task are `bertjax.distill.HardLabels`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.learn.loss import Loss, LossFunction

if TYPE_CHECKING:
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig


@dataclass(frozen=True)
class TaskLoss(Loss):
    """A loss on the student's own output."""

    reads_teacher: ClassVar[bool] = False

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        return lambda extra, student_out, teacher_out, batch: self.value(student_out, batch)

    def value(self, output: Any, batch: Batch) -> WeightedSum:
        """The weighted sum and the weight."""
        raise NotImplementedError


@dataclass(frozen=True)
class PonderCost(TaskLoss):
    """Steps plus remainder of every real position, for adaptive computation time (Graves 2016, eq. 14)."""

    weight: float = 0.01

    def value(self, output: Any, batch: Batch) -> WeightedSum:
        from bertjax.learn.losses import ponder_cost

        return ponder_cost(output.trace, batch)


@dataclass(frozen=True)
class MaskedTokens(TaskLoss):
    """Cross-entropy of the masked tokens (Devlin et al. 2018)."""

    def value(self, output: Any, batch: Batch) -> WeightedSum:
        from bertjax.learn.losses import classification

        return classification(output.logits, targets(batch, "masked"))


@dataclass(frozen=True)
class SentencePairs(TaskLoss):
    """Cross-entropy of the relation between two segments: which follows (BERT) or in which order (ALBERT)."""

    def value(self, output: Any, batch: Batch) -> WeightedSum:
        from bertjax.learn.losses import classification

        return classification(output.sentence_logits, targets(batch, "sentence"))


def targets(batch: Batch, what: str) -> dict[str, Any]:
    """Labels and weights of one pre-training objective, "masked" or "sentence", under the names that losses read."""
    return {"labels": batch[f"{what}_labels"], "weights": batch[f"{what}_weights"]}
