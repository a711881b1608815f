"""Depth steps that share parameters (tying), and their inverse (untying).

Only the config and the parameter tree change; the encoder's code is the same. Tying layers that are equal, and untying
any layers, preserves the model's outputs exactly.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from bertjax.errors import UserError
from bertjax.model import BertConfig, LayerConfig, Recurrence, init_params
from bertjax.params import Tree, put_step, step_params
from bertjax.share.merging import Merge, mean

Parts = Literal["all", "attention", "ffn"]
Norms = Literal["shared", "separate"]


def tie(
    config: BertConfig,
    params: Tree,
    groups: Sequence[int],
    *,
    parts: Parts = "all",
    norms: Norms = "shared",
    merge: Merge = mean,
) -> tuple[BertConfig, Tree]:
    """A model whose depth steps of the same group share their parameters.

    Args:
      groups: The group of every depth step, `(0, 0, 0, 1, 1, 1)` for two halves of six steps.
      parts: What is shared: everything, or attention or feed-forward layer alone (Lan et al. 2020, table 4).
      norms: Whether a LayerNorm is shared with the part before it, or each step keeps its own.
      merge: How the parameters of several steps are merged: see merging.py.

    Raises:
      UserError: Not one group per step, or steps of different sizes in a group.
    """
    steps = config.depth_steps()
    if len(groups) != len(steps):
        raise UserError(
            f"groups is {tuple(groups)}, which has {len(groups)} entries; expected one group number for each of the "
            f"model's {len(steps)} depth steps."
        )
    shared = {"all": ("attention", "ffn")}.get(parts, (parts,))
    tied = []
    for number, (step, group) in enumerate(zip(steps, groups, strict=True)):
        owners: dict[str, int] = dict.fromkeys(shared, group)
        if norms == "separate":
            owners |= {f"{part}_norm": number for part in shared}
        tied.append(LayerConfig(*step.shape, **owners).resolved(number))
    new = with_layers(config, tuple(tied))
    sources = [step_params(params, step) for step in steps]
    for part in shared:
        for group in sorted(set(groups)):
            members = [number for number, own in enumerate(groups) if own == group]
            products = merge(part, members, [without_norm(sources[number][part]) for number in members])
            joint = mean(part, members, [{"layer_norm": sources[number][part]["layer_norm"]} for number in members])
            for number in members:
                norm = joint["layer_norm"] if norms == "shared" else sources[number][part]["layer_norm"]
                sources[number][part] = {**products, "layer_norm": norm}
    return new, with_steps(new, params, sources)


def untie(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
    """The same model with separate parameters for every depth step. Exact."""
    new = with_layers(config, tuple(LayerConfig(*step.shape) for step in config.depth_steps()))
    return new, with_steps(new, params, [step_params(params, step) for step in config.depth_steps()])


def recur(config: BertConfig, params: Tree, recurrence: Recurrence, seed: int = 0) -> tuple[BertConfig, Tree]:
    """A Universal Transformer whose block is the one shared layer of the model.

    Exact with as many steps as there were layers, no step signals and no halting. New parameters of the recurrence
    (learned signals, the halting unit) are drawn from `seed`.

    Raises:
      UserError: The layers do not share all their parameters.
    """
    steps = set(config.depth_steps())
    if len(steps) > 1:
        raise UserError(
            "a recurrence needs layers that share all their parameters, and these do not; tie them into one group "
            "first (bertjax.share.tie)."
        )
    (step,) = steps
    block = replace(step, attention=0, ffn=0, attention_norm=0, ffn_norm=0)
    new = with_layers(config.replace(recurrence=recurrence), (block,))
    source: Tree = {}
    put_step(source, block, step_params(params, step))
    initial = init_params(new, seed)["encoder"]
    return new, {**params, "encoder": {**initial, **source}}


def equal_groups(depth: int, count: int) -> tuple[int, ...]:
    """Successive steps in `count` groups of similar size: 6 steps in 2 groups are (0, 0, 0, 1, 1, 1)."""
    if not 1 <= count <= depth:
        raise UserError(f"{count} groups for {depth} layers; expected 1 to {depth} groups.")
    return tuple(step * count // depth for step in range(depth))


def with_layers(config: BertConfig, layers: tuple[LayerConfig, ...]) -> BertConfig:
    """The config with these depth steps. If a number of groups describes them, as in ALBERT's config, that is used, so
    that `transformers` can open the folder."""
    resolved = tuple(layer.resolved(number) for number, layer in enumerate(layers))
    plain = config.replace(layers=(), num_hidden_layers=len(layers), inner_group_num=1)
    for count in (0, *range(1, len(layers) + 1)):
        grouped = plain.replace(num_hidden_groups=count)
        if grouped.depth_steps() == resolved:
            return grouped
    return plain.replace(num_hidden_groups=0, layers=layers)


def with_steps(config: BertConfig, params: Tree, sources: Sequence[Tree]) -> Tree:
    """The tree with an encoder of these depth steps; encoder parameters outside the layers stay unchanged."""
    stack: Tree = {name: part for name, part in params["encoder"].items() if not name.startswith("layer_")}
    for step, source in zip(config.depth_steps(), sources, strict=True):
        put_step(stack, step, source)
    return {**params, "encoder": stack}


def without_norm(part: Tree) -> Tree:
    return {name: leaf for name, leaf in part.items() if name != "layer_norm"}
