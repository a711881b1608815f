"""Ranks that are gated (ToP, Li et al. 2023): gates that are trained with the model decide how many tokens each layer
drops, until the arithmetic meets its target.

In each layer the tokens that still go on are ranked by the attention that they get. Their relative ranks fall into
`bins` buckets, each with a hard-concrete gate (`bertjax.prune.hard_concrete`), and one more gate says whether the layer
drops any. While the gates are trained, the row of a token is multiplied by

    keep = (1 - (1 - gate of its bucket) * gate of the layer) * (0 or 1: whether it was kept before)

and a Lagrangian drives the expected FLOPs, at the lengths of the training text, to the target. From the fraction `end`
of the steps on, the number of tokens that go on is decided. The others are hidden and the model adapts to that. The
finished model has these numbers as its `Retention`.

The published code never removes a token: it multiplies rows in training, and masks them afterwards. It keeps whatever
buckets have open gates. Here the tokens of the highest ranks go on, a share of the text that is as large as the
expected share of open buckets, so the rows of the others can be left out and the time is saved. There each gate is
rounded by itself, which may miss the target; here they are rounded together (`decided`). There padding votes on the
ranks. There as here the rows that go on are multiplied by 1 in the end.

The trade-off against shares that are searched: the gates find the layers that can drop and the model learns to do
without the tokens in the same run, but they need thousands of updates, at the price of the whole model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertjax.errors import UserError
from bertjax.learn.transform import Forward, Transform, Update
from bertjax.model.retention import RankedBy, Retention

if TYPE_CHECKING:
    from jax import Array

    from bertjax.bundle import Bundle
    from bertjax.learn.losses import Batch
    from bertjax.model import BertConfig
    from bertjax.model.tokens import Selection, Tokens
    from bertjax.params import Tree

FIRST_LOGIT = 2.0
"""At the beginning most buckets are kept, and with its negative most layers drop nothing. The published code begins at
10, which it clips to 4.6, for runs of 40 epochs and more."""
PARTS = 1024
"""Shares are multiples of 1/1024, so a share times a length is exact in float32 and rounds as it does in the config."""


@dataclass(frozen=True)
class RankGates(Transform):
    """Drops tokens by gates on relative ranks, which are trained with the model until the target is met."""

    flops: float = 0.5
    """Fraction of the encoder's arithmetic that is removed. Published: 0.4 for SST-2, 0.5 for MNLI, 0.7 for STS-B."""
    bins: int = 50
    """Relative ranks that have a gate of their own. Published: 20 to 100, most often 50."""
    first: int = 2
    """The first layer, from 0, that may have fewer tokens than the text. Published: 2 or 3."""
    warmup: float = 0.25
    """Fraction of the steps over which the target grows, linearly as published."""
    end: float = 0.6
    """Fraction of the steps after which the numbers of tokens are decided."""
    gate_learning_rate: float = 0.05
    """Learning rate of logits and multipliers, with the schedule of the run. Published: 0.01 to 0.04, for 40 to 200
    epochs."""
    ranked_by: RankedBy = "all"
    """How tokens are ranked, see `Retention`; as published by all the attention that they get."""
    lengths: tuple[int, ...] = ()
    """Tokens of typical texts, for which the arithmetic is counted. Empty: those of sample text."""

    drops_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.flops < 1:
            raise UserError(f"RankGates: flops is {self.flops}; it is the fraction removed, from 0 to below 1.")
        if self.bins < 2 or self.first < 1:
            raise UserError(
                f"RankGates: bins={self.bins}, first={self.first}; expected 2 or more bins, and a first layer from 1, "
                "because layer 0 reads the whole text."
            )
        if not 0 <= self.warmup <= self.end <= 1 or not self.end:
            raise UserError(
                f"RankGates: warmup={self.warmup}, end={self.end}; expected 0 <= warmup <= end <= 1, end above 0."
            )
        if self.lengths and min(self.lengths) < 1:
            raise UserError(f"RankGates: lengths are {self.lengths}; expected 1 or more tokens each.")

    @property
    def learning_rate(self) -> float | None:
        return self.gate_learning_rate

    def fit(self, student: Bundle, batches: Iterable[Batch]) -> RankGates:
        """With the lengths of the sample text, unless some were given."""
        if self.lengths:
            return self
        found = [int(length) for batch in batches for length in batch["attention_mask"].sum(axis=1) if length]
        return dataclasses.replace(self, lengths=tuple(sorted(found)))

    def init(self, key: Array, config: BertConfig, params: Tree) -> tuple[Tree, Tree]:
        """Logits of the gates and multipliers, and shares that keep everything.

        Raises:
          UserError: The model drops tokens already or has too few layers, no lengths are known, or the target is out
            of reach with all gates closed.
        """
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import LARGEST, SMALLEST

        if config.retention is not None:
            raise UserError("RankGates: this model drops tokens already; begin with the model that keeps all.")
        if (gated := len(self.steps(config))) < 1:
            raise UserError(
                f"RankGates: first={self.first}, and the model has {config.depth} layers; expected a layer from 1 to "
                f"{config.depth - 1}."
            )
        if not self.lengths:
            raise UserError("RankGates: there is no sample text to count the arithmetic of; give lengths.")
        closed = jnp.full((gated, self.bins), SMALLEST), jnp.full(gated, LARGEST)
        most = 1 - float(self.remaining(config, *closed))
        if most < self.flops:
            raise UserError(
                f"RankGates: {self.flops:.0%} removed was asked, and with all gates closed it is {most:.0%}; ask for "
                "less, or begin at an earlier layer (first)."
            )
        logits = {"tokens": jnp.full((gated, self.bins), FIRST_LOGIT), "layers": jnp.full(gated, -FIRST_LOGIT)}
        return {"logits": logits, "multipliers": jnp.zeros(2)}, {"shares": jnp.ones(config.depth)}

    def steps(self, config: BertConfig) -> range:
        """The depth steps after which tokens may be dropped: never the last one, which nothing follows."""
        return range(self.first - 1, config.depth - 1)

    def last(self, total: int) -> int:
        """The first update with decided numbers of tokens; at least the last one trains with them."""
        return min(round(self.end * total), total - 1)

    def advance(self, update: Update, params: Tree, extra: Tree, state: Tree) -> Tree:
        """Decides the shares once."""
        import jax

        now = update.step == self.last(update.total)
        decide = lambda: self.decided(update.config, **extra["logits"])  # noqa: E731
        return {"shares": jax.lax.cond(now, decide, lambda: state["shares"])}

    def decided(self, config: BertConfig, tokens: Array, layers: Array) -> Array:
        """The shares of the text's tokens that go on, from the logits of the gates [depth].

        As many layers drop tokens as do on average, rounded. What that changes in the expected FLOPs is made up for by
        a shift of all buckets' logits, because gates of layers come to rest before they are 0 or 1.
        """
        import jax
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import decide, kept_probability

        drops, asked = decide(layers), self.remaining(config, tokens, layers)
        certain = jnp.where(drops, 1000.0, -1000.0)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            too_many = self.remaining(config, tokens + middle, certain) > asked
            return jnp.where(too_many, low, middle), jnp.where(too_many, middle, high)

        shift, _ = jax.lax.fori_loop(0, 20, halve, (jnp.float32(-10), jnp.float32(10)))
        shares = self.shares(config, kept_probability(tokens + shift).mean(axis=1), drops)
        return jnp.maximum(jnp.ceil(shares * PARTS), 1) / PARTS

    def shares(self, config: BertConfig, kept: Array, drops: Array) -> Array:
        """The share of the text's tokens that go on after each depth step [depth].

        Args:
          kept: The fraction of buckets that each gated step keeps.
          drops: The probability that the step drops any.
        """
        import jax.numpy as jnp

        before = jnp.ones(self.first - 1)
        return jnp.cumprod(jnp.concatenate([before, 1 - (1 - kept) * drops, jnp.ones(1)]))

    def apply(self, update: Update, params: Tree, extra: Tree, state: Tree) -> tuple[Tree, Forward]:
        import jax

        from bertjax.model.tokens import TokenRule
        from bertjax.prune.hard_concrete import draw

        logits, training = extra["logits"], update.step < self.last(update.total)
        of_tokens, of_layers = jax.random.split(update.key)
        gates = draw(of_tokens, logits["tokens"]), draw(of_layers, logits["layers"])
        steps, arrays = tuple(self.steps(update.config)), (training, *gates, state["shares"])
        rule = TokenRule(ByRank(self.first - 1), self.ranked_by, "layer", steps, scales=True, arrays=arrays)
        return params, Forward(retention=rule)

    def penalties(self, update: Update, params: Tree, extra: Tree, state: Tree) -> dict[str, Array]:
        """The Lagrangian of the removed fraction of the FLOPs, until the numbers of tokens are decided."""
        import jax.numpy as jnp

        from bertjax.prune.lagrangian import lagrangian

        logits = extra["logits"]
        removed = 1 - self.remaining(update.config, logits["tokens"], logits["layers"])
        value = lagrangian(update, extra["multipliers"], removed, self.flops, self.warmup)
        return {"lagrangian": jnp.where(update.step < self.last(update.total), value, 0.0)}

    def remaining(self, config: BertConfig, tokens: Array, layers: Array) -> Any:
        """The expected FLOPs as a fraction of those of the whole model, from the logits of the gates.

        Expected numbers of tokens take the place of drawn ones, also in the cost of attention, which is quadratic.
        """
        import jax.numpy as jnp

        from bertjax.model import build
        from bertjax.prune.hard_concrete import kept_probability
        from bertjax.token_dropping.costs import text_flops

        lengths, reads_first = jnp.asarray(self.lengths, jnp.float32), build(config).reads_first
        shares = self.shares(config, kept_probability(tokens).mean(axis=1), kept_probability(layers))
        kept = 1 + (lengths - 1)[None] * shares[:, None]  # [CLS] always goes on
        whole = jnp.tile(lengths, (config.depth, 1))
        left, all_of_it = (text_flops(config, lengths, one, "layer", reads_first).sum() for one in (kept, whole))
        return left / all_of_it

    def project(self, extra: Tree, state: Tree) -> Tree:
        import jax
        import jax.numpy as jnp

        from bertjax.prune.hard_concrete import LARGEST, SMALLEST

        return {**extra, "logits": jax.tree.map(lambda x: jnp.clip(x, SMALLEST, LARGEST), extra["logits"])}

    def finish(self, config: BertConfig, params: Tree, extra: Tree, state: Tree) -> tuple[BertConfig, Tree]:
        """The model that drops tokens. Says so if the target was missed."""
        import warnings

        import numpy as np

        from bertjax.model import build
        from bertjax.token_dropping.costs import mean_flops

        shares = tuple(float(share) for share in np.asarray(state["shares"]))
        retention, reads_first = Retention(shares, self.ranked_by, "layer"), build(config).reads_first
        left, whole = (mean_flops(config, self.lengths, one, reads_first) for one in (retention, None))
        if abs(1 - left / whole - self.flops) > 0.02:
            warnings.warn(
                f"RankGates: {1 - left / whole:.0%} of the FLOPs are removed, {self.flops:.0%} was asked; with more "
                "steps, a later end or a higher gate_learning_rate the gates come closer.",
                stacklevel=2,
            )
        return config.replace(retention=retention), params


@dataclass(frozen=True)
class ByRank:
    """The rule of `RankGates`. Its arrays: whether the gates are trained, those of buckets and of layers from the depth
    step `begin` on, and the shares that were decided."""

    begin: int

    def __call__(self, step: int, significance: Array, tokens: Tokens, arrays: Any) -> Selection:
        import jax
        import jax.numpy as jnp

        from bertjax.model.tokens import Selection, Tokens, ranks

        training, of_tokens, of_layers, shares = arrays
        here, going_on = step - self.begin, tokens.going_on
        rank = ranks(significance, going_on)  # that of [CLS] is 0
        others = jnp.maximum(jnp.sum(going_on, axis=1) - 1, 1)
        bucket = jnp.clip((rank - 1) * of_tokens.shape[1] // others[:, None], 0, of_tokens.shape[1] - 1)
        # Whether the layer drops is 0 or 1, with the gradient of its gate (straight-through).
        drops = of_layers[here] + jax.lax.stop_gradient((of_layers[here] > 0) - of_layers[here])
        keep = jnp.where(rank == 0, 1.0, 1 - (1 - of_tokens[here][bucket]) * drops) * going_on
        # What is multiplied by 0 stays visible. Hidden, it would give the layer's gate no gradient.
        gated = jnp.where(going_on & (keep == 0), -1, tokens.places)
        count = jnp.ceil(shares[step] * tokens.lengths)
        decided = jnp.where(rank < count[:, None], tokens.places, tokens.text.shape[1])
        places = jnp.where(training, gated, decided)
        return Selection(Tokens(tokens.text, places, jnp.where(training, keep, 1.0)))
