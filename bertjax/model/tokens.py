"""Which tokens go on after a depth step: their significance, their selection, and the way back to the whole text.

A token is significant if the text attends to it (Goyal et al. 2020, section 3.2). That is read from the attention
probabilities of the step, so the plain kernel is needed, which has them. A `TokenRule` turns significances into a
`Selection`; the layer gathers the rows that it names, or multiplies rows, or leaves all where they are and hides the
dropped ones from later attention. The last two save no time and are for training: there the number of tokens may be
learned, and a compiled program needs it to be known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.model.products import mixed
from bertjax.model.retention import After, RankedBy, Retention


class Tokens(NamedTuple):
    """The tokens of a batch between two depth steps, of texts of which some were dropped."""

    text: Bool[Array, "b l"]
    """The real tokens of each text before any was dropped."""
    places: Int[Array, "b s"]
    """Where in the text the token of each row stands; l for a row without a token; -1 for one that no longer goes on
    and that later layers see all the same, so that a rule in training learns what hiding it would change."""
    scale: Float[Array, "b s"] | None = None
    """What the rows were multiplied with when these tokens were selected, in training; None means 1."""

    @property
    def real(self) -> Bool[Array, "b s"]:
        """Whether each row has a token."""
        return self.places < self.text.shape[1]

    @property
    def going_on(self) -> Bool[Array, "b s"]:
        """Whether each row has a token that goes on."""
        return self.real & (self.places >= 0)

    @property
    def lengths(self) -> Int[Array, " b"]:
        """The real length of each text before any token was dropped."""
        return jnp.sum(self.text, axis=1)


class Selection(NamedTuple):
    """What a rule decides about the rows of a batch."""

    tokens: Tokens
    """The tokens afterwards."""
    rows: Int[Array, "b k"] | None = None
    """The rows to gather; None: all rows stay where they are, and those without a token are hidden."""


Select = Callable[[int, Float[Array, "b s"], Tokens, Any], Selection]
"""`(depth step, significance, tokens, arrays) -> selection`. A hashable object, such as a function or a frozen
dataclass."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenRule:
    """How tokens are selected. A tree whose only leaves are `arrays`."""

    select: Select = field(metadata={"static": True})
    ranked_by: RankedBy = field(default="others", metadata={"static": True})
    after: After = field(default="attention", metadata={"static": True})
    steps: tuple[int, ...] | None = field(default=None, metadata={"static": True})
    """The depth steps at which tokens are selected; None: at all of them."""
    scales: bool = field(default=False, metadata={"static": True})
    """Whether `select` gives the tokens a `scale`."""
    arrays: Any = ()
    """What `select` gets besides: numbers that are trained, or drawn for this update."""


def all_tokens(text: Bool[Array, "b l"]) -> Tokens:
    """The tokens before the first step."""
    length = text.shape[1]
    return Tokens(text, jnp.where(text, jnp.arange(length)[None], length))


def significance(
    probabilities: Float[Array, "b h l l"],
    real: Bool[Array, "b l"],
    ranked_by: RankedBy,
    keys: int = -1,
    heads: Float[Array, "#b #l h 1"] | None = None,
) -> Float[Array, "b l"]:
    """The attention that each token gets, summed over the real tokens and averaged over heads, in float32.

    `keys` is the axis of the keys, -1 or -2; the other one is that of the queries. `heads` are gates, with which heads
    are weighted. Padding does not vote. (In the published codes it does, so their significances depend on the padding.)
    """
    probabilities = probabilities.astype(jnp.float32)
    if heads is not None:
        probabilities = probabilities * jnp.expand_dims(heads[..., 0].swapaxes(1, 2), keys)
    votes = jnp.expand_dims(real, (1, keys))
    received = jnp.mean(jnp.sum(probabilities, axis=-3 - keys, where=votes), axis=1)
    if ranked_by == "others":
        received = received - jnp.mean(jnp.diagonal(probabilities, axis1=2, axis2=3), axis=1)
    return received


def earliness(tokens: Tokens) -> Float[Array, "b s"]:
    """Ranks the earlier tokens of a text first."""
    return -tokens.places.astype(jnp.float32)


def lot(tokens: Tokens) -> Float[Array, "b s"]:
    """Ranks tokens by random numbers, each a function of the place of a token and the length of its text."""
    places, lengths = (one.astype(jnp.uint32) for one in (tokens.places, tokens.lengths))
    return (mixed(places ^ mixed(lengths)[:, None]) >> 8).astype(jnp.float32)


CONTROLS = {"first": earliness, "random": lot}
"""What the controls rank tokens by in place of attention."""


def ranking(significance: Float[Array, "b s"], real: Bool[Array, "b s"], count: Any) -> Int[Array, "b _count"]:
    """The first rows in the order in which they are kept: [CLS], then by significance, of equal ones the earlier first,
    and rows without a token last. `count` is a number, or in an exported program an expression of the length."""
    # A sort, not `top_k`: XLA collects the rows of all devices before that, and after a NaN [CLS] would not be first.
    return jnp.argsort(jnp.where(real, -significance, jnp.inf).at[:, 0].set(-jnp.inf), axis=1)[:, :count]


def ranks(significance: Float[Array, "b s"], real: Bool[Array, "b s"]) -> Int[Array, "b s"]:
    """The place of each row in the ranking, from 0."""
    return jnp.argsort(ranking(significance, real, significance.shape[1]), axis=1)


def kept_of(retention: Retention, step: int, tokens: Tokens) -> Int[Array, " b"]:
    """The number of tokens of each text that go on after a step."""
    return jnp.asarray(retention.counts(step, tokens.text.shape[1]))[tokens.lengths] * (tokens.lengths > 0)


def number_kept(retention: Retention, step: int, significance: Float[Array, "b s"], tokens: Tokens) -> Int[Array, " b"]:
    """`kept_of`, or with a threshold the number of [CLS] and the tokens that get so much attention, if that is less."""
    count, threshold = kept_of(retention, step, tokens), retention.threshold(step)
    if not threshold:
        return count
    queries = jnp.sum(tokens.real, axis=1)[:, None]
    over = (significance >= threshold * queries).at[:, 0].set(True)
    return jnp.minimum(count, jnp.sum(over & tokens.real, axis=1))


@dataclass(frozen=True)
class Gather:
    """The rule of a retention: rows that go on are gathered into arrays of a size that the padded length decides.
    Those without a token repeat [CLS]."""

    retention: Retention

    def __call__(self, step: int, significance: Float[Array, "b s"], tokens: Tokens, arrays: Any) -> Selection:
        del arrays
        rows, longest = significance.shape[1], tokens.text.shape[1]
        first = ranking(significance, tokens.real, self.retention.count(step, longest))
        kept = jnp.arange(first.shape[1])[None] < number_kept(self.retention, step, significance, tokens)[:, None]
        chosen = jnp.sort(jnp.where(kept, first, rows), axis=1)
        places = jnp.take_along_axis(tokens.places, chosen, axis=1, mode="fill", fill_value=longest)
        return Selection(Tokens(tokens.text, places), jnp.where(chosen < rows, chosen, 0))


@dataclass(frozen=True)
class Hide:
    """As `Gather`, with every row where it was: the reference, and for programs that need one size."""

    retention: Retention

    def __call__(self, step: int, significance: Float[Array, "b s"], tokens: Tokens, arrays: Any) -> Selection:
        del arrays
        kept = ranks(significance, tokens.real) < number_kept(self.retention, step, significance, tokens)[:, None]
        return Selection(hidden_but(tokens, kept))


def hidden_but(tokens: Tokens, kept: Bool[Array, "b s"]) -> Tokens:
    """The tokens with only some of the rows."""
    return Tokens(tokens.text, jnp.where(kept, tokens.places, tokens.text.shape[1]))


def rule_of(retention: Retention, select: Callable[[Retention], Select] = Gather) -> TokenRule:
    """The rule by which a model with this retention runs, or with `Hide` the same for arrays of one size."""
    return TokenRule(select(retention), retention.ranked_by, retention.after, retention.steps)


def restored(states: tuple[Float[Array, "b _s d"], ...], tokens: tuple[Tokens, ...]) -> Float[Array, "b l d"]:
    """A state for every token of the text: that of the last depth step it took part in (Kim & Cho 2021, section 3.3).

    `tokens[i]` are those of `states[i]`, from the embedding on. A token that is dropped between attention and
    feed-forward layer keeps the state from before that layer.
    """

    def put(old: Array, places: Array, new: Array) -> Array:
        return old.at[places].set(new, mode="drop", wrap_negative_indices=False)

    whole = states[0]
    for state, known in zip(states[1:], tokens[1:], strict=True):
        whole = jax.vmap(put)(whole, known.places, state)
    return whole
