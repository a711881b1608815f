"""The encoder: a stack of depth steps, each with the parameter groups that the config names for it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bertjax.model.attention import Mask, key_mask
from bertjax.model.config import BertConfig
from bertjax.model.layers import Drop, Group, Layer, LayerGates, LayerNorm, LayerOutput, rows_at
from bertjax.model.products import Product, plain_product
from bertjax.model.tokens import TokenRule, Tokens


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
        switches: Bool[Array, " depth"] | None = None,
        tokens: Tokens | None = None,
        rule: TokenRule | None = None,
    ) -> list[LayerOutput]:
        """The outputs of depth steps `start` to `stop` (exclusive). `split_cls_row` and `cls_positions` affect the
        model's last step, see `Layer.split_cls_row`. A step whose switch is off is not computed: it returns its input,
        and zeros as queries, keys and values. `rule` says which of the `tokens` go on after each step."""
        outputs, steps = [], range(self.config.depth)[start:stop]
        step = type(self).step
        run = nn.remat(step, static_argnums=(1, 5)) if self.config.remat else step
        for number in steps:
            split = split_cls_row and number == self.config.depth - 1
            step_gates = gates[number] if gates else LayerGates()
            # Of a split step only [CLS] is read, which always goes on.
            drops = rule is not None and not split and (rule.steps is None or number in rule.steps)
            dropping = (rule, tokens) if drops else None

            def computed(encoder: Any, hidden: Array, args: Any = (number, mask, step_gates, split, dropping)) -> Any:
                number, mask, step_gates, split, dropping = args
                return run(encoder, number, hidden, mask, step_gates, split, cls_positions, dropping)

            def skipped(encoder: Any, hidden: Array, args: Any = (number, split, dropping)) -> LayerOutput:
                number, split, dropping = args
                output = encoder.skip(number, hidden, cls_positions if split else None)
                if not dropping:
                    return output
                rule, tokens = dropping
                scale = jnp.ones(tokens.places.shape) if rule.scales else None
                return output._replace(tokens=tokens._replace(scale=scale))

            if switches is None or self.is_initializing():
                outputs.append(computed(self, hidden))
            else:
                outputs.append(nn.cond(switches[number], computed, skipped, self, hidden))
            hidden = outputs[-1].hidden
            if drops:
                tokens = outputs[-1].tokens
                assert tokens is not None
                mask = key_mask(tokens.real)
            outputs[-1] = outputs[-1]._replace(tokens=tokens)
            if tokens is not None:
                tokens = tokens._replace(scale=None)  # the next step has one of its own, or none
        if self.config.norm == "pre" and steps and steps[-1] == self.config.depth - 1:
            last = outputs[-1]
            columns = gates[-1].columns if gates else None
            hidden, first = self.last_norm(last.hidden, columns), self.last_norm(last.first, columns)
            outputs[-1] = last._replace(hidden=hidden, first=first)
        return outputs

    def skip(
        self, number: int, hidden: Float[Array, "b l d"], cls_positions: Int[ArrayLike, "b s"] | None
    ) -> LayerOutput:
        """The output of a depth step that is not computed."""
        heads = self.config.depth_steps()[number].num_attention_heads
        nothing = jnp.zeros((*hidden.shape[:2], heads, self.config.head_size), hidden.dtype)
        first = hidden[:, 0] if cls_positions is None else rows_at(hidden, cls_positions)
        return LayerOutput(hidden, first, nothing, nothing, nothing)

    def step(
        self,
        number: int,
        hidden: Float[Array, "b l d"],
        mask: Mask,
        gates: LayerGates,
        split_cls_row: bool = False,
        cls_positions: Int[ArrayLike, "b s"] | None = None,
        dropping: tuple[TokenRule, Tokens] | None = None,
    ) -> LayerOutput:
        """The output of one depth step, with the groups that the config names for it."""
        step, groups = self.config.depth_steps()[number], self.groups
        attention, ffn = groups[step.attention].attention, groups[step.ffn].ffn
        norms = groups[step.attention_norm].attention.layer_norm, groups[step.ffn_norm].ffn.layer_norm
        layer = Layer(number, attention, ffn, norms[0], norms[1], split_cls_row, self.config.norm == "pre")
        return layer(hidden, mask, gates, cls_positions, dropping and Drop(dropping[0], number, dropping[1]))
