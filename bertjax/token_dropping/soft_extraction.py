"""Soft extraction (PoWER-BERT, Goyal et al. 2020): how many tokens a layer needs is learned by a factor for each rank.

In every layer the tokens are ranked by significance, and the vector of rank k is multiplied by a factor r[k] that
begins at 1 and is trained. A penalty on the factors pushes them towards 0, more in later layers; the task holds up
those of the ranks that it needs. Their sum is then the number of tokens that go on. While it trains nothing is dropped,
so the run takes as long as any other; afterwards the model is trained once more with the tokens really dropped.

Here a rank is relative: its place among the text's own tokens, in `bins` equal parts. In the published code it is
absolute, for texts padded to one length, and its result means nothing at another length. Published numbers of tokens
divided by the padded length are shares for texts that fill it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.model.retention import RankedBy, Retention

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.model.tokens import Selection, Tokens
    from bertjax.params import Tree


@dataclass(frozen=True)
class SoftExtraction(Transform):
    """Learns the share of tokens that goes on after each layer; the finished model drops the others."""

    penalty: float = 2e-4
    """Weight of the penalty. Published: 1e-4 to 7e-3, 2e-4 for SST-2. Larger drops more."""
    bins: int = 64
    """Relative ranks that have a factor of their own. Published: one for each of 64 to 256 tokens."""
    factor_learning_rate: float = 3e-3
    """Learning rate of the factors, with the schedule of the run. Published: 1e-4 to 3e-3."""
    ranked_by: RankedBy = "others"
    """How tokens are ranked, see `Retention`."""

    drops_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.bins < 2 or self.factor_learning_rate <= 0:
            raise UserError(
                f"SoftExtraction: penalty={self.penalty}, bins={self.bins}, factor_learning_rate="
                f"{self.factor_learning_rate}; expected a penalty from 0, 2 or more bins and a rate above 0."
            )

    @property
    def learning_rate(self) -> float | None:
        return self.factor_learning_rate

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """A factor of 1 for each layer and rank."""
        import jax.numpy as jnp

        if config.retention is not None:
            raise UserError("SoftExtraction: this model drops tokens already; begin with the model that keeps all.")
        return {"factors": jnp.ones((config.depth, self.bins), jnp.float32)}, {}

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.model.tokens import TokenRule

        return params, Forward(
            retention=TokenRule(scaled_by_rank, self.ranked_by, scales=True, arrays=extra["factors"])
        )

    def penalties(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
        """The sum of all factors, those of layer j times j, counted from 1 (eq. 5)."""
        import jax.numpy as jnp

        layers = jnp.arange(1, len(extra["factors"]) + 1, dtype=jnp.float32)
        return {"tokens": self.penalty * jnp.sum(layers[:, None] * extra["factors"])}

    def project(self, extra: Tree, state: Tree) -> Tree:
        import jax.numpy as jnp

        return {"factors": jnp.clip(extra["factors"], 0.0, 1.0)}

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The model that drops tokens: the share of a layer is the mean of its factors, and at most that of the layer
        before."""
        import numpy as np

        shares = np.minimum.accumulate(np.asarray(extra["factors"], np.float64).mean(axis=1))
        rounded = tuple(float(f"{share:.4g}") for share in shares)
        return config.replace(retention=Retention(rounded, self.ranked_by)), params


def scaled_by_rank(step: int, significance: Array, tokens: Tokens, factors: Any) -> Selection:
    """Every row times the factor of its relative rank; [CLS] and padding are left as they are."""
    import jax.numpy as jnp

    from bertjax.model.tokens import Selection, ranks

    rank = ranks(significance, tokens.real)
    bins = factors.shape[1]
    place = jnp.minimum(rank * bins // jnp.maximum(tokens.lengths, 1)[:, None], bins - 1)
    scale = jnp.where(tokens.real & (rank > 0), factors[step][place], 1.0)
    return Selection(tokens._replace(scale=scale))
