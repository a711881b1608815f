"""The interface of a distillation loss. `losses` of a config accepts any object that has it, also a user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from bertjax.learn.losses import WeightedSum
    from bertjax.model import BertConfig

LossFunction = Callable[..., "WeightedSum"]
"""`(extra, student_out, teacher_out, batch) -> (weighted sum, weight)`."""


@runtime_checkable
class Loss(Protocol):
    """What `losses` in a config may hold."""

    @property
    def weight(self) -> float: ...

    def build(self, student: BertConfig, teacher: BertConfig) -> LossFunction: ...
