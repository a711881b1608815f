"""Token dropping as data: how many tokens of a text go on after each depth step. No jax.

The number depends on the text alone: on its real length, and with thresholds on its attention. So a text has the same
answer alone, in any batch and at any padding, and the length that a batch is padded to decides only the size of the
arrays. A share decides the size beforehand. A threshold lets hard texts keep more tokens than easy ones, but arrays
have to be as large as the text that keeps most (`bertjax.adaptive.token_counts`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

from bertjax.errors import UserError
from bertjax.storage.typed_json import Size, Within, check

Share = Annotated[float, Within(0, 1)]
RankedBy = Literal["others", "all", "first", "random"]
After = Literal["attention", "layer"]


@dataclass(frozen=True)
class Retention:
    """The tokens that go on: of each text the [CLS] token, and those that the text attends to most.

    They keep their order and, because positions are added before the first step, their positions. Of tokens that get
    equal attention the earlier goes on.
    """

    shares: tuple[Share, ...]
    """For each depth step the share of the text's tokens that go on after it, rounded up to a whole number of tokens.
    1 keeps all. No share may exceed the one before it."""
    ranked_by: RankedBy = "others"
    """The significance of a token: the attention probabilities that it gets, summed over the text's tokens and averaged
    over heads. others: without what it gives itself (PoWER-BERT, Goyal et al. 2020). all: with that
    (Length-Adaptive Transformer, Kim & Cho 2021). first and random are the controls, which do without attention: the
    earlier tokens, or those of places that are drawn once for all texts of a length."""
    after: After = "attention"
    """Where tokens are dropped in a depth step: between attention and feed-forward layer, as in both papers, or after
    the whole layer."""
    multiple: Size = 1
    """Numbers of tokens are rounded up to a multiple of this. A TPU or GPU computes blocks of tokens, so the additional
    ones cost nothing there."""
    thresholds: tuple[Share, ...] = ()
    """For each depth step the attention that a token must get to go on, as a mean over the tokens that attend (Learned
    Token Pruning, Kim et al. 2022): of n tokens, one gets 1/n on average. At most the share of the step goes on. 0, or
    no thresholds: the share alone decides. [CLS] always goes on."""

    def __post_init__(self) -> None:
        check(self)
        if not self.shares or any(late > early for early, late in zip((1.0, *self.shares), self.shares, strict=False)):
            raise UserError(
                f"retention: shares are {self.shares}; expected one for each depth step, from 1 down, none above the "
                "one before it: a token that was dropped does not come back."
            )
        if self.thresholds and len(self.thresholds) != len(self.shares):
            raise UserError(
                f"retention: there are {len(self.thresholds)} thresholds and {len(self.shares)} shares; expected one "
                "of each for each depth step."
            )
        if self.thresholds and self.ranked_by in ("first", "random"):
            raise UserError(
                f"retention: thresholds are compared with attention, and ranked_by={self.ranked_by!r} reads none; use "
                "others or all."
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """The depth steps after which tokens are dropped."""
        before = (1.0, *self.shares)
        return tuple(step for step, share in enumerate(self.shares) if share < before[step] or self.threshold(step) > 0)

    def threshold(self, step: int) -> float:
        """The threshold of a depth step; 0 without thresholds."""
        return self.thresholds[step] if self.thresholds else 0.0

    def of_steps(self, steps: Sequence[int]) -> "Retention":
        """That of a model with only these depth steps."""
        shares, thresholds = (tuple(each[n] for n in steps if each) for each in (self.shares, self.thresholds))
        return replace(self, shares=shares, thresholds=thresholds)

    def count(self, step: int, length: int) -> int:
        """The number of tokens of a text of `length` tokens that go on after a depth step: at least one, [CLS]."""
        rounded = math.ceil(self.shares[step] * length / self.multiple - 1e-9) * self.multiple
        return min(length, max(1, rounded))

    def counts(self, step: int, longest: int) -> tuple[int, ...]:
        """`count` of every length from 0 to `longest`."""
        return counts(self, step, longest)


@lru_cache(maxsize=1024)
def counts(retention: Retention, step: int, longest: int) -> tuple[int, ...]:
    return tuple(retention.count(step, length) for length in range(longest + 1))
