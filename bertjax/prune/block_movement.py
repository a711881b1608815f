"""Block movement pruning (Lagunas, Charlaix, Sanh & Rush 2021): movement pruning whose scores belong to whole neurons,
and to whole heads or square blocks of the attention matrices.

A neuron has one score for its column of the first feed-forward matrix and its row of the second. What ends up without
weights is removed from the model (`removal`), so zeros save time here: neurons and heads at once, blocks of
attention where all blocks of a head's values or outputs are 0. The blocks that are left inside of the others stay dense
matrices; train on without the transform and they fill up again ("filled", section 4). The trade-off: a block is kept or
lost as a whole, so the same number of zeros costs more accuracy than single weights do. Unlike a single weight's, the
score of a masked neuron does not rise again: the neuron's input and output are 0, and so is the gradient of its score,
as in the published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Surgery, Update
from bertjax.params import flatten, unflatten
from bertjax.prune.movement import LAYERS, Movement, masked_product

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.params import Tree

PRODUCTS = ("query", "key", "value", "output")


@dataclass(frozen=True)
class BlockMovement(Movement):
    """Neurons, and heads or blocks of attention, become 0 by their learned scores, and are removed at the end."""

    sparsity: float = 0.5
    """Fraction of neurons and of heads or blocks that are 0 in the end; for soft, of their weights."""
    method: Literal["hard", "soft"] = "hard"  # pyright: ignore[reportIncompatibleVariableOverride]
    scope: Literal["matrix", "global"] = "global"
    """For hard: whether scores are compared within each layer, or all neurons with each other and all heads or
    blocks."""
    attention: Literal["heads"] | int = "heads"
    """What has a score in attention: heads, or square blocks of so many rows and columns (published: 32)."""

    removes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method == "magnitude":
            raise UserError("BlockMovement: method is magnitude; expected hard or soft.")
        if self.attention != "heads" and self.attention < 1:
            raise UserError(f"BlockMovement: attention is {self.attention}; expected heads, or the size of a block.")
        if self.pattern != LAYERS:
            raise UserError(f"BlockMovement: pattern is {self.pattern!r}; it scores all layers, so leave it out.")
        self.check_numbers()

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Scores of 0, and masks that keep everything."""
        import jax.numpy as jnp

        from bertjax.prune.surgery import check_prunable, group_sizes

        check_prunable(config, params)
        sizes: dict[str, tuple[int, ...]] = {}
        for group, count in group_sizes(config, "ffn").items():
            sizes |= {f"layer_{group}/neurons": (count,)} if count else {}
        for group, count in group_sizes(config, "attention").items():
            if self.attention == "heads":
                sizes |= {f"layer_{group}/heads": (count,)} if count else {}
                continue
            for name in PRODUCTS if count else ():
                shape = flatten(params)[f"encoder/layer_{group}/attention/{name}/kernel"].shape
                if shape[0] % self.attention or shape[1] % self.attention:
                    raise UserError(
                        f"BlockMovement: blocks of {self.attention} do not fit {name} of layer {group}, which is "
                        f"{shape[0]} x {shape[1]}; choose a common divisor."
                    )
                sizes[f"layer_{group}/{name}"] = shape[0] // self.attention, shape[1] // self.attention
        masks = unflatten({path: jnp.ones(shape, bool) for path, shape in sizes.items()})
        scores = {path: jnp.zeros(shape, jnp.float32) for path, shape in sizes.items()}
        return unflatten(scores), self.initial_state(masks)

    def hard(self, update: Update, params: Tree, extra: Tree, masks: Tree) -> Tree:
        import jax

        from bertjax.prune.masks import kept_count, top_masks

        scores, share, found = flatten(extra), self.sparsity * self.progress(update), {}
        for neurons in (True, False):
            values: dict[str, jax.Array] = {p: one for p, one in scores.items() if p.endswith("/neurons") == neurons}
            if values:
                kept = lambda n: kept_count(n, share, self.sparsity)  # noqa: E731
                found |= top_masks(values, kept, self.scope == "global")
        return unflatten(found)

    def spread(self, units: dict[str, Any], params: Tree) -> dict[str, Any]:
        """Scores or masks of neurons, heads and blocks as arrays of the shapes of the matrices that they belong to."""
        import jax.numpy as jnp

        flat, found = flatten(params), {}

        def put(path: str, values: Any) -> None:
            found[path] = jnp.broadcast_to(values, flat[path].shape)

        for path, values in units.items():
            layer, kind = path.split("/")
            attention, ffn = f"encoder/{layer}/attention", f"encoder/{layer}/ffn"
            if kind == "neurons":
                put(f"{ffn}/intermediate/kernel", values[None])
                put(f"{ffn}/intermediate/bias", values)
                put(f"{ffn}/output/kernel", values[:, None])
            elif kind == "heads":
                width = flat[f"{attention}/output/kernel"].shape[0] // len(values)
                for name in PRODUCTS[:3]:
                    put(f"{attention}/{name}/kernel", jnp.repeat(values, width)[None])
                put(f"{attention}/output/kernel", jnp.repeat(values, width)[:, None])
            else:
                size = int(self.attention)
                put(f"{attention}/{kind}/kernel", jnp.repeat(jnp.repeat(values, size, 0), size, 1))
        return found

    def decided(self, scores: dict[str, Array], params: Tree) -> dict[str, int]:
        """How many weights of matrices a score of each array decides."""
        spread = {path: self.spread({path: one}, params).values() for path, one in scores.items()}
        return {path: sum(x.size for x in spread[path] if x.ndim == 2) // scores[path].size for path in scores}

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        masks, scores = (self.spread(flatten(tree), params) for tree in (state["masks"], extra))
        flat = flatten(params)
        for path, mask in masks.items():
            # The bias of a neuron without weights is 0, too, as in the published code; it has no part in the score.
            bias = path.endswith("bias")
            flat[path] = flat[path] * mask if bias else masked_product(flat[path], scores[path], mask)
        return unflatten(flat), Forward()

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The parameters with their zeros, and what dead parts add as a constant in the bias that follows them."""
        import numpy as np

        from bertjax.prune.surgery import living_parts, with_constants

        flat = flatten(params)
        for path, mask in self.spread(flatten(state["masks"]), params).items():
            flat[path] = np.asarray(flat[path]) * np.asarray(mask)
        masked = unflatten(flat)
        return config, with_constants(config, masked, *living_parts(config, masked))

    def removal(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> Surgery:
        """Without the heads and neurons whose weights are 0."""
        from bertjax.prune.surgery import keep_heads, keep_neurons, living_parts

        heads, neurons = living_parts(config, params)
        return lambda config, params: keep_neurons(*keep_heads(config, params, heads), neurons)
