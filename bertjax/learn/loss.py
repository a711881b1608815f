"""The base of every loss: one term of what a model learns.

A loss is a small frozen dataclass: a weight and settings. It says what it reads, and builds its formula when the models
are known. A loss in a user's own file subclasses `Loss` and works like those of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from jax import Array

    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch, WeightedSum
    from bertjax.learn.transform import Update
    from bertjax.model import BertConfig
    from bertjax.params import Tree

LossFunction = Callable[..., "WeightedSum"]
"""`(extra, student_out, teacher_out, batch) -> (weighted sum, weight)`. The weight depends on the batch alone."""

Need = tuple[str, int]
"""A field of `ModelOutput` and an index in it: ("hidden_states", 0) is the embedding output, ("queries", 5) the queries
of layer 5. ("first", i) is the first row, [CLS], of hidden state i."""


@dataclass(frozen=True)
class Loss:
    """One term of what a model learns. A subclass defines `build`; the other members have defaults."""

    weight: float = 1.0

    reads_labels: ClassVar[bool] = False
    """Whether it reads the labels of the data, which unlabelled text lacks."""
    reads_pairs: ClassVar[bool] = False
    """Whether it compares the two texts of a pair, which each have an embedding."""
    reads_teacher: ClassVar[bool] = True
    """Whether it reads a teacher's output. A loss that does not counts once, however many teachers there are."""
    reads_mlm_head: ClassVar[bool] = False
    """Whether it reads a teacher's predictions of masked tokens."""

    @property
    def reads_all_positions(self) -> bool:
        """Whether it reads the logits of every token in masked language modelling, and not only of the masked ones."""
        return False

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction:
        """The formula. `student_out` and `teacher_out` are `ModelOutput`s, or for a stored teacher the part of it that
        `needs` names. Without a teacher, `teacher` is the student's own config and `teacher_out` is None."""
        raise NotImplementedError

    def weight_at(self, update: Update) -> Any:
        """The weight in an update: `weight`, or a schedule."""
        del update
        return self.weight

    def needs(self, student: BertConfig, teacher: BertConfig) -> frozenset[Need] | None:
        """The teacher outputs that it reads besides the logits; these can be computed once and stored. None: the
        teacher has to run in every step."""
        del student, teacher
        return None if self.reads_teacher else frozenset()

    def packable(self, student: BertConfig, teacher: BertConfig) -> bool:
        """Whether a row may hold several examples: not if it treats a row as one."""
        return self.needs(student, teacher) == frozenset()

    def reads_states(self, student: BertConfig, teacher: BertConfig) -> bool:
        """Whether it compares the states of all tokens in inner layers, some of which a student that drops tokens does
        not have. By default read from `needs`: anything but the teacher's logits and [CLS] states."""
        needs = self.needs(student, teacher)
        return needs is None or any(name != "first" for name, _ in needs)

    def parameters(self, key: Array, student: BertConfig, teacher: BertConfig) -> Tree:
        """Its own parameters, such as a projection. They are trained with the model and do not ship."""
        del key, student, teacher
        return {}

    def fit(self, extra: Tree, student: Bundle, teacher: Bundle, batches: Iterable[Batch]) -> Tree:
        """Its own parameters, fitted to sample text before the first step."""
        del student, teacher, batches
        return extra


@dataclass(frozen=True)
class Penalty:
    """A term on the parameters alone, whatever the text is. What is to be maximised reverses its gradient inside."""

    weight: float = 1.0

    def value(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Array:
        """The value, a scalar. `extra` and `state` are whole: {"losses": ..., "transforms": ...}."""
        raise NotImplementedError

    def weight_at(self, update: Update) -> Any:
        """The weight in an update: `weight`, or a schedule."""
        del update
        return self.weight
