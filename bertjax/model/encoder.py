"""The encoder: a stack of depth steps, each with the parameter groups that the config names for it."""

from collections.abc import Sequence

import flax.linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from bertjax.model.attention import Mask
from bertjax.model.config import BertConfig
from bertjax.model.layers import Group, Layer, LayerGates, LayerNorm, LayerOutput
from bertjax.model.products import Product, plain_product


class Encoder(nn.Module):
    """The stack of layers. `layer_g` in a parameter path is group g, which without sharing is depth step g."""

    config: BertConfig
    product: Product = plain_product

    group_type = Group

    def setup(self):
        steps = self.config.depth_steps()
        heads = {step.attention: step.num_attention_heads for step in steps}
        neurons = {step.ffn: step.intermediate_size for step in steps}
        named = sorted(set().union(*(step.groups for step in steps)))
        # The sizes do not matter for a group of which only a LayerNorm is used.
        self.groups = {
            g: self.group_type(self.config, heads.get(g, 1), neurons.get(g, 1), self.product, name=f"layer_{g}")
            for g in named
        }
        if self.config.norm == "pre":
            self.last_norm = LayerNorm(self.config.layer_norm_eps)

    def __call__(
        self,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: Sequence[LayerGates] | None,
        start: int,
        stop: int | None,
        split_cls_row: bool = False,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
    ) -> list[LayerOutput]:
        """The outputs of depth steps `start` to `stop` (exclusive). `split_cls_row` and `cls_positions` affect the
        model's last step, see `Layer.split_cls_row`."""
        outputs, steps = [], range(self.config.depth)[start:stop]
        step = type(self).step
        run = nn.remat(step, static_argnums=(1, 5)) if self.config.remat else step
        for number in steps:
            split = split_cls_row and number == self.config.depth - 1
            step_gates = gates[number] if gates else LayerGates()
            outputs.append(run(self, number, hidden, mask, step_gates, split, cls_positions))
            hidden = outputs[-1].hidden
        if self.config.norm == "pre" and steps and steps[-1] == self.config.depth - 1:
            last = outputs[-1]
            outputs[-1] = last._replace(hidden=self.last_norm(last.hidden), first=self.last_norm(last.first))
        return outputs

    def step(
        self,
        number: int,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: LayerGates,
        split_cls_row: bool = False,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
    ) -> LayerOutput:
        """The output of one depth step, with the groups that the config names for it."""
        step, groups = self.config.depth_steps()[number], self.groups
        attention, ffn = groups[step.attention].attention, groups[step.ffn].ffn
        norms = groups[step.attention_norm].attention.layer_norm, groups[step.ffn_norm].ffn.layer_norm
        layer = Layer(number, attention, ffn, *norms, split_cls_row, norm_first=self.config.norm == "pre")
        return layer(hidden, mask, gates, cls_positions)
