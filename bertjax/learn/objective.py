"""Distillation losses bound to a student and its teachers: the terms of a training step's objective.

A config holds losses without models. Binding fixes the number and shapes of each loss's own parameters (projections
between widths), which are trained with the student and do not ship.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from bertjax.learn.loss import Loss, LossFunction
from bertjax.learn.losses import Batch
from bertjax.learn.step import Term
from bertjax.model import BertConfig
from bertjax.params import Tree


class BoundLoss(NamedTuple):
    loss: Loss
    teacher: int
    """Index of the teacher."""
    formula: LossFunction


class Distillation(NamedTuple):
    """One bound loss per loss and teacher, by a unique name, and their own parameters, which do not ship."""

    each: dict[str, BoundLoss]
    teachers: int
    extra: Tree

    def terms(self, extra: Tree, student_out: Any, teacher_out: Sequence[Any], batch: Batch) -> dict[str, Term]:
        """The terms of an objective, from the output of the student and of each teacher; teachers are averaged."""
        terms = {}
        for name, (loss, teacher, formula) in self.each.items():
            with jax.named_scope(f"[{name}]"):  # in brackets, like the sites of the model's products
                total, weight = formula(extra[name], student_out, teacher_out[teacher], batch)
            terms[name] = Term(total, weight, loss.weight / self.teachers)
        return terms


def bind_losses(losses: Sequence[Loss], student: BertConfig, teachers: Sequence[BertConfig], seed: int) -> Distillation:
    """Binds the losses of a config to these models; each loss gets its own parameters for each teacher."""
    each = {
        f"{i}_{type(loss).__name__}" + f"_of_{number}" * (number > 0): BoundLoss(
            loss, number, loss.build(student, teacher)
        )
        for number, teacher in enumerate(teachers)
        for i, loss in enumerate(losses)
    }
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), max(1, len(each)))
    extra = {
        name: bound.loss.parameters(key, student, teachers[bound.teacher])  # type: ignore[attr-defined]
        if hasattr(bound.loss, "parameters")
        else {}
        for key, (name, bound) in zip(keys, each.items(), strict=False)
    }
    return Distillation(each, len(teachers), extra)
