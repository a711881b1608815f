"""Parts taken out of a model for good: layers, heads, neurons, columns of a narrow word table.

`(config, params) -> (config, params)`, each exact: what is left computes what the whole model does with the missing
parts gated by 0 (`LayerGates`), or with their weights at 0. Layers may end up with different shapes; the config says
so. What several depth steps share is cut once, for all of them. The price of the exactness is that nothing is made up
for: the score that is lost is won back by training.

A head that looks at nothing in particular, because its queries or its keys are 0, is not free to remove: it hands on
the mean of its values. Only values or outputs at 0 make a head dead, and neurons with inputs or outputs at 0; what such
parts still say, the same to every row, joins the bias behind them (`remove_dead`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bertjax.errors import UserError
from bertjax.model import BertConfig, LayerConfig
from bertjax.model.layers import ACTIVATIONS
from bertjax.params import Tree, flatten, step_params, unflatten
from bertjax.quantized.tensor import Quantized
from bertjax.share.tying import with_layers, with_steps

Kept = Mapping[int, Sequence[int]]
"""By group (`encoder/layer_g`; where nothing is shared, the depth step): the parts that stay, in rising order."""


def keep_layers(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with these depth steps, in rising order. An exit moves with the step that it is behind, and goes with
    it; one behind the step that is now the last goes too, because the model's own head is there.

    Raises:
      UserError: No step, one that is not there, or another order.
    """
    check_prunable(config, params)
    steps = config.depth_steps()
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(steps):
        raise UserError(f"layers to keep: {tuple(kept)}; expected some of 0 to {len(steps) - 1} in rising order.")
    left = tuple(renumbered([steps[number] for number in kept]))
    new = with_layers(config.replace(exits=None), left)
    params = with_steps(new, params, [step_params(params, steps[number]) for number in kept])
    return with_exits(config, new, params, kept)


def renumbered(steps: Sequence[LayerConfig]) -> list[LayerConfig]:
    """The steps with their groups counted from 0 in the order of their first use, so that steps of their own keep names
    of their own."""
    names = ("attention", "ffn", "attention_norm", "ffn_norm")
    order: dict[int | None, int] = {}
    for step in steps:
        for name in names:
            order.setdefault(getattr(step, name), len(order))
    return [dataclasses.replace(step, **{name: order[getattr(step, name)] for name in names}) for step in steps]


def with_exits(config: BertConfig, new: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The exits that stay, at their new places."""
    if config.exits is None:
        return new, params
    # The embeddings stay where they are.
    moved = {old: place for place, old in enumerate((-1, *kept[:-1]), -1) if old in config.exits.after}
    params = dict(params)
    heads = params.pop("exits", {})
    if not moved:
        return new, params
    if heads:
        params["exits"] = {f"exit_{place}": heads[f"exit_{old}"] for old, place in moved.items()}
    return new.replace(exits=dataclasses.replace(config.exits, after=tuple(moved.values()))), params


def keep_heads(config: BertConfig, params: Tree, kept: Kept) -> tuple[BertConfig, Tree]:
    """The model with these heads in these groups, and all heads in the others. Equal to `LayerGates.heads` of 0 for
    those that go.

    Raises:
      UserError: No head for a group, one that is not there, or a group without attention.
    """
    check_prunable(config, params)
    width = config.head_size
    flat = flatten(params)
    for group, heads in kept.items():
        there = group_sizes(config, "attention").get(group)
        check_kept("heads", group, heads, there)
        columns = (np.asarray(heads)[:, None] * width + np.arange(width)).ravel()
        path = f"encoder/layer_{group}/attention"
        for name in ("query", "key", "value"):
            flat[f"{path}/{name}/kernel"] = np.asarray(flat[f"{path}/{name}/kernel"])[:, columns]
            flat[f"{path}/{name}/bias"] = np.asarray(flat[f"{path}/{name}/bias"])[columns]
        flat[f"{path}/output/kernel"] = np.asarray(flat[f"{path}/output/kernel"])[columns]
    return resized(config, flat, "num_attention_heads", "attention", kept)


def keep_neurons(config: BertConfig, params: Tree, kept: Kept) -> tuple[BertConfig, Tree]:
    """The model with these neurons of the feed-forward layers in these groups, and all in the others. Equal to
    `LayerGates.neurons` of 0 for those that go.

    Raises:
      UserError: As in `keep_heads`.
    """
    check_prunable(config, params)
    flat = flatten(params)
    for group, neurons in kept.items():
        check_kept("neurons", group, neurons, group_sizes(config, "ffn").get(group))
        path, chosen = f"encoder/layer_{group}/ffn", np.asarray(neurons)
        flat[f"{path}/intermediate/kernel"] = np.asarray(flat[f"{path}/intermediate/kernel"])[:, chosen]
        flat[f"{path}/intermediate/bias"] = np.asarray(flat[f"{path}/intermediate/bias"])[chosen]
        flat[f"{path}/output/kernel"] = np.asarray(flat[f"{path}/output/kernel"])[chosen]
    return resized(config, flat, "intermediate_size", "ffn", kept)


def keep_columns(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with these columns of a word table that is mapped to the encoder's width (`factorised="words"`). Equal
    to zeros in the other columns.

    Raises:
      UserError: The table is the encoder's width, or its columns go through a LayerNorm (ALBERT), which would see other
        statistics.
    """
    check_prunable(config, params)
    if config.factorised != "words":
        raise UserError(
            "columns can be taken out of a word table that is mapped to the encoder by itself (factorised='words', see "
            "bertjax.share.factorise_words); here a LayerNorm or the residual stream reads them all."
        )
    check_kept("columns", 0, kept, config.embedding_size)
    chosen, embeddings = np.asarray(kept), params["embeddings"]
    cut = {
        "word": {"embedding": np.asarray(embeddings["word"]["embedding"])[:, chosen]},
        "word_mapping": {
            **embeddings["word_mapping"],
            "kernel": np.asarray(embeddings["word_mapping"]["kernel"])[chosen],
        },
    }
    return config.replace(embedding_size=len(kept)), {**params, "embeddings": {**embeddings, **cut}}


def remove_dead(config: BertConfig, params: Tree, multiple: int = 1) -> tuple[BertConfig, Tree]:
    """The model without heads and neurons whose weights are 0, as masks leave them. Exact.

    What a dead part says to every row alike joins the bias behind it: a head without value weights its value bias (the
    attention of a row sums to 1), a neuron without input weights what the activation makes of its bias. Each layer
    keeps one head and one neuron at least, and as many dead neurons as make their number a `multiple`.
    """
    check_prunable(config, params)
    flat = flatten(params)
    heads: dict[int, list[int]] = {}
    neurons: dict[int, list[int]] = {}
    for group, count in group_sizes(config, "attention").items():
        path = f"encoder/layer_{group}/attention"
        value, bias, output = (np.asarray(flat[f"{path}/{n}"]) for n in ("value/kernel", "value/bias", "output/kernel"))
        by_head = [array.reshape(-1, count, config.head_size) for array in (value, output.T)]
        silent, unread = (~array.any(axis=(0, 2)) for array in by_head)
        alive = np.flatnonzero(~(silent | unread)).tolist() or [0]
        constant = np.where(np.repeat(silent, config.head_size), bias, 0)
        constant[np.repeat(np.isin(np.arange(count), alive), config.head_size)] = 0  # who stays says it himself
        flat[f"{path}/output/bias"] = np.asarray(flat[f"{path}/output/bias"]) + constant @ output
        heads[group] = alive
    activation = ACTIVATIONS[config.hidden_act]
    for group, count in group_sizes(config, "ffn").items():
        path = f"encoder/layer_{group}/ffn"
        inner, bias, outer = (
            np.asarray(flat[f"{path}/{n}"]) for n in ("intermediate/kernel", "intermediate/bias", "output/kernel")
        )
        deaf, unread = ~inner.any(axis=0), ~outer.any(axis=1)
        alive = rounded_up(np.flatnonzero(~(deaf | unread)), count, multiple)
        constant = np.where(deaf, np.asarray(activation(jax.numpy.asarray(bias))), 0)
        constant[alive] = 0
        flat[f"{path}/output/bias"] = np.asarray(flat[f"{path}/output/bias"]) + constant @ outer
        neurons[group] = alive
    return keep_neurons(*keep_heads(config, unflatten(flat), heads), neurons)


def rounded_up(alive: np.ndarray, count: int, multiple: int) -> list[int]:
    """The indices with others added, the first of those that are not among them, until their number is at least 1 and a
    multiple, or all there are."""
    wanted = min(count, max(multiple, -(-len(alive) // multiple) * multiple))
    others = np.setdiff1d(np.arange(count), alive)
    return np.sort(np.concatenate([alive, others[: max(0, wanted - len(alive))]])).astype(int).tolist()


def group_sizes(config: BertConfig, part: str) -> dict[int, int]:
    """Heads of every group of "attention", or neurons of every group of "ffn"."""
    name = {"attention": "num_attention_heads", "ffn": "intermediate_size"}[part]
    found: dict[int, Any] = {getattr(step, part): getattr(step, name) for step in config.depth_steps()}
    return dict(sorted(found.items()))


def resized(config: BertConfig, flat: dict[str, Any], name: str, part: str, kept: Kept) -> tuple[BertConfig, Tree]:
    """The config with the sizes of what stays."""
    steps = [
        dataclasses.replace(step, **{name: len(kept[group])}) if (group := getattr(step, part)) in kept else step
        for step in config.depth_steps()
    ]
    one_size = {getattr(step, name) for step in steps}
    if len(one_size) == 1:  # said plainly, and `head_size` stays what it was
        config = dataclasses.replace(config, **{name: one_size.pop()}, layers=tuple(steps))
    return with_layers(config, tuple(steps)), unflatten(flat)


def check_prunable(config: BertConfig, params: Tree) -> None:
    """Says of which models nothing can be taken out here.

    Raises:
      UserError: With the reason.
    """
    if config.model_type == "mobilebert":
        raise UserError("a MobileBERT is narrow already and has bottlenecks of its own: nothing is taken out here.")
    if config.recurrence is not None:
        raise UserError("a recurrence applies one block at every step: there is no single step to take parts out of.")
    if any(isinstance(leaf, Quantized) for leaf in flatten(params).values()):
        raise UserError("the model holds integers, which are made for its shapes: take parts out first, then quantise.")


def check_kept(what: str, group: int, kept: Sequence[int], there: int | None) -> None:
    if there is None:
        raise UserError(f"{what} of group {group}: the model has no such group.")
    if not len(kept) or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < there:
        raise UserError(
            f"{what} to keep in layer {group}: {list(kept)[:8]}; expected some of 0 to {there - 1} in rising order, at "
            "least one. To lose all of a layer, leave out the layer (keep_layers)."
        )
