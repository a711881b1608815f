"""Movement pruning (Sanh, Wolf & Rush 2020): weights are pruned that move towards 0 while the model is fine-tuned,
whatever their size.

Every weight has a score, which is trained by the gradient of the loss with respect to its mask, straight through: W
times the gradient of the masked weight. Under descent a score accumulates -W dL/dW, so a weight that grows gains. A
masked weight gets no gradient, but its score does, so it comes back when its score rises. At high sparsity this keeps
more of the task than magnitude; below about half of the weights removed it does not.

Hard movement keeps the highest scores. Soft movement keeps those above a threshold, and a penalty on the scores decides
how many that are; here the penalty is steered to the sparsity that was asked, unless it is given. Zeros in dense
matrices save no time; the trade-off against structured pruning is that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.params import flatten, unflatten

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.params import Tree

LAYERS = r"^encoder/layer_.*kernel$"
"""The matrices of the encoder's layers; embeddings, pooler and classifier stay dense, as published."""
FLOOR = 0.005
"""The fraction of each matrix that soft movement keeps at least, as in the published code."""
GAIN = 0.1
"""Growth of the penalty per update, on a logarithmic scale, for each unit of the kept fraction that is too much."""


@dataclass(frozen=True)
class Movement(Transform):
    """Weights of the matching matrices become 0 by their learned scores."""

    sparsity: float = 0.9
    """Fraction of these weights that are 0 in the end."""
    method: Literal["hard", "soft", "magnitude"] = "hard"
    """hard: the highest scores are kept. soft: scores above a threshold. magnitude: the largest weights, without
    scores, by the same schedule."""
    scope: Literal["matrix", "global"] = "matrix"
    """Whether scores are compared within each matrix, as published, or over all of them. Not for soft."""
    begin: float = 0.1
    """Fraction of the steps before pruning begins."""
    end: float = 0.7
    """Fraction of the steps after which the sparsity is the final one."""
    score_learning_rate: float = 1e-2
    """Learning rate of the scores, with the schedule of the run."""
    threshold: float = 0.1
    """For soft: the final threshold on the sigmoid of a score."""
    penalty: float | None = None
    """For soft: the final weight of the mean sigmoid of the scores, which alone decides the sparsity. None: the weight
    is steered towards `sparsity`, which short runs may overshoot (configs/movement.py)."""
    freeze_embeddings: bool = True
    """Whether the embeddings stay as they are, as published."""
    every: int = 1
    """Updates between two computations of the masks, which take about as long as a step on a CPU."""
    pattern: str = LAYERS

    def __post_init__(self) -> None:
        self.check_numbers()
        if self.method == "soft" and self.scope == "global":
            raise UserError("Movement: soft movement compares each score with a threshold; leave scope out.")

    def check_numbers(self) -> None:
        """Raises a `UserError` for numbers out of their range."""
        if not 0 <= self.sparsity < 1:
            raise UserError(f"Movement: sparsity is {self.sparsity}; it is the fraction of zeros, from 0 to below 1.")
        if not 0 <= self.begin < self.end <= 1:
            raise UserError(f"Movement: begin={self.begin}, end={self.end}; expected 0 <= begin < end <= 1.")
        if self.every < 1:
            raise UserError(f"Movement: every is {self.every}; expected 1 or more updates.")

    @property
    def learning_rate(self) -> float | None:
        return self.score_learning_rate

    def frozen(self, config: BertConfig) -> tuple[str, ...]:
        return ("^embeddings/",) if self.freeze_embeddings else ()

    def zeroed(self, params: Tree) -> tuple[str, ...]:
        from bertjax.prune.masks import matrices

        return tuple(matrices(params, self.pattern))

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Scores of 0, and masks that keep everything."""
        import jax.numpy as jnp

        from bertjax.prune.masks import all_ones

        masks = all_ones(params, self.pattern, "matrix")
        state = {"masks": masks} | ({"penalty": jnp.ones(())} if self.steered else {})
        if self.method == "magnitude":
            return {}, state
        return unflatten({path: jnp.zeros(mask.shape, jnp.float32) for path, mask in flatten(masks).items()}), state

    @property
    def steered(self) -> bool:
        return self.method == "soft" and self.penalty is None

    def progress(self, update: Update) -> Any:
        """From 0, before pruning begins, to 1, at its end: 1 - (1 - t)^3 (Zhu & Gupta 2017, eq. 1)."""
        import jax.numpy as jnp

        last = self.last(update.total)
        first = min(round(self.begin * update.total), last)
        left = 1 - jnp.clip((update.step - first) / max(last - first, 1), 0.0, 1.0)
        return jnp.where(update.step >= last, 1.0, 1 - left**3)

    def last(self, total: int) -> int:
        """The first update of full sparsity: at least the last one trains with it."""
        return min(round(self.end * total), total - 1)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """The masks of this update."""
        import jax

        find = lambda: self.masks(update, params, extra, state["masks"])  # noqa: E731
        if self.every > 1:
            ends = self.last(update.total), update.total - 1
            due = (update.step % self.every == 0) | (update.step == ends[0]) | (update.step == ends[1])
            new = {"masks": jax.lax.cond(due, find, lambda: state["masks"])}
        else:
            new = {"masks": find()}
        if self.steered:
            excess = self.kept(new["masks"], params) - (1 - self.sparsity * self.progress(update))
            new["penalty"] = state["penalty"] * jax.numpy.exp(GAIN * excess)
        return new

    def kept(self, masks: Tree, params: Tree) -> Array:
        """The fraction of the weights that stay."""
        del params
        return kept_fraction(masks)

    def masks(self, update: Update, params: Tree, extra: Tree, masks: Tree) -> Tree:
        import jax.numpy as jnp

        from bertjax.prune.masks import kept_count, top_masks

        flat, scores = flatten(masks), flatten(extra)
        weights = {path: leaf for path, leaf in flatten(params).items() if path in flat}
        if self.method == "soft":
            threshold = self.threshold * self.progress(update)
            return unflatten({path: above(scores[path], threshold) for path in flat})
        values = {path: jnp.abs(weights[path]) if self.method == "magnitude" else scores[path] for path in flat}
        share = self.sparsity * self.progress(update)
        return unflatten(top_masks(values, lambda n: kept_count(n, share, self.sparsity), self.scope == "global"))

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        return masked_tree(params, flatten(extra), flatten(state["masks"])), Forward()

    def penalties(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
        """For soft: the mean over matrices of the mean sigmoid of the scores, with a weight that grows like the
        threshold."""
        if self.method != "soft":
            return {}
        import jax
        import jax.numpy as jnp

        mean = jnp.mean(jnp.stack([jnp.mean(jax.nn.sigmoid(scores)) for scores in flatten(extra).values()]))
        weight = state["penalty"] if self.penalty is None else self.penalty
        return {"sparsity": weight * self.progress(update) * mean}

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        from bertjax.prune.masks import apply_masks

        return config, apply_masks(params, state["masks"])


def masked_tree(params: Tree, scores: dict[str, Array], masks: dict[str, Array]) -> Tree:
    """The parameters with masked weights set to 0. With scores, the gradient of a score is straight through."""
    from bertjax.params import map_with_path

    def masked(path: str, leaf: Any) -> Any:
        if path not in masks:
            return leaf
        return masked_product(leaf, scores[path], masks[path]) if path in scores else leaf * masks[path]

    return map_with_path(masked, params)


def masked_product(weights: Array, scores: Array, mask: Array) -> Array:
    """`weights * mask`. Of the gradient G of the result, the weights get G * mask and the scores G * weights (Sanh et
    al. 2020, section 4): the identity through the mask, for soft movement without the derivative of the sigmoid."""
    import jax

    through = scores - jax.lax.stop_gradient(scores)  # 0, with the gradient of the scores
    return weights * mask + jax.lax.stop_gradient(weights) * through


def above(scores: Array, threshold: Any) -> Array:
    """Where the sigmoid of a score exceeds the threshold; at least the highest half percent."""
    import jax
    import jax.numpy as jnp

    from bertjax.prune.masks import top_masks

    kept = jax.nn.sigmoid(scores) > threshold
    least = int(FLOOR * scores.size) + 1
    floor = lambda: top_masks({"": scores}, lambda n: least, False)[""]  # noqa: E731
    return jax.lax.cond(jnp.sum(kept) < least, floor, lambda: kept)


def kept_fraction(masks: Tree) -> Array:
    """The fraction of ones in all masks together."""
    import jax.numpy as jnp

    leaves = list(flatten(masks).values())
    return jnp.sum(jnp.stack([jnp.sum(mask) for mask in leaves])) / sum(mask.size for mask in leaves)
