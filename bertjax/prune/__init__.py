"""Parts taken out of a model, so that less is stored, multiplied and waited for.

    from bertjax.prune import keep_heads, remove_dead

    config, params = keep_heads(bundle.config, bundle.params, {0: [0, 3, 5], 1: [2]})

    surgery.py   layers, heads, neurons and columns removed; what is left computes what it did
    scores.py    what a head, a neuron, a layer is worth
    choice.py    from scores to what stays
    masks.py     weights that are 0 where they stand, at once or more and more of them, and stay so in training

A zero that stays in its matrix is multiplied like any other number: it saves bytes in a compressed file and no time.
What is removed makes matrices smaller, which every runtime on every device rewards.
"""

from bertjax.prune.surgery import keep_columns, keep_heads, keep_layers, keep_neurons, remove_dead

__all__ = ["keep_columns", "keep_heads", "keep_layers", "keep_neurons", "remove_dead"]
