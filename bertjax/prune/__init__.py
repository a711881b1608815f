"""Pruning: a smaller or sparser model, with its parameters.

    from bertjax.prune import keep_heads, remove_dead

    config, params = keep_heads(bundle.config, bundle.params, {0: [0, 3, 5], 1: [2]})

    surgery.py   structured pruning: layers, heads, neurons and columns of a word table removed exactly
    hidden.py    hidden columns removed through the whole network
    scores.py    importance scores of heads, neurons and layers
    criteria.py  the criteria as they appear in configs
    select.py    which parts to keep, from their scores
    second_order.py  heads and neurons removed one at a time, the remaining weights corrected
    allocate.py  how many heads and neurons each layer keeps within a budget
    masks.py     unstructured and N:M sparsity by masks, at once or gradually
    transforms.py  the same inside a training step: zeros that stay, zeros that grow
    movement.py  weights pruned by learned scores while the model is fine-tuned
    block_movement.py  the same for neurons, and for heads or blocks of attention, which are removed
    ticket.py    lottery tickets: masks to train with from the pre-trained weights, as a file
    layerdrop.py  layers dropped at random while the model trains
    cofi.py      heads, neurons, sublayers and hidden columns removed by gates that are learned
    hard_concrete.py  the gates
    lagrangian.py  the term that drives their cost to its target
    costs.py     what the parts of a layer cost

The trade-off: a masked weight is still multiplied, so masks save space in a compressed file and no time. Removing parts
makes the matrices smaller, which saves time in every runtime and on every device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertjax.callable_package import make_callable

if TYPE_CHECKING:
    from bertjax.prune.block_movement import BlockMovement
    from bertjax.prune.cofi import CoFi
    from bertjax.prune.criteria import Criterion
    from bertjax.prune.hidden import keep_hidden
    from bertjax.prune.layerdrop import LayerDrop
    from bertjax.prune.movement import Movement
    from bertjax.prune.surgery import keep_columns, keep_heads, keep_layers, keep_neurons, remove_dead
    from bertjax.prune.ticket import Ticket
    from bertjax.prune.transforms import GradualMagnitude, KeepZeros

__all__ = [
    "BlockMovement",
    "CoFi",
    "Criterion",
    "GradualMagnitude",
    "KeepZeros",
    "LayerDrop",
    "Movement",
    "Ticket",
    "keep_columns",
    "keep_heads",
    "keep_hidden",
    "keep_layers",
    "keep_neurons",
    "remove_dead",
]

make_callable(__name__)


HOMES = {
    "BlockMovement": "block_movement",
    "CoFi": "cofi",
    "Criterion": "criteria",
    "LayerDrop": "layerdrop",
    "Movement": "movement",
    "Ticket": "ticket",
    "keep_hidden": "hidden",
}
"""The modules of names that are neither in transforms.py nor in surgery.py."""


def __getattr__(name: str) -> Any:
    """Imports lazily: config files use the transforms, which need no jax; surgery does."""
    if name not in __all__:
        raise AttributeError(f"module 'bertjax.prune' has no attribute {name!r}")
    home = HOMES.get(name, "transforms" if name[0].isupper() else "surgery")
    value = globals()[name] = getattr(import_module(f"bertjax.prune.{home}"), name)
    return value
