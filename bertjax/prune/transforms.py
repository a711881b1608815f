"""Unstructured pruning inside the training step: zeros that stay, and zeros that grow by magnitude.

Both keep their masks in the state. A masked weight is multiplied by 0 before the model sees it, so it gets no gradient
and stays 0 whatever the optimiser does to the value underneath; `finish` writes the zeros into the model that ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bertjax.learn.transform import Forward, Transform, Update

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.params import Tree

KERNELS = r"^encoder/.*kernel$"
"""The weights of the encoder's dense layers."""


@dataclass(frozen=True)
class Masked(Transform):
    """The base of transforms whose state is masks."""

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.prune.masks import apply_masks

        return apply_masks(params, state), Forward()

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        from bertjax.prune.masks import apply_masks

        return config, apply_masks(params, state)


@dataclass(frozen=True)
class KeepZeros(Masked):
    """Weights of the matching matrices that are 0 at the start stay 0."""

    pattern: str = KERNELS

    def zeroed(self, params: Tree) -> tuple[str, ...]:
        from bertjax.prune.masks import matrices

        return tuple(matrices(params, self.pattern))

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        from bertjax.prune.masks import nonzero_masks

        return {}, nonzero_masks(params, self.pattern)


@dataclass(frozen=True)
class GradualMagnitude(KeepZeros):
    """The smallest weights become 0 while the model trains, more and more of them (Zhu & Gupta 2017)."""

    sparsity: float = 0.5
    """Fraction of the weights that are 0 in the end."""
    end: float = 0.5
    """Fraction of the steps over which sparsity grows. At least the last step trains at full sparsity."""
    scope: Literal["global", "matrix", "row"] | int = "global"
    """Which weights are compared with each other (`bertjax.prune.masks.Scope`)."""

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        from bertjax.prune.masks import all_ones

        return {}, all_ones(params, self.pattern, self.scope)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        from bertjax.prune.masks import gradual_magnitude

        last = min(round(self.end * update.total), update.total - 1)
        return gradual_magnitude(self.scope, self.sparsity, last)(state, params, update.step)
