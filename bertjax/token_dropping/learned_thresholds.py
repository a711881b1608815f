"""Learned thresholds (Learned Token Pruning, Kim et al. 2022): a layer drops the tokens that get less attention than a
threshold, and the thresholds are trained with the model.

A token's score is the mean attention that it gets (eq. 3). First the output of a layer is multiplied by

    mask = sigmoid((score - threshold) / temperature)                                                   (eq. 7)

and a penalty on the mean mask of each layer pushes the thresholds up. From the fraction `end` of the steps on they stay
as they are. What is below is hidden, and the model adapts to that. The finished model has them in its `Retention`.

The published code divides scores by the padded length, so a threshold means something else in a wider batch; here by
the number of tokens that attend. It counts padding in the penalty, here only tokens count. And it drops [CLS] if nobody
attends to it, here never.

The trade-off against shares of the length: a hard text may keep more tokens than an easy one of the same length, but
the size of arrays is known only while the model runs (`bertjax.adaptive.token_counts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.model.retention import RankedBy, Retention

if TYPE_CHECKING:
    from jax import Array

    from bertjax.learn.losses import Batch
    from bertjax.model import BertConfig, ModelOutput
    from bertjax.model.tokens import Selection, Tokens
    from bertjax.params import Tree


@dataclass(frozen=True)
class LearnedThresholds(Transform):
    """Trains a threshold of attention for each layer, below which tokens are dropped."""

    penalty: float = 0.1
    """Weight of the mean masks. Published: 0.01 to 0.2. Larger drops more."""
    first_threshold: float = 0.01
    """The threshold of layer l of L begins at l / L of this. Published: 0.01, for texts of about 25 to 100 tokens. For
    texts of n tokens the mean attention is 1 / n."""
    temperature: float = 1e-3
    """How soft the mask is at first, in the units of attention. Published: 1e-4 to 2e-3."""
    end: float = 0.5
    """Fraction of the steps after which thresholds are fixed and tokens are hidden."""
    threshold_learning_rate: float = 1e-4
    """Learning rate of the thresholds, with the schedule of the run."""
    ranked_by: RankedBy = "all"
    """Whose attention counts, see `Retention`."""

    drops_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.temperature <= 0 or self.threshold_learning_rate <= 0:
            raise UserError(
                f"LearnedThresholds: penalty={self.penalty}, temperature={self.temperature}, threshold_learning_rate="
                f"{self.threshold_learning_rate}; expected a penalty from 0, and the others above 0."
            )
        if not 0 <= self.first_threshold < 1 or not 0 < self.end <= 1:
            raise UserError(
                f"LearnedThresholds: first_threshold={self.first_threshold}, end={self.end}; expected a threshold from "
                "0 to below 1, and a fraction above 0 and at most 1."
            )
        if self.ranked_by not in ("others", "all"):
            raise UserError(
                f"LearnedThresholds: ranked_by={self.ranked_by!r} is a control that reads no attention; use others or "
                "all."
            )

    @property
    def learning_rate(self) -> float | None:
        return self.threshold_learning_rate

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Thresholds that grow with depth, and those that are fixed at the end."""
        import jax.numpy as jnp

        if config.retention is not None:
            raise UserError("LearnedThresholds: this model drops tokens already; begin with the model that keeps all.")
        first = self.first_threshold * jnp.arange(config.depth, dtype=jnp.float32) / config.depth
        return {"thresholds": first}, {"thresholds": first}

    def last(self, total: int) -> int:
        """The first update with fixed thresholds; at least the last one trains with them."""
        return min(round(self.end * total), total - 1)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """The thresholds of this update, fixed once."""
        import jax.numpy as jnp

        soft = update.step <= self.last(update.total)
        return {"thresholds": jnp.where(soft, extra["thresholds"], state["thresholds"])}

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.model.tokens import TokenRule

        soft = update.step < self.last(update.total)
        arrays = soft, extra["thresholds"], state["thresholds"], self.temperature
        return params, Forward(retention=TokenRule(soft_or_hidden, self.ranked_by, "layer", scales=True, arrays=arrays))

    def terms(
        self, update: Update, output: ModelOutput, batch: Batch, extra: Tree, state: Tree
    ) -> dict[str, tuple[Array, Array]]:
        """The mean mask over the tokens, summed over layers (eq. 8). 0 once the thresholds are fixed, which have no
        gradient then."""
        import jax.numpy as jnp

        real = output.tokens[0].real & (batch["weights"][:, None] > 0)
        scales = [known.scale for known in output.tokens[1:] if known.scale is not None]
        total = sum(jnp.sum(scale, where=real) for scale in scales)
        soft = update.step < self.last(update.total)
        return {"tokens": (self.penalty * jnp.where(soft, total, 0.0), jnp.sum(real))}

    def project(self, extra: Tree, state: Tree) -> Tree:
        import jax.numpy as jnp

        return {"thresholds": jnp.clip(extra["thresholds"], 0.0, 1.0)}

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The model that drops tokens. Those below the threshold of a layer are dropped before its feed-forward layer,
        which changes nothing for the others."""
        import numpy as np

        last = config.depth - 1  # nothing follows it
        found = np.asarray(state["thresholds"], np.float64)
        thresholds = tuple(float(f"{one:.4g}") if step < last else 0.0 for step, one in enumerate(found))
        return config.replace(retention=Retention((1.0,) * config.depth, self.ranked_by, thresholds=thresholds)), params


def soft_or_hidden(step: int, significance: Array, tokens: Tokens, arrays: Any) -> Selection:
    """Every row times its mask, or with fixed thresholds the rows below hidden; [CLS] and padding stay as they are."""
    import jax
    import jax.numpy as jnp

    from bertjax.model.tokens import Selection, Tokens

    soft, trained, fixed, temperature = arrays
    score = significance / jnp.maximum(jnp.sum(tokens.real, axis=1), 1)[:, None]
    first = jnp.arange(score.shape[1])[None] == 0
    mask = jnp.where(first | ~tokens.real, 1.0, jax.nn.sigmoid((score - trained[step]) / temperature))
    kept = soft | first | (score >= fixed[step])
    places = jnp.where(kept, tokens.places, tokens.text.shape[1])
    return Selection(Tokens(tokens.text, places, jnp.where(soft, mask, 1.0)))
