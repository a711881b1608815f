"""The supervised losses, one per kind of task.

Every loss returns `(weighted sum, weight)` without padding, filler rows and unlabelled tokens. The training step
divides once, after summing over micro-batches and devices: a mean of means would depend on how the batch was split. All
arithmetic is float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bertjax.text.tasks import Kind

Batch = Mapping[str, Any]
"""Arrays by name, as `bertjax.text.batches` makes them (NumPy) or as a jitted step sees them."""
WeightedSum = tuple[Float[Array, ""], Float[Array, ""]]
"""A weighted sum and the weight to divide it by."""


def weighted(values: Float[Array, "*rows"], weights: Float[Array, "*rows"]) -> WeightedSum:
    """The weighted sum and the sum of the weights: the pair that every loss returns."""
    return jnp.sum(values * weights), jnp.sum(weights)


def keep(x: Float[Array, "*rows c"], weights: Float[Array, "*rows"]) -> Float[Array, "*rows c"]:
    """`x` in float32, with zeros in rows of weight 0: garbage there, even a NaN, reaches neither loss nor gradient.

    Apply it to the inputs of a loss. Multiplying a NaN loss by 0 afterwards, or a `where` around it, still gives a NaN
    gradient.
    """
    return jnp.where(weights[..., None] > 0, x.astype(jnp.float32), 0.0)


def classification(logits: Float[Array, "*rows c"], batch: Batch) -> WeightedSum:
    """Cross-entropy per row; labels are class ids."""
    kept = keep(logits, batch["weights"])
    return weighted(optax.softmax_cross_entropy_with_integer_labels(kept, batch["labels"]), batch["weights"])


def regression(logits: Float[Array, "*rows 1"], batch: Batch) -> WeightedSum:
    """Squared error per row."""
    return weighted(jnp.square(keep(logits, batch["weights"])[..., 0] - batch["labels"]), batch["weights"])


def multi_label(logits: Float[Array, "*rows c"], batch: Batch) -> WeightedSum:
    """Binary cross-entropy per row, averaged over the labels."""
    losses = optax.sigmoid_binary_cross_entropy(keep(logits, batch["weights"]), batch["labels"])
    return weighted(jnp.mean(losses, axis=-1), batch["weights"])


def tokens(logits: Float[Array, "b l c"], batch: Batch) -> WeightedSum:
    """Cross-entropy per labelled token; the label -100 marks a token without one."""
    weights = (batch["labels"] >= 0) * token_weights(batch)
    labels = jnp.maximum(batch["labels"], 0)
    return weighted(optax.softmax_cross_entropy_with_integer_labels(keep(logits, weights), labels), weights)


def token_weights(batch: Batch) -> Float[Array, "b #l"]:
    """The weight of the text that each token belongs to; a packed row holds several texts."""
    if "segment_ids" not in batch:
        return batch["weights"][:, None]
    return jnp.take_along_axis(batch["weights"], jnp.maximum(batch["segment_ids"] - 1, 0), axis=1)


def span(logits: Float[Array, "b l 2"], batch: Batch) -> WeightedSum:
    """Mean of the cross-entropies of start and end position, over the real tokens of each row."""
    return weighted(jnp.mean(span_losses(logits, batch["attention_mask"], batch["labels"]), axis=-1), batch["weights"])


def span_losses(
    logits: Float[Array, "b l 2"], mask: Int[Array, "b l"], labels: Int[Array, "b 2"]
) -> Float[Array, "b 2"]:
    lowest = jnp.finfo(jnp.float32).min
    masked = jnp.where(mask[..., None] > 0, logits.astype(jnp.float32), lowest)
    log_probabilities = jax.nn.log_softmax(masked, axis=1)
    return -jnp.take_along_axis(log_probabilities, labels[:, None, :], axis=1)[:, 0]


def direction(x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """Vectors normalised to length 1. A zero vector stays zero and has a finite gradient."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def partners(batch: Batch) -> Bool[Array, "b b"]:
    """Where row and column are the two texts of a pair, whose numbers are 2 i and 2 i + 1; filler has none."""
    ids = batch["example_ids"]
    return ((ids ^ 1)[:, None] == ids[None, :]) & (ids >= 0)[:, None]


def pair_scores(vectors: Float[Array, "b e"], batch: Batch) -> WeightedSum:
    """Squared error between the cosine of each pair and its score (Reimers and Gurevych 2019, section 3), for each of
    its two rows."""
    unit = direction(keep(vectors, batch["weights"]))
    cosines = jnp.sum((unit @ unit.T) * partners(batch), axis=-1)
    return weighted(jnp.square(cosines - batch["labels"]), batch["weights"])


def in_batch_negatives(vectors: Float[Array, "b e"], batch: Batch, temperature: float) -> WeightedSum:
    """Cross-entropy of the other text of a pair among the other sides of all pairs of the batch, at a temperature of
    the cosine."""
    ids, weights = batch["example_ids"], batch["weights"]
    unit = direction(keep(vectors, weights))
    other_side = (ids[:, None] % 2 != ids[None, :] % 2) & (weights > 0)[None, :]
    scores = jnp.where(other_side, unit @ unit.T / temperature, jnp.finfo(jnp.float32).min)
    return weighted(-jnp.sum(jax.nn.log_softmax(scores) * partners(batch), axis=-1), weights)


TASK_LOSSES: dict[Kind, Callable[[Array, Batch], WeightedSum]] = {
    "classification": classification,
    "regression": regression,
    "multi_label": multi_label,
    "tokens": tokens,
    "qa": span,
    "embedding": pair_scores,
}
"""The supervised loss of each kind of task."""


def ponder_cost(trace: Any, batch: Batch) -> WeightedSum:
    """Steps plus remainder of every real position (Graves 2016, eq. 14), for adaptive computation time."""
    return jnp.sum(trace.ponder), jnp.sum(batch["attention_mask"]).astype(jnp.float32)
