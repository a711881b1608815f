"""What a recipe of pruning removes of a model: layers, heads, neurons, or single weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bertjax.distill.terms import HardLabels
from bertjax.prune.transforms import KERNELS
from bertjax.recipes.prune import Config

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.model import BertConfig
    from bertjax.prune.scores import Part

Batches = list[Any]


def remove_parts(config: Config, model: Bundle, batches: Batches, part: Part, fraction: float) -> Bundle:
    """The model without a fraction of its heads or neurons. Scores are computed anew in every iteration."""
    from bertjax.prune.scores import OWNER
    from bertjax.prune.surgery import group_sizes

    multiple = part_multiple(config, model.config, part)
    whole = sum(group_sizes(model.config, OWNER[part]).values())
    for number in range(1, config.iterations + 1):
        removed = whole - sum(group_sizes(model.config, OWNER[part]).values())
        wanted = max(0, round(fraction * whole * number / config.iterations) - removed)
        described, params = config.scores_by.remove(model, batches, task_loss(model), part, wanted, multiple)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def part_multiple(config: Config, described: BertConfig, part: Part) -> int:
    """The multiple of heads or neurons whose columns are a multiple of `config.multiple`."""
    import math

    columns = described.head_size if part == "heads" else 1
    return config.multiple // math.gcd(config.multiple, columns)


def remove_layers(config: Config, model: Bundle, batches: Batches) -> Bundle:
    """The model without a fraction of its layers, or with just those that are to be kept."""
    from bertjax.prune import keep_layers

    depth = len(model.config.depth_steps())
    if config.keep_layers:
        described, params = keep_layers(model.config, model.params, sorted(config.keep_layers))
        return dataclasses.replace(model, config=described, params=params)
    for number in range(1, config.iterations + 1):
        left = len(model.config.depth_steps())
        wanted = min(left - 1, max(0, round(config.layers * depth * number / config.iterations) - (depth - left)))
        kept = config.scores_by.kept_layers(model, batches, task_loss(model), left - wanted)
        described, params = keep_layers(model.config, model.params, kept)
        model = dataclasses.replace(model, config=described, params=params)
    return model


def zero_weights(config: Config, model: Bundle) -> Bundle:
    """The model with its smallest weights set to zero."""
    from bertjax.prune.masks import apply_masks, magnitude_masks

    masks = magnitude_masks(model.params, KERNELS, config.zeros, 4 if config.pattern == "2:4" else config.pattern)
    return dataclasses.replace(model, params=apply_masks(model.params, masks))


def task_loss(model: Bundle) -> Callable[[Any, Any], Any]:
    """The loss of the model's task against the labels, per example."""

    def loss(output: Any, batch: Any) -> Any:
        return HardLabels().build(model.config, model.config)({}, output, output, batch)

    return loss


def shapes(config: BertConfig) -> str:
    """The remaining heads and neurons of each layer."""
    steps = config.depth_steps()
    return ", ".join(f"{step.num_attention_heads} heads and {step.intermediate_size} neurons" for step in steps)
