"""LayerDrop (Fan, Grave & Joulin 2019): whole layers are dropped at random while the model trains, so that it works at
smaller depths without being trained for them.

The draw is one per update, shared by all examples, devices and micro-batches, as in the published code; a dropped layer
is the identity and is not computed. Nothing is rescaled, in training or afterwards. A loss on the states of a dropped
layer compares its input, one on its queries, keys and values zeros. The trade-off: the full model loses
a little, and the published code reports that dropping layers in fine-tuning alone, of a model that was pre-trained
without, works less well. `bertjax.prune.keep_layers` takes a smaller depth out of the trained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.params import flatten

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.params import Tree


@dataclass(frozen=True)
class LayerDrop(Transform):
    """Each layer is dropped with a probability, anew in every update."""

    rate: float = 0.2
    """Probability. About the fraction of layers that will be removed, for instance 0.5 for half of the depth."""
    still: bool = True
    """What the optimiser does to the parameters of a dropped layer: nothing, as in the published code. False: what it
    does for a gradient of 0, which is decay and a step of the momentum. Scores and scales of other transforms are not
    held."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UserError(f"LayerDrop: rate is {self.rate}; expected a probability from 0 to below 1.")

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        if config.recurrence:
            raise UserError("LayerDrop drops single layers, and a recurrent model repeats one block: leave it out.")
        return {}, {}

    def runs(self, update: Update) -> Array:
        """Which layers run in an update, as booleans [depth]."""
        import jax

        return jax.random.uniform(update.key, (update.config.depth,)) >= self.rate

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        return params, Forward(layers=self.runs(update))

    def holds_still(self, update: Update, params: Tree, state: Tree) -> Tree:
        """The parameters that only dropped layers use."""
        if not self.still:
            return {}
        import numpy as np

        runs, users = self.runs(update), layers_of(update.config, params)
        return {path: ~runs[np.array(layers)].any() for path, layers in users.items()}


def layers_of(config: BertConfig, params: Tree) -> dict[str, list[int]]:
    """The layers that use each parameter of the encoder's layers."""
    users: dict[str, list[int]] = {}
    for path in flatten(params):
        if not path.startswith("encoder/layer_"):
            continue
        _, group, part, *rest = path.split("/")
        number = int(group.removeprefix("layer_"))
        owner = "ffn" if part == "ffn" else "attention"
        owner += "_norm" if part in ("attention", "ffn") and rest[0] == "layer_norm" else ""
        steps = enumerate(config.depth_steps())
        users[path] = [layer for layer, step in steps if getattr(step, owner) == number]
    return users
