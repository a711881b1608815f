"""Structured pruning: layers, heads, neurons, and columns of a narrow word table are removed.

Every function is `(config, params) -> (config, params)` and exact: the smaller model computes what the original does
with the removed parts gated by 0 (`LayerGates`) or their weights set to 0. Layers may end up with different shapes,
which the config describes. Parameters that several depth steps share are pruned once, for all of them. Nothing
compensates for the removed parts: fine-tune afterwards to recover the accuracy.

A head whose queries or keys are 0 attends uniformly and still contributes the mean of its values, so it is not dead. A
head is dead if its value or output weights are 0, a neuron if its input or output weights are. The constant output of a
dead part is added to the bias that follows it (`remove_dead`).

In a model that drops tokens, the attention of all heads ranks them. A removed head does not, as with a gate of 0, but
one with zero weights does, so that its removal may change which tokens go on.
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
"""The parts to keep, in ascending order, by group (`encoder/layer_g`; without parameter sharing, the depth step)."""


def keep_layers(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with only these depth steps, in ascending order.

    An exit moves or is removed with the step that it follows. The exit after the new last step is removed too, because
    the model's own head is there.

    Raises:
      UserError: No step, a step that does not exist, or another order.
    """
    check_prunable(config, params)
    steps = config.depth_steps()
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(steps):
        raise UserError(
            f"layers to keep: {tuple(kept)}; expected one or more of 0 to {len(steps) - 1}, in ascending order and "
            "each once."
        )
    remaining = tuple(renumbered([steps[number] for number in kept]))
    retention = config.retention and config.retention.of_steps(kept)
    new = with_layers(config.replace(exits=None, retention=None), remaining).replace(retention=retention)
    params = with_steps(new, params, [step_params(params, steps[number]) for number in kept])
    return with_exits(config, new, params, kept)


def renumbered(steps: Sequence[LayerConfig]) -> list[LayerConfig]:
    """The steps with groups renumbered from 0 in order of first use. Without sharing, a step's group is then its own
    number."""
    names = ("attention", "ffn", "attention_norm", "ffn_norm")
    order: dict[int | None, int] = {}
    for step in steps:
        for name in names:
            order.setdefault(getattr(step, name), len(order))
    return [dataclasses.replace(step, **{name: order[getattr(step, name)] for name in names}) for step in steps]


def with_exits(config: BertConfig, new: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The remaining exits at their new depth steps."""
    if config.exits is None:
        return new, params
    # An exit on the embeddings (-1) does not move.
    moved = {old: place for place, old in enumerate((-1, *kept[:-1]), -1) if old in config.exits.after}
    params = dict(params)
    heads = params.pop("exits", {})
    if not moved:
        return new, params
    if heads:
        params["exits"] = {f"exit_{place}": heads[f"exit_{old}"] for old, place in moved.items()}
    return new.replace(exits=dataclasses.replace(config.exits, after=tuple(moved.values()))), params


def keep_heads(config: BertConfig, params: Tree, kept: Kept) -> tuple[BertConfig, Tree]:
    """The model with only these heads in these groups, and all heads in other groups. Equal to `LayerGates.heads` of 0
    for the removed heads. Without any head, a layer's attention adds its output bias and nothing else.

    Raises:
      UserError: A head that does not exist, another order, or a group without attention.
    """
    check_prunable(config, params)
    width = config.head_size
    flat = flatten(params)
    for group, heads in kept.items():
        check_kept(f"heads to keep in layer {group}", heads, group_sizes(config, "attention").get(group))
        columns = (np.asarray(heads)[:, None] * width + np.arange(width)).ravel()
        path = f"encoder/layer_{group}/attention"
        if not len(heads):
            drop_products(flat, path, "query", "key", "value")
            continue
        for name in ("query", "key", "value"):
            flat[f"{path}/{name}/kernel"] = np.asarray(flat[f"{path}/{name}/kernel"])[:, columns]
            flat[f"{path}/{name}/bias"] = np.asarray(flat[f"{path}/{name}/bias"])[columns]
        flat[f"{path}/output/kernel"] = np.asarray(flat[f"{path}/output/kernel"])[columns]
    return resized(config, flat, "num_attention_heads", "attention", kept)


def keep_neurons(config: BertConfig, params: Tree, kept: Kept) -> tuple[BertConfig, Tree]:
    """The model with only these feed-forward neurons in these groups, and all neurons in other groups. Equal to
    `LayerGates.neurons` of 0 for the removed neurons.

    Raises:
      UserError: As for `keep_heads`.
    """
    check_prunable(config, params)
    flat = flatten(params)
    for group, neurons in kept.items():
        check_kept(f"neurons to keep in layer {group}", neurons, group_sizes(config, "ffn").get(group))
        path, chosen = f"encoder/layer_{group}/ffn", np.asarray(neurons)
        if not len(neurons):
            drop_products(flat, path, "intermediate")
            continue
        flat[f"{path}/intermediate/kernel"] = np.asarray(flat[f"{path}/intermediate/kernel"])[:, chosen]
        flat[f"{path}/intermediate/bias"] = np.asarray(flat[f"{path}/intermediate/bias"])[chosen]
        flat[f"{path}/output/kernel"] = np.asarray(flat[f"{path}/output/kernel"])[chosen]
    return resized(config, flat, "intermediate_size", "ffn", kept)


def drop_products(flat: dict[str, Any], path: str, *inner: str) -> None:
    """Removes the matrices of a sublayer of which nothing is left but the bias of its output."""
    for name in (*inner, "output"):
        flat.pop(f"{path}/{name}/kernel", None)  # absent if the sublayer had no part before
        if name != "output":
            flat.pop(f"{path}/{name}/bias", None)


def keep_columns(config: BertConfig, params: Tree, kept: Sequence[int]) -> tuple[BertConfig, Tree]:
    """The model with only these columns of a word table that is mapped to the encoder's width (`factorised="words"`).
    Equal to zeros in the other columns.

    Raises:
      UserError: The table has the encoder's width, or its columns pass through a LayerNorm (ALBERT), whose statistics
        would change.
    """
    check_prunable(config, params)
    if config.factorised != "words":
        raise UserError(
            "columns can be removed only from a factorised word table, which has a projection of its own to the "
            "encoder (factorised='words'). Factorise this model's table first: bertjax.share.factorise_words."
        )
    check_kept("columns to keep in the word table", kept, config.embedding_size, at_least=1)
    chosen, embeddings = np.asarray(kept), params["embeddings"]
    pruned = {
        "word": {"embedding": np.asarray(embeddings["word"]["embedding"])[:, chosen]},
        "word_mapping": {
            **embeddings["word_mapping"],
            "kernel": np.asarray(embeddings["word_mapping"]["kernel"])[chosen],
        },
    }
    return config.replace(embedding_size=len(kept)), {**params, "embeddings": {**embeddings, **pruned}}


def remove_dead(config: BertConfig, params: Tree, multiple: int = 1) -> tuple[BertConfig, Tree]:
    """The model without heads and neurons whose weights are 0, as masks set them. Exact.

    Each layer keeps enough dead neurons to make their number a `multiple`.
    """
    heads, neurons = living_parts(config, params, multiple)
    params = with_constants(config, params, heads, neurons)
    return keep_neurons(*keep_heads(config, params, heads), neurons)


def living_parts(
    config: BertConfig, params: Tree, multiple: int = 1
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The heads with value and output weights, and the neurons with input and output weights, by group."""
    check_prunable(config, params)
    flat = flatten(params)
    heads: dict[int, list[int]] = {}
    neurons: dict[int, list[int]] = {}
    for group, count in group_sizes(config, "attention").items():
        if count:
            path = f"encoder/layer_{group}/attention"
            value, output = (np.asarray(flat[f"{path}/{name}/kernel"]) for name in ("value", "output"))
            by_head = [array.reshape(-1, count, config.head_size).any(axis=(0, 2)) for array in (value, output.T)]
            heads[group] = np.flatnonzero(by_head[0] & by_head[1]).tolist()
    for group, count in group_sizes(config, "ffn").items():
        if count:
            path = f"encoder/layer_{group}/ffn"
            inner, outer = (np.asarray(flat[f"{path}/{name}/kernel"]) for name in ("intermediate", "output"))
            alive = np.flatnonzero(inner.any(axis=0) & outer.any(axis=1))
            neurons[group] = rounded_up(alive, count, multiple)
    return heads, neurons


def with_constants(config: BertConfig, params: Tree, heads: Kept, neurons: Kept) -> Tree:
    """The parameters with the constant output of all other heads and neurons in the bias that follows them.

    That of a head without value weights is its value bias (attention weights sum to 1), that of a neuron without input
    weights the activation of its bias.
    """
    flat, activation = flatten(params), ACTIVATIONS[config.hidden_act]
    sizes = group_sizes(config, "attention")
    for group, kept in heads.items():
        path = f"encoder/layer_{group}/attention"
        gone = np.repeat(~np.isin(np.arange(sizes[group]), kept), config.head_size)
        constant = np.where(gone, np.asarray(flat[f"{path}/value/bias"]), 0)
        add_output(flat, path, np.where(np.asarray(flat[f"{path}/value/kernel"]).any(axis=0), 0, constant))
    for group, kept in neurons.items():
        path = f"encoder/layer_{group}/ffn"
        bias = np.asarray(activation(jax.numpy.asarray(flat[f"{path}/intermediate/bias"])))
        constant = np.where(np.isin(np.arange(len(bias)), kept), 0, bias)
        add_output(flat, path, np.where(np.asarray(flat[f"{path}/intermediate/kernel"]).any(axis=0), 0, constant))
    return unflatten(flat)


def add_output(flat: dict[str, Any], path: str, constant: np.ndarray) -> None:
    """Adds what a constant input of a sublayer's output matrix gives to its bias."""
    bias = np.asarray(flat[f"{path}/output/bias"])
    flat[f"{path}/output/bias"] = bias + (constant @ np.asarray(flat[f"{path}/output/kernel"])).astype(bias.dtype)


def rounded_up(alive: np.ndarray, count: int, multiple: int) -> list[int]:
    """The indices, filled up with the first of the others until their number is a multiple (or all)."""
    size = min(count, -(-len(alive) // multiple) * multiple)
    others = np.setdiff1d(np.arange(count), alive)
    return np.sort(np.concatenate([alive, others[: max(0, size - len(alive))]])).astype(int).tolist()


def group_sizes(config: BertConfig, part: str) -> dict[int, int]:
    """Number of heads of every "attention" group, or of neurons of every "ffn" group."""
    name = {"attention": "num_attention_heads", "ffn": "intermediate_size"}[part]
    sizes: dict[int, Any] = {getattr(step, part): getattr(step, name) for step in config.depth_steps()}
    return dict(sorted(sizes.items()))


def resized(config: BertConfig, flat: dict[str, Any], name: str, part: str, kept: Kept) -> tuple[BertConfig, Tree]:
    """The model with the new sizes in its config."""
    steps = [
        dataclasses.replace(step, **{name: len(kept[group])}) if (group := getattr(step, part)) in kept else step
        for step in config.depth_steps()
    ]
    one_size = {getattr(step, name) for step in steps}
    if len(one_size) == 1 and 0 not in one_size:  # `config.replace` would derive `head_size` anew
        config = dataclasses.replace(config, **{name: one_size.pop()}, layers=tuple(steps))
    return with_layers(config, tuple(steps)), unflatten(flat)


def check_prunable(config: BertConfig, params: Tree) -> None:
    """Rejects models that cannot be pruned.

    Raises:
      UserError: A MobileBERT, a recurrence or a quantised model.
    """
    if config.model_type == "mobilebert":
        raise UserError(
            "structured pruning of a MobileBERT is not supported, because its layers have bottlenecks; prune a BERT, "
            "or distil into a smaller MobileBERT."
        )
    if config.recurrence is not None:
        raise UserError(
            "structured pruning of a recurrent model is not supported, because all steps share one block; prune a "
            "model without recurrence."
        )
    if any(isinstance(leaf, Quantized) for leaf in flatten(params).values()):
        raise UserError("the model is quantised, and integer weights cannot be pruned; prune first, then quantise.")


def check_kept(what: str, kept: Sequence[int], count: int | None, at_least: int = 0) -> None:
    if count is None:
        raise UserError(f"{what}: the model has no such layer (parameter group).")
    ordered = list(kept) == sorted(set(kept)) and (not len(kept) or 0 <= kept[0] <= kept[-1] < count)
    if not ordered or len(kept) < at_least:
        raise UserError(
            f"{what}: {list(kept)[:8]}; expected {'one or more' if at_least else 'some'} of 0 to {count - 1}, in "
            "ascending order and each once."
        )
