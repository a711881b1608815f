"""Losses on the final output of a model: its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertjax.errors import UserError
from bertjax.learn.loss import Loss, LossFunction, Need

if TYPE_CHECKING:
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class HardLabels(Loss):
    """The supervised loss of the task, against the labels of the data."""

    weight: float = 1.0
    class_weights: tuple[float, ...] = ()
    """For classification: how much an example of each class counts, in the order of the model's labels. Empty: all
    alike. The loss is divided by the sum of these weights over the batch."""

    reads_labels: ClassVar[bool] = True
    reads_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_class_weights("class_weights", self.class_weights)

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        import jax.numpy as jnp

        from bertjax.learn.losses import TASK_LOSSES
        from bertjax.predict import kind_of

        kind, by_class = kind_of(student), self.class_weights
        task_loss = TASK_LOSSES[kind]
        if by_class and (kind != "classification" or len(by_class) != len(student.labels)):
            raise UserError(
                f"class_weights has {len(by_class)} numbers; expected one for each class of a classification task, "
                f"here {', '.join(student.labels)} ({kind})"
            )

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            if by_class:
                counts = jnp.asarray(by_class, jnp.float32)[batch["labels"]]
                batch = {**batch, "weights": batch["weights"] * counts}
            return task_loss(student_out.logits, batch)

        return loss


def check_class_weights(name: str, weights: tuple[float, ...]) -> None:
    """Raises a `UserError` for weights that are negative, or all 0."""
    if weights and not (min(weights) >= 0 and max(weights) > 0):
        raise UserError(f"{name} is {', '.join(map(str, weights))}; expected numbers from 0, and one above it")


@dataclass(frozen=True)
class SoftTargets(Loss):
    """Divergence from the teacher's probabilities at a temperature; for regression, the squared error to its output
    (Hinton et al. 2015). For embeddings it is 1 - cos with the teacher's vector or, where the widths differ, the
    squared error of the similarities within a batch, as in `Embeddings` and `Similarities`.

    For classification there are three published forms: T^2 KL per row ("hinton"); the same divided by the number of
    classes ("pkd", the code of PKD); the cross-entropy divided by that number, without T^2 ("tinybert", the code of
    TinyBERT).
    """

    weight: float = 1.0
    temperature: float = 2.0
    preset: Literal["hinton", "pkd", "tinybert"] = "hinton"

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need]:
        return frozenset()

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.learn.losses import token_weights
        from bertjax.predict import kind_of

        kind, temperature, preset = kind_of(student), self.temperature, self.preset
        if preset != "hinton" and kind != "classification":
            raise UserError(
                f"SoftTargets(preset={preset!r}) is defined only for a classification task, and this one is of kind "
                f"{kind!r}; use preset='hinton'."
            )
        same_width = student.output_size == teacher.output_size

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> WeightedSum:
            logits, target, weights = student_out.logits, teacher_out.logits, batch["weights"]
            if kind == "embedding":
                return (losses.cosine if same_width else losses.similarity_error)(logits, target, weights)
            if kind == "regression":
                return losses.squared_error(logits, target, weights)
            if kind == "qa":
                return losses.span_soft_targets(logits, target, batch["attention_mask"], weights, temperature)
            if kind == "tokens":
                real = batch["attention_mask"] * token_weights(batch)
                return losses.soft_targets(logits, target, real, temperature)
            if kind == "multi_label":
                return losses.binary_soft_targets(logits, target, weights, temperature)
            formula = losses.soft_cross_entropy if preset == "tinybert" else losses.soft_targets
            total, weight = formula(logits, target, weights, temperature)
            return total if preset == "hinton" else total / logits.shape[-1], weight

        return loss
