"""What a student is to learn, from whom, and in which order, made ready for a training step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bertjax.learn.loss import Loss, LossFunction


class BoundLoss(NamedTuple):
    loss: Loss
    teacher: int
    """Its number."""
    formula: LossFunction


class Distillation(NamedTuple):
    """One lesson per loss and teacher, by a name that says which it is, and their parameters, which do not ship."""

    each: dict[str, BoundLoss]
    teachers: int
    extra: dict[str, Any]

    def terms(self, extra: Any, guess: Any, said: Sequence[Any], batch: Any) -> dict[str, Any]:
        """The terms of an objective, from the student's output and those of the teachers: the mean over teachers."""
        import jax

        from bertjax.learn.step import Term

        found = {}
        for name, (loss, teacher, formula) in self.each.items():
            with jax.named_scope(f"[{name}]"):  # as products of the model name theirs
                total, weight = formula(extra[name], guess, said[teacher], batch)
            found[name] = Term(total, weight, loss.weight / self.teachers)
        return found


def bind_losses(losses: Sequence[Loss], student: Any, teachers: Sequence[Any], seed: int) -> Distillation:
    """The losses of a config, for models of these `BertConfig`s; each has a projection of its own to each teacher."""
    import jax

    each = {
        f"{i}_{type(loss).__name__}" + f"_of_{number}" * (number > 0): BoundLoss(
            loss, number, loss.build(student, teacher)
        )
        for number, teacher in enumerate(teachers)
        for i, loss in enumerate(losses)
    }
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), max(1, len(each)))
    extra = {
        name: lesson.loss.parameters(key, student, teachers[lesson.teacher])  # type: ignore[attr-defined]
        if hasattr(lesson.loss, "parameters")
        else {}
        for key, (name, lesson) in zip(keys, each.items(), strict=False)
    }
    return Distillation(each, len(teachers), extra)
