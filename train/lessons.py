"""What a student is to learn, from whom, and in which order, made ready for a training step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import Loss, LossFunction
from bertjax.errors import UserError

from .optimiser import Phases


class Lesson(NamedTuple):
    loss: Loss
    teacher: int
    """Its number."""
    formula: LossFunction


class Lessons(NamedTuple):
    """One lesson per loss and teacher, by a name that says which it is, and their parameters, which do not ship."""

    each: dict[str, Lesson]
    teachers: int
    extra: dict[str, Any]

    def terms(self, extra: Any, guess: Any, said: Sequence[Any], batch: Any) -> dict[str, Any]:
        """The terms of an objective, from the student's output and those of the teachers: the mean over teachers."""
        import jax

        from .step import Term

        found = {}
        for name, (loss, teacher, formula) in self.each.items():
            with jax.named_scope(f"[{name}]"):  # as products of the model name theirs
                total, weight = formula(extra[name], guess, said[teacher], batch)
            found[name] = Term(total, weight, loss.weight / self.teachers)
        return found


def lessons(losses: Sequence[Loss], student: Any, teachers: Sequence[Any], seed: int) -> Lessons:
    """The losses of a config, for models of these `BertConfig`s; each has a projection of its own to each teacher."""
    import jax

    each = {
        f"{i}_{type(loss).__name__}" + f"_of_{number}" * (number > 0): Lesson(
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
    return Lessons(each, len(teachers), extra)


def layer_by_layer(
    progressive: Progressive | None, student: Any, teacher: Any, steps: int
) -> tuple[Phases | None, Callable[..., dict[str, Any]]]:
    """The phases of a run of so many steps in which one layer learns, and `(params, teacher_params, batch, step, key,
    afterwards) -> terms`, which asks `afterwards()` once they are over. Without `progressive` they never begin.

    Raises:
      UserError: The phases take more steps than the run has.
    """
    if progressive is None:
        return None, lambda params, teacher_params, batch, step, key, afterwards: afterwards()
    from .step import Term

    depth, first = student.config.depth, progressive.first_phases(student.config)
    phases = Phases(depth, progressive.steps_per_layer, first, progressive.below)
    if phases.count * phases.steps > steps:
        raise UserError(
            f"progressive: {depth} layers of {phases.steps} steps each are more than the {steps} steps of the run; "
            "lower steps_per_layer, or raise --steps."
        )
    sums_of, losses = progressive.build(student, teacher), progressive.named_losses()

    def terms(
        params: Any, teacher_params: Any, batch: Any, step: Any, key: Any, afterwards: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        layer = step // phases.steps

        def learn_layer() -> dict[str, Any]:
            sums = sums_of(params, teacher_params, batch, layer, key)
            return {name: Term(*total, losses[name].weight) for name, total in sums.items()}

        return either(layer < phases.count, learn_layer, afterwards)

    return phases, terms


def either(first: Any, one: Callable[[], dict], other: Callable[[], dict]) -> dict:
    """The terms of one or of the other, and sums and weights of 0 for those that are not asked."""
    import jax
    import jax.numpy as jnp

    def zeros(terms: Callable[[], dict]) -> dict:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), jax.eval_shape(terms))

    none = {**zeros(one), **zeros(other)}
    taken = lambda terms: {**none, **jax.tree.map(jnp.float32, terms())}  # noqa: E731
    return jax.lax.cond(first, lambda: taken(one), lambda: taken(other))
