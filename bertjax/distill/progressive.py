"""One layer after another: progressive knowledge transfer (MobileBERT, Sun et al. 2020, section 3.5).

In a deep, narrow student that trains all layers at once, the upper layers learn from lower ones that still change. So
in phase l layer l learns to match the paired teacher layer. The layers below it train at a small learning rate, because
what layer l needs from them is not exactly what they learned. The layers above it are not computed, in student or
teacher: a phase costs its own depth, and all phases together half as much as the same number of full steps. The
trade-off: the task is not learned in these steps, and the number of steps per layer is one more hyperparameter.

All phases are one program. Each layer is a branch that is taken if the phase has reached it, so the final output is the
output of the layer being trained, and the losses compare two models of one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertjax.distill.pairing import pair_layers
from bertjax.distill.terms import AttentionMaps, FeatureMaps, Loss
from bertjax.errors import UserError
from bertjax.learn.phases import Curriculum, Phases

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.model import BertConfig, BertModel
    from bertjax.params import Tree


@dataclass(frozen=True)
class Progressive:
    """Phases in which one layer learns, before ordinary distillation. Student and teacher must have equal widths.

    MobileBERT's published code corresponds to losses=(FeatureMaps(preset="official"),
    AttentionMaps(preset="official")).
    """

    steps_per_layer: int = 1000
    below: float = 0.1
    """Factor of the learning rate for the layers below the one being trained, and for the embeddings after phase 0."""
    pairing: str | tuple[int, ...] = "uniform"
    """Which teacher layer each student layer learns from."""
    losses: tuple[Loss, ...] = (FeatureMaps(), AttentionMaps())
    """The losses of a phase; each sees student and teacher as models of one layer."""

    def __post_init__(self) -> None:
        if self.steps_per_layer < 1 or not 0 <= self.below <= 1 or not self.losses:
            raise UserError(
                f"progressive: steps_per_layer={self.steps_per_layer}, below={self.below}, {len(self.losses)} losses; "
                "expected at least 1 step per layer, a factor `below` from 0 to 1, and at least one loss."
            )

    def first_phases(self, student: BertConfig) -> tuple[tuple[str, int], ...]:
        """Rules (regex, phase in which training starts) for the paths of the student's parameters. Parameters that
        match no rule, such as the head, train only in ordinary distillation.

        Raises:
          UserError: The layers share parameters or are repeated, so one cannot be trained without the others.
        """
        steps = student.depth_steps()
        if student.recurrence or len(set().union(*(step.groups for step in steps))) < len(steps):
            raise UserError(
                "progressive: the student's layers share parameters, so they cannot be trained one after another; use "
                "a student without parameter sharing, or leave `progressive` out."
            )
        layers = tuple((rf"^params/encoder/layer_{g}/", i) for i, step in enumerate(steps) for g in step.groups)
        return (("^params/embeddings/", 0), *layers, ("^params/encoder/", len(steps) - 1))

    def build(
        self, student: BertConfig, teacher: BertModel
    ) -> Callable[[BertModel, Tree, Tree, Batch, Array, Array], dict[str, WeightedSum]]:
        """`(model, params, teacher_params, batch, layer, key) -> sums`: the losses of student layer `layer`, by name.
        `layer` may be a traced value."""
        import jax.numpy as jnp

        pairing = jnp.array(pair_layers(self.pairing, student.depth, teacher.config.depth))
        narrowed = one_layer(student, "student"), one_layer(teacher.config, "teacher")
        formulas = {name: loss.build(*narrowed) for name, loss in self.named_losses().items()}

        def sums(
            model: BertModel, params: Tree, teacher_params: Tree, batch: Batch, layer: Array, key: Array
        ) -> dict[str, WeightedSum]:
            teacher_out = up_to(teacher, teacher_params, batch, pairing[layer])
            student_out = up_to(model, params, batch, layer, rngs={"dropout": key})
            return {name: formula({}, student_out, teacher_out, batch) for name, formula in formulas.items()}

        return sums

    def named_losses(self) -> dict[str, Loss]:
        return {f"layers_{i}_{type(loss).__name__}": loss for i, loss in enumerate(self.losses)}


def one_layer(config: BertConfig, whose: str) -> BertConfig:
    """The config of a model with one such layer."""
    import dataclasses

    shapes = {step.shape for step in config.depth_steps()}
    if config.recurrence or len(shapes) > 1:
        raise UserError(
            f"progressive: the {whose} has layers of different sizes or is recurrent; expected layers that all have "
            "the same numbers of heads and neurons, each applied once."
        )
    if config.retention:
        raise UserError(f"progressive: the {whose} drops tokens; expected a model whose layers see all of them.")
    alone = dataclasses.replace(config.depth_steps()[0], attention=None, ffn=None, attention_norm=None, ffn_norm=None)
    return config.replace(num_hidden_layers=1, num_hidden_groups=0, inner_group_num=1, layers=(alone,), exits=None)


def up_to(model: BertModel, params: Tree, batch: Batch, last: Array, **options: Any) -> Any:
    """The output of layer `last`, as the output of a model of one layer. The layers above it are not computed."""
    import jax

    from bertjax.model import ModelOutput, key_mask

    mask = key_mask(batch["attention_mask"], kernel=model.config.attention)

    def layer(number: int, hidden: Array) -> Any:
        found: Any = model.apply({"params": params}, hidden, mask, None, number, number + 1, method="layers", **options)
        return found[0]

    inputs = batch["input_ids"], batch["token_type_ids"]
    embedded: Any = model.apply({"params": params}, *inputs, method="embed", **options)
    output = layer(0, embedded)
    for number in range(1, model.config.depth):
        output = jax.lax.cond(number <= last, lambda o, n=number: layer(n, o.hidden), lambda o: o, output)
    inside = (output.queries,), (output.keys,), (output.values,)
    return ModelOutput(None, None, None, (embedded, output.hidden), *inside)


def layer_by_layer(
    progressive: Progressive | None, student: BertConfig, teacher: BertModel, steps: int
) -> Curriculum | None:
    """The phases of a run of `steps` steps and their terms; None without `progressive`.

    Raises:
      UserError: The phases take more steps than the run has.
    """
    if progressive is None:
        return None
    from bertjax.learn.step import Term

    phases = Phases(student.depth, progressive.steps_per_layer, progressive.first_phases(student), progressive.below)
    if phases.count * phases.steps > steps:
        raise UserError(
            f"progressive: {phases.count} layers with {phases.steps} steps per layer need "
            f"{phases.count * phases.steps} steps, and the run has {steps}; lower steps_per_layer, or raise --steps."
        )
    sums_of, losses = progressive.build(student, teacher), progressive.named_losses()

    def terms(
        model: BertModel,
        params: Tree,
        teacher_params: Tree,
        batch: Batch,
        step: Array,
        key: Array,
        afterwards: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        layer = step // phases.steps

        def learn_layer() -> dict[str, Any]:
            sums = sums_of(model, params, teacher_params, batch, layer, key)
            return {name: Term(*total, losses[name].weight) for name, total in sums.items()}

        return either(layer < phases.count, learn_layer, afterwards)

    return Curriculum(phases, terms)


def either(first: Any, one: Callable[[], dict], other: Callable[[], dict]) -> dict:
    """The terms of the chosen function. Terms that only the other function has get sums and weights of 0."""
    import jax
    import jax.numpy as jnp

    def zeros(terms: Callable[[], dict]) -> dict:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), jax.eval_shape(terms))

    none = {**zeros(one), **zeros(other)}
    taken = lambda terms: {**none, **jax.tree.map(jnp.float32, terms())}  # noqa: E731
    return jax.lax.cond(first, lambda: taken(one), lambda: taken(other))
