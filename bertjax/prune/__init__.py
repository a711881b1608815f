"""Pruning: a smaller or sparser model, with its parameters.

    from bertjax.prune import keep_heads, remove_dead

    config, params = keep_heads(bundle.config, bundle.params, {0: [0, 3, 5], 1: [2]})

    surgery.py   structured pruning: layers, heads, neurons and columns removed exactly
    scores.py    importance scores of heads, neurons and layers
    select.py    which parts to keep, from their scores
    masks.py     unstructured and N:M sparsity by masks, at once or gradually, kept during training

The trade-off: a masked weight is still multiplied, so masks save space in a compressed file and no time. Removing parts
makes the matrices smaller, which saves time in every runtime and on every device.
"""

from bertjax.prune.surgery import keep_columns, keep_heads, keep_layers, keep_neurons, remove_dead

__all__ = ["keep_columns", "keep_heads", "keep_layers", "keep_neurons", "remove_dead"]
