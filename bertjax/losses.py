"""What a model should have said: one loss per kind of task, against labels.

Every loss returns `(weighted sum, weight)` over what really counts (no padding, no filler rows, no unlabelled pieces);
whoever calls it divides, once, after summing over micro-batches and devices. A mean taken too early would make the
result depend on how the batch was cut. All arithmetic is float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bertjax.text.tasks import Kind

Batch = Mapping[str, Any]
"""Arrays by name, as `bertjax.text.batches` makes them (NumPy) or as a jitted step sees them."""
Sum = tuple[Float[Array, ""], Float[Array, ""]]
"""A weighted sum and the weight to divide it by."""


def weighted(values: Float[Array, "*rows"], weights: Float[Array, "*rows"]) -> Sum:
    """The pair that every loss returns. Garbage where the weight is 0, even a NaN, does not get through."""
    kept = jnp.where(weights > 0, values.astype(jnp.float32), 0.0)
    return jnp.sum(kept * weights), jnp.sum(weights)


def classification(logits: Float[Array, "*rows c"], batch: Batch) -> Sum:
    """Cross-entropy per row; labels are class ids."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch["labels"])
    return weighted(losses, batch["weights"])


def regression(logits: Float[Array, "*rows 1"], batch: Batch) -> Sum:
    """Squared error per row."""
    return weighted(jnp.square(logits[..., 0].astype(jnp.float32) - batch["labels"]), batch["weights"])


def multi_label(logits: Float[Array, "*rows c"], batch: Batch) -> Sum:
    """Binary cross-entropy per row, averaged over the labels."""
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), batch["labels"])
    return weighted(jnp.mean(losses, axis=-1), batch["weights"])


def tokens(logits: Float[Array, "b l c"], batch: Batch) -> Sum:
    """Cross-entropy per labelled piece; -100 marks a piece without a label."""
    labelled = batch["labels"] >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), jnp.where(labelled, batch["labels"], 0)
    )
    return weighted(losses, labelled * batch["weights"][:, None])


def answers(logits: Float[Array, "b l 2"], batch: Batch) -> Sum:
    """Mean of the cross-entropies of start and end, over the real pieces of each row."""
    return weighted(jnp.mean(span_losses(logits, batch["attention_mask"], batch["labels"]), axis=-1), batch["weights"])


def span_losses(
    logits: Float[Array, "b l 2"], mask: Int[Array, "b l"], labels: Int[Array, "b 2"]
) -> Float[Array, "b 2"]:
    lowest = jnp.finfo(jnp.float32).min
    masked = jnp.where(mask[..., None] > 0, logits.astype(jnp.float32), lowest)
    log_probabilities = jax.nn.log_softmax(masked, axis=1)
    return -jnp.take_along_axis(log_probabilities, labels[:, None, :], axis=1)[:, 0]


TASK_LOSSES: dict[Kind, Callable[[Array, Batch], Sum]] = {
    "classification": classification,
    "regression": regression,
    "multi_label": multi_label,
    "tokens": tokens,
    "qa": answers,
}
"""The loss against labels, by kind of task."""
