"""Soft targets of a masked language model, for students that are trained on raw text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction

if TYPE_CHECKING:
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class MLMSoftTargets(Loss):
    """Divergence from the teacher's probabilities over the vocabulary at a temperature, T^2 KL per position (Hinton et
    al. 2015). Student and teacher must have the same vocabulary; nothing else has to match.

    `everywhere` compares at every real token, as DistilBERT's code does (Sanh et al. 2019), instead of at masked tokens
    only. That is seven times as many positions, each with logits over the whole vocabulary.
    """

    weight: float = 1.0
    temperature: float = 2.0
    everywhere: bool = False

    reads_mlm_head: ClassVar[bool] = True

    @property
    def reads_all_positions(self) -> bool:
        return self.everywhere

    def packable(self, student: BertConfig, teacher: BertConfig) -> bool:
        return not self.everywhere

    def reads_states(self, student: BertConfig, teacher: BertConfig) -> bool:
        return False

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses

        for config in (student, teacher):
            if not config.architecture.endswith(("MaskedLM", "PreTraining")):
                raise UserError(
                    f"MLMSoftTargets compares predictions of masked tokens, and a {config.architecture} has no MLM "
                    "head; use a student and a teacher that have one."
                )
        if student.vocab_size != teacher.vocab_size:
            raise UserError(
                "MLMSoftTargets needs student and teacher with the same vocabulary: the student has "
                f"{student.vocab_size} tokens, the teacher {teacher.vocab_size}."
            )
        everywhere, temperature = self.everywhere, self.temperature

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            del extra
            weights = batch["attention_mask"] * batch["weights"][:, None] if everywhere else batch["masked_weights"]
            return losses.soft_targets(student_out.logits, teacher_out.logits, weights, temperature)

        return loss
