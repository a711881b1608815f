"""LengthDrop (Length-Adaptive Transformer, Kim & Cho 2021): the model trains with random numbers of tokens, so that
afterwards it works with any, and a search finds which for a budget.

In every update the share of tokens that a layer drops is drawn anew, the same for all texts, devices and micro-batches.
As published, updates take turns: one with all tokens, one with the fewest, and some between ("sandwich"). The published
code makes these passes for the same batch within one update, and the passes with fewer tokens learn from the one with
all. Here they are updates of their own, which take a quarter of the time, and all learn from the run's teacher: give
the model itself as it was fine-tuned.

Dropped tokens are hidden and not removed while it trains, because their number is not known to the compiled program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.model.retention import RankedBy

if TYPE_CHECKING:
    from jax import Array

    from bertjax.model import BertConfig
    from bertjax.model.tokens import Selection, Tokens
    from bertjax.params import Tree


@dataclass(frozen=True)
class LengthDrop(Transform):
    """Each layer drops a random share of the tokens, anew in every update."""

    rate: float = 0.2
    """The largest share of its tokens that a layer drops."""
    between: int = 2
    """Updates with random shares for each one with all tokens and each one with the fewest."""
    ranked_by: RankedBy = "all"
    """How tokens are ranked, see `Retention`."""

    drops_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or self.between < 0:
            raise UserError(
                f"LengthDrop: rate={self.rate}, between={self.between}; expected a share above 0 and below 1, and 0 or "
                "more updates."
            )

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        if config.retention is not None:
            raise UserError("LengthDrop: this model drops tokens already; begin with the model that keeps all.")
        return {}, {}

    def shares(self, update: Update) -> Array:
        """The share of the text's tokens that go on after each layer in an update."""
        import jax
        import jax.numpy as jnp

        depth, turn = update.config.depth, update.step % (self.between + 2)
        drawn = jax.random.uniform(update.key, (depth,), minval=1 - self.rate, maxval=1.0)
        kept = jnp.where(turn == 0, 1.0, jnp.where(turn == 1, 1 - self.rate, drawn))
        return jnp.cumprod(kept)

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        from bertjax.model.tokens import TokenRule

        return params, Forward(retention=TokenRule(hidden_by_share, self.ranked_by, arrays=self.shares(update)))


def hidden_by_share(step: int, significance: Array, tokens: Tokens, shares: Array) -> Selection:
    """Hides all but the most significant tokens of each text: its share of them, rounded up."""
    import jax.numpy as jnp

    from bertjax.model.tokens import Selection, hidden_but, ranks

    count = jnp.ceil(shares[step] * tokens.lengths - 1e-4)
    return Selection(hidden_but(tokens, ranks(significance, tokens.real) < count[:, None]))
