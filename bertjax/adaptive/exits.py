"""Adds exits to a trained model, `(config, params) -> (config, params)`, without changing its final logits."""

import dataclasses

import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig, abstract_params, init_params
from bertjax.model.depth import Exits
from bertjax.params import Tree, flatten, unflatten


def add_exits(config: BertConfig, params: Tree, exits: Exits, seed: int) -> tuple[BertConfig, Tree]:
    """The model with heads after these layers: poolers begin as copies of the model's own (Xin et al. 2020, official
    code), classifiers as copies of its classifier, so that exits late in the model are good from the start.

    Raises:
      UserError: An exit after the last layer, where the model's own head is; a model that has exits.
    """
    if config.exits is not None:
        raise UserError(
            f"this model already has exits after layers {config.exits.after}; remove them first (remove_exits)."
        )
    if exits.after[-1] >= config.depth - 1:
        raise UserError(
            f"exits after {exits.after}: expected layers from 0 to {config.depth - 2}, or -1 for the embeddings; after "
            f"the last layer, {config.depth - 1}, the model's own head ends every example."
        )
    new = config.replace(exits=exits)
    newly_initialized = [path for path in flatten(abstract_params(new)) if path.startswith("exits/")]
    drawn = flatten(init_params(new, seed, only=newly_initialized)) if newly_initialized else {}
    known = flatten(params)
    for path in drawn:
        own = path.split("/", 2)[2]  # exits/exit_3/pooler/kernel -> pooler/kernel
        if own in known and known[own].shape == drawn[path].shape:
            drawn[path] = np.array(known[own])
    return new, unflatten(known | drawn)


def forget_threshold(config: BertConfig) -> BertConfig:
    """The config without its exit rule and its threshold of no answer, for a model that will be trained: they were
    calibrated for other logits."""
    config = config.replace(no_answer_threshold=None)
    if config.exits is None:
        return config
    return config.replace(exits=dataclasses.replace(config.exits, exit_rule=None))


def remove_exits(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
    """The model without exits: the input of `add_exits`, bit for bit."""
    return config.replace(exits=None), {name: branch for name, branch in params.items() if name != "exits"}
