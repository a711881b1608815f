"""The distillation losses as configs hold them: a name and numbers, and one method that builds the formula.

`needs` tells what of the teacher a loss looks at, as the set of hidden states (0 is the embedding) besides its logits;
such outputs can be computed once and stored. A loss without that method gets a teacher that runs in every step.
This module imports no jax, so that a config file costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bertjax.distill.pairing import pair_layers

if TYPE_CHECKING:
    from jax import Array

    from bertjax.losses import Batch, Sum
    from bertjax.model import BertConfig
    from bertjax.params import Tree

LossFunction = Callable[..., "Sum"]
"""`(extra, student_out, teacher_out, batch) -> (weighted sum, weight)`."""


class Loss(Protocol):
    """What `losses` in a config may hold."""

    @property
    def weight(self) -> float: ...

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction: ...


@dataclass(frozen=True)
class HardLabels:
    """The task's own loss against the labels of the data."""

    weight: float = 1.0

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[int]:
        return frozenset()

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.losses import TASK_LOSSES
        from bertjax.predict import kind_of

        task_loss = TASK_LOSSES[kind_of(student)]

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            return task_loss(student_out.logits, batch)

        return loss


@dataclass(frozen=True)
class SoftTargets:
    """The teacher's probabilities at a temperature; its number for regression (Hinton et al. 2015)."""

    weight: float = 1.0
    temperature: float = 2.0

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[int]:
        return frozenset()

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        from bertjax.distill import losses
        from bertjax.predict import kind_of

        kind, temperature = kind_of(student), self.temperature

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            logits, target, weights = student_out.logits, teacher_out.logits, batch["weights"]
            if kind == "regression":
                return losses.squared_error(logits, target, weights)
            if kind == "qa":
                return losses.span_soft_targets(logits, target, batch["attention_mask"], weights, temperature)
            if kind == "tokens":
                return losses.soft_targets(logits, target, batch["attention_mask"] * weights[:, None], temperature)
            formula = losses.binary_soft_targets if kind == "multi_label" else losses.soft_targets
            return formula(logits, target, weights, temperature)

        return loss


@dataclass(frozen=True)
class HiddenStates:
    """Mean squared error between paired hidden states, the embeddings among them, over real pieces (TinyBERT, Jiao et
    al. 2020, eq. 8-9). A learned projection, shared by all layers, bridges different widths; equal widths need none."""

    weight: float = 1.0
    pairing: str | tuple[int, ...] = "uniform"
    embeddings: bool = True

    def pairs(self, student: BertConfig, teacher: BertConfig) -> tuple[tuple[int, int], ...]:
        """(student, teacher) positions in `hidden_states`."""
        layers = pair_layers(self.pairing, student.depth, teacher.depth)
        return ((0, 0),) * self.embeddings + tuple((i + 1, layer + 1) for i, layer in enumerate(layers))

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[int]:
        return frozenset(t for _, t in self.pairs(student, teacher))

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        """The projection, in `extra`: it is trained and never ships."""
        if student.hidden_size == teacher.hidden_size:
            return {}
        import jax

        kernel = jax.random.normal(key, (student.hidden_size, teacher.hidden_size)) * student.hidden_size**-0.5
        return {"kernel": kernel}

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        import jax.numpy as jnp

        from bertjax.distill import losses

        pairs = self.pairs(student, teacher)

        def loss(extra: Tree, student_out: Any, teacher_out: Any, batch: Batch) -> Sum:
            weights = batch["attention_mask"] * batch["weights"][:, None]

            def error(s: int, t: int) -> Array:
                hidden = student_out.hidden_states[s]
                projected = hidden @ extra["kernel"] if "kernel" in extra else hidden
                return losses.squared_error(projected, teacher_out.hidden_states[t], weights)[0]

            return jnp.stack([error(s, t) for s, t in pairs]).mean(), weights.sum()

        return loss
