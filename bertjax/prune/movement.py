"""Movement pruning (Sanh, Wolf & Rush 2020): weights are pruned that move towards 0 while the model is fine-tuned,
whatever their size.

Every weight has a score, which is trained by the gradient of the loss with respect to its mask, straight through: W
times the gradient of the masked weight. Under descent a score accumulates -W dL/dW, so a weight that grows gains. A
masked weight gets no gradient, but its score does, so it comes back when its score rises. At high sparsity this keeps
more of the task than magnitude; below about half of the weights removed it does not.

Hard movement keeps the highest scores. Soft movement keeps those above a threshold, one for all matrices, while a
penalty pulls every score down. Adam divides a gradient by its usual size, so the scores that the task moves least fall
first, and in short runs this ranks the weights better than the direction in which they move.

In the paper the threshold is given, and the sparsity is what a weight of the penalty leads to: a run for each guess.
Here both are steered, unless the weight is given. The threshold is, at every update, the one that leaves the fraction
that the schedule asks for. It acts at once, so what was pruned too early comes back. The penalty acts late, through the
averages of the optimiser; its weight only leads this threshold towards the published one.

Zeros in dense matrices save no time; the trade-off against structured pruning is that.
"""

from __future__ import annotations

import math
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
REACH = 0.25
"""The most that the threshold is led, as a fraction of what the learning rate could move a score by if it did not
decay. Where all scores fall as fast as they can, their order says nothing."""
GAIN = 20.0
"""The logarithm by which the penalty's weight grows if the threshold lags behind by its whole way. Half or twice of
GAIN or REACH makes little difference to what is kept."""


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
    """For soft: the final threshold on the sigmoid of a score. Without `penalty` it is the aim of the steering, which
    short runs do not get to."""
    penalty: float | None = None
    """For soft: the final weight of the mean sigmoid of the scores, which then alone decides the sparsity. None: weight
    and threshold are steered, and `sparsity` is reached."""
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
        if not self.score_learning_rate > 0:
            raise UserError(f"Movement: score_learning_rate is {self.score_learning_rate}; expected a positive number.")
        if self.every < 1:
            raise UserError(f"Movement: every is {self.every}; expected 1 or more updates.")
        if not 0 < self.threshold < 0.5:
            raise UserError(
                f"Movement: threshold is {self.threshold}; expected a number between 0 and 0.5, where scores begin."
            )

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
        if self.method == "magnitude":
            return {}, {"masks": masks}
        scores = {path: jnp.zeros(mask.shape, jnp.float32) for path, mask in flatten(masks).items()}
        return unflatten(scores), self.initial_state(masks)

    def initial_state(self, masks: Tree) -> Tree:
        """The state with these masks."""
        import jax.numpy as jnp

        return {"masks": masks} | ({"threshold": jnp.zeros(())} if self.steered else {})

    @property
    def steered(self) -> bool:
        return self.method == "soft" and self.penalty is None

    def passed(self, update: Update) -> Any:
        """From 0, before pruning begins, to 1, at its end; linear."""
        import jax.numpy as jnp

        last = self.last(update.total)
        first = min(round(self.begin * update.total), last)
        return jnp.where(update.step >= last, 1.0, jnp.clip((update.step - first) / max(last - first, 1), 0.0, 1.0))

    def progress(self, update: Update) -> Any:
        """The same in the shape of the schedule: 1 - (1 - t)^3 (Zhu & Gupta 2017, eq. 1)."""
        return 1 - (1 - self.passed(update)) ** 3

    def last(self, total: int) -> int:
        """The first update of full sparsity: at least the last one trains with it."""
        return min(round(self.end * total), total - 1)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """The masks of this update."""
        import jax

        def find() -> Tree:
            if self.method == "soft":
                return self.soft(update, params, extra)
            return {"masks": self.hard(update, params, extra, state["masks"])}

        if self.every == 1:
            return find()
        ends = self.last(update.total), update.total - 1
        due = (update.step % self.every == 0) | (update.step == ends[0]) | (update.step == ends[1])
        return jax.lax.cond(due, find, lambda: state)

    def hard(self, update: Update, params: Tree, extra: Tree, masks: Tree) -> Tree:
        """The masks that keep the highest scores or the largest weights."""
        import jax.numpy as jnp

        from bertjax.prune.masks import kept_count, top_masks

        flat, scores = flatten(masks), flatten(extra)
        weights = {path: leaf for path, leaf in flatten(params).items() if path in flat}
        values = {path: jnp.abs(weights[path]) if self.method == "magnitude" else scores[path] for path in flat}
        share = self.sparsity * self.progress(update)
        return unflatten(top_masks(values, lambda n: kept_count(n, share, self.sparsity), self.scope == "global"))

    def soft(self, update: Update, params: Tree, extra: Tree) -> Tree:
        """The state of soft movement. Its threshold is one on scores: the logit of the published one."""
        import jax

        scores, progress = flatten(extra), self.progress(update)
        if self.steered:
            threshold = threshold_of(scores, self.decided(scores, params), 1 - self.sparsity * progress)
        else:
            threshold = jax.scipy.special.logit(self.threshold * progress)
        masks = unflatten({path: above(one, threshold) for path, one in scores.items()})
        return {"masks": masks} | ({"threshold": threshold} if self.steered else {})

    def decided(self, scores: dict[str, Array], params: Tree) -> dict[str, int]:
        """How many weights a score of each array decides."""
        del params
        return dict.fromkeys(scores, 1)

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
        weight = self.weight(update, extra, state["threshold"]) if self.penalty is None else self.penalty
        return {"sparsity": weight * self.progress(update) * mean}

    def weight(self, update: Update, extra: Tree, threshold: Array) -> Array:
        """The weight that leads the threshold from 0, on a straight line, to its end.

        It depends on where the threshold is and not on earlier weights. A weight that grew for as long as the threshold
        lags would go on growing while the optimiser's averages catch up, and would lead to an overshoot.
        """
        import jax.numpy as jnp

        updates = (self.end - self.begin) * update.total
        way = min(math.log(1 / self.threshold - 1), REACH * self.score_learning_rate * updates)
        lag = jnp.minimum(self.passed(update) + threshold / way, 1.0)  # scores that rose would ask for an infinite one
        # The gradient of a mean is small where there are many scores: at lag 0 its norm over all of them is up to 0.25.
        return math.sqrt(sum(scores.size for scores in flatten(extra).values())) * jnp.exp(GAIN * lag)

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
    """Where a score exceeds the threshold; at least the highest half percent."""
    import jax
    import jax.numpy as jnp

    from bertjax.prune.masks import top_masks

    kept = scores > threshold
    floor = lambda: top_masks({"": scores}, lambda n: least(n), False)[""]  # noqa: E731
    return jax.lax.cond(jnp.sum(kept) < least(scores.size), floor, lambda: kept)


def least(n: int) -> int:
    """How many of n stay in any case."""
    return int(FLOOR * n) + 1


def threshold_of(scores: dict[str, Array], decided: dict[str, int], asked: Any) -> Array:
    """The highest threshold with which `above` keeps at least the fraction `asked` of the weights, by bisection."""
    import jax
    import jax.numpy as jnp

    total = sum(decided[path] * one.size for path, one in scores.items())

    def half(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        kept = sum(decided[path] * jnp.maximum(jnp.sum(one > middle), least(one.size)) for path, one in scores.items())
        enough = kept / total >= asked
        return jnp.where(enough, middle, ends[0]), jnp.where(enough, ends[1], middle)

    lowest, highest = (jnp.stack([end(one) for one in scores.values()]) for end in (jnp.min, jnp.max))
    return jax.lax.fori_loop(0, 24, half, (jnp.min(lowest) - 1, jnp.max(highest)))[0]
