"""Distillation losses, formulas only. Each returns `(weighted sum, weight)`; no gradient reaches the teacher.

Published code divides by different quantities (rows, rows times classes, rows times width), so weights do not carry
over from one repository to another. Here the loss of a row is the sum over a distribution or the mean over the width,
and the weight counts rows or real tokens. Where a paper sums over layers or widths, the classes in `terms/` multiply.

Losses on attention take queries, keys and values instead of attention maps. These are smaller, exist with every
attention kernel, and can be stored. Attention is compared over the real tokens only.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.distill.at_once import Pair, over_heads, over_tokens
from bertjax.distill.pairing import nearest_layers
from bertjax.learn.losses import WeightedSum, direction, keep, weighted
from bertjax.model.tokens import ranking, significance


def soft_targets(
    student: Float[Array, "*rows c"],
    teacher: Float[Array, "*rows c"],
    weights: Float[Array, "*rows"],
    temperature: float = 1.0,
) -> WeightedSum:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) per row (Hinton et al. 2015, section 2.1).

    The factor T^2 makes the size of the gradient independent of the temperature.
    """
    teacher_out = jax.nn.log_softmax(keep(jax.lax.stop_gradient(teacher), weights) / temperature)
    student_out = jax.nn.log_softmax(keep(student, weights) / temperature)
    return weighted(temperature**2 * jnp.sum(jnp.exp(teacher_out) * (teacher_out - student_out), axis=-1), weights)


def soft_cross_entropy(
    student: Float[Array, "*rows c"],
    teacher: Float[Array, "*rows c"],
    weights: Float[Array, "*rows"],
    temperature: float = 1.0,
) -> WeightedSum:
    """-sum p log q per row, with the teacher's p and the student's q at a temperature. It differs from `soft_targets`
    by the teacher's entropy, which is constant, and by the missing factor T^2 (TinyBERT, Jiao et al. 2020, eq. 10)."""
    teacher_out = jax.nn.softmax(keep(jax.lax.stop_gradient(teacher), weights) / temperature)
    return weighted(-jnp.sum(teacher_out * jax.nn.log_softmax(keep(student, weights) / temperature), axis=-1), weights)


def binary_soft_targets(
    student: Float[Array, "*rows c"],
    teacher: Float[Array, "*rows c"],
    weights: Float[Array, "*rows"],
    temperature: float = 1.0,
) -> WeightedSum:
    """`soft_targets` for multi-label tasks: a two-way KL per label, averaged over the labels."""

    def pair(logits: Float[Array, "*rows c"]) -> Float[Array, "*rows c 2"]:
        scaled = keep(logits, weights) / temperature
        return jnp.stack([jax.nn.log_sigmoid(scaled), jax.nn.log_sigmoid(-scaled)], axis=-1)

    teacher_out, student_out = pair(jax.lax.stop_gradient(teacher)), pair(student)
    divergences = jnp.sum(jnp.exp(teacher_out) * (teacher_out - student_out), axis=-1)
    return weighted(temperature**2 * jnp.mean(divergences, axis=-1), weights)


def squared_error(
    student: Float[Array, "*rows c"], teacher: Float[Array, "*rows c"], weights: Float[Array, "*rows"]
) -> WeightedSum:
    """Mean squared error over the last axis, per row. For hidden states, embeddings, or the output of a regression
    model."""
    difference = keep(student, weights) - keep(jax.lax.stop_gradient(teacher), weights)
    return weighted(jnp.mean(jnp.square(difference), axis=-1), weights)


def projected(hidden: Float[Array, "b l s"], projection: Mapping[str, Array]) -> Float[Array, "b l t"]:
    """`hidden @ kernel + bias`; either may be absent."""
    if "kernel" in projection:
        hidden = hidden @ projection["kernel"]
    return hidden + projection["bias"][None, None] if "bias" in projection else hidden


def matched_error(
    student: Sequence[Float[Array, "b l s"]],
    teacher: Sequence[Float[Array, "b l t"]],
    projection: Mapping[str, Array],
    alive: Bool[Array, " layers"],
    weights: Float[Array, "b l"],
    ordered: bool = False,
) -> WeightedSum:
    """The sum over the teacher's layers of the `squared_error` of the student layer that is nearest to each, after the
    projection (Xia et al. 2022, section 3.2). How near a layer is, is this error over all rows (`nearest_layers`).

    Only the matched layers and the projection get a gradient. If no layer is alive, the sum is 0.
    """

    def error(
        hidden: Float[Array, "b l s"],
        projection: Mapping[str, Array],
        target: Float[Array, "b l t"],
        weights: Float[Array, "b l"],
    ) -> WeightedSum:
        return squared_error(projected(keep(hidden, weights), projection), target, weights)

    ours, constant = jax.lax.stop_gradient((student, projection))
    distances = jnp.stack(
        [jnp.stack([error(hidden, constant, target, weights)[0] for hidden in ours]) for target in teacher]
    )
    pairs = zip(nearest_layers(distances, alive, ordered), teacher, strict=True)
    # `select_n`, because indexing needs a stack of the layers, which is a copy of all of them.
    sums = [
        over_tokens(error, jax.lax.select_n(layer, *student), projection, target, weights) for layer, target in pairs
    ]
    return jnp.where(jnp.any(alive), sum(total for total, _ in sums), 0.0), jnp.sum(weights)


def span_soft_targets(
    student: Float[Array, "b l 2"],
    teacher: Float[Array, "b l 2"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
    temperature: float = 1.0,
) -> WeightedSum:
    """`soft_targets` over positions, mean of start and end. Padding is excluded from both softmaxes."""

    mask = kept(mask, weights)

    def log_probabilities(logits: Float[Array, "b l 2"]) -> Float[Array, "b l 2"]:
        masked = jnp.where(mask[..., None] > 0, logits.astype(jnp.float32) / temperature, -1e9)
        return jax.nn.log_softmax(masked, axis=1)

    teacher_out, student_out = log_probabilities(jax.lax.stop_gradient(teacher)), log_probabilities(student)
    divergences = jnp.sum(
        jnp.where(mask[..., None] > 0, jnp.exp(teacher_out) * (teacher_out - student_out), 0.0), axis=1
    )
    return weighted(temperature**2 * jnp.mean(divergences, axis=-1), weights)


def cosine(
    student: Float[Array, "*rows d"], teacher: Float[Array, "*rows d"], weights: Float[Array, "*rows"]
) -> WeightedSum:
    """1 - cos of the angle between two vectors (DistilBERT, Sanh et al. 2019, section 2)."""
    student_out, teacher_out = keep(student, weights), keep(jax.lax.stop_gradient(teacher), weights)
    return weighted(1 - jnp.sum(direction(student_out) * direction(teacher_out), axis=-1), weights)


def direction_error(
    student: Float[Array, "*rows d"], teacher: Float[Array, "*rows d"], weights: Float[Array, "*rows"]
) -> WeightedSum:
    """`squared_error` of vectors normalised to length 1 (patient distillation, Sun et al. 2019, eq. 7, as a mean over
    the width)."""
    student_out, teacher_out = keep(student, weights), keep(jax.lax.stop_gradient(teacher), weights)
    return squared_error(direction(student_out), direction(teacher_out), weights)


def similarity_error(
    student: Float[Array, "b d"], teacher: Float[Array, "b e"], weights: Float[Array, "b"]
) -> WeightedSum:
    """Squared error of the cosines of each row with the others of the batch, averaged over those that count."""
    ours, theirs, others = similarities(student, teacher, weights)
    count = jnp.maximum(jnp.sum(others, axis=-1), 1)
    return weighted(jnp.sum(jnp.square(ours - theirs) * others, axis=-1) / count, weights)


def similarity_divergence(
    student: Float[Array, "b d"], teacher: Float[Array, "b e"], weights: Float[Array, "b"], temperature: float
) -> WeightedSum:
    """KL(softmax(teacher / T) || softmax(student / T)) of the cosines of each row with the others of the batch."""
    ours, theirs, others = similarities(student, teacher, weights)
    lowest = jnp.finfo(jnp.float32).min
    ours, theirs = (jax.nn.log_softmax(jnp.where(others, one / temperature, lowest)) for one in (ours, theirs))
    return weighted(jnp.sum(jnp.exp(theirs) * (theirs - ours) * others, axis=-1), weights)


def similarities(
    student: Float[Array, "b d"], teacher: Float[Array, "b e"], weights: Float[Array, "b"]
) -> tuple[Float[Array, "b b"], Float[Array, "b b"], Bool[Array, "b b"]]:
    """The cosines of all rows with each other, of student and teacher, and which of them count: not those of a row with
    itself."""
    ours = direction(keep(student, weights))
    theirs = direction(keep(jax.lax.stop_gradient(teacher), weights))
    others = (weights > 0)[None, :] & ~jnp.eye(len(weights), dtype=bool)
    return ours @ ours.T, theirs @ theirs.T, others


def feature_error(
    student: Float[Array, "*rows d"],
    teacher: Float[Array, "*rows d"],
    weights: Float[Array, "*rows"],
    factors: tuple[float, float, float] = (100.0, 5000.0, 5.0),
) -> WeightedSum:
    """The difference of two vectors in three parts, each times a factor: `squared_error` after both are normalised to
    mean 0 and variance 1; the squared difference of their means; the absolute difference of their variances (published
    code of MobileBERT, Sun et al. 2020).

    That code compares the mean and variance of a layer with those of all the teacher's layers. Here they are compared
    with the paired layer only, as in the second version of that code.
    """

    def apart(
        x: Float[Array, "*rows d"],
    ) -> tuple[Float[Array, "*rows d"], Float[Array, "*rows"], Float[Array, "*rows"]]:
        mean, variance = jnp.mean(x, axis=-1), jnp.var(x, axis=-1)
        return (x - mean[..., None]) * jax.lax.rsqrt(variance + 1e-12)[..., None], mean, variance

    ours, mean, variance = apart(keep(student, weights))
    theirs, their_mean, their_variance = apart(keep(jax.lax.stop_gradient(teacher), weights))
    shape, centre, spread = factors
    total, weight = squared_error(ours, theirs, weights)
    statistics = centre * jnp.square(mean - their_mean) + spread * jnp.abs(variance - their_variance)
    return shape * total + weighted(statistics, weights)[0], weight


def score_error(
    student_queries: Float[Array, "b l h s"],
    student_keys: Float[Array, "b l h s"],
    teacher_queries: Float[Array, "b l h t"],
    teacher_keys: Float[Array, "b l h t"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
) -> WeightedSum:
    """Mean squared error of the attention scores before the softmax, per query, over the real keys and the heads
    (TinyBERT, Jiao et al. 2020, eq. 7)."""
    mask = kept(mask, weights)

    def error(student: Pair, teacher: Pair, mask: Int[Array, "b l"]) -> Float[Array, "b l"]:
        squares = jnp.square(scores(*student, mask) - scores(*teacher, mask))
        keys = jnp.maximum(jnp.sum(mask, axis=-1), 1)[:, None]
        return jnp.sum(jnp.where(mask[:, None, None] > 0, squares, 0.0), axis=(1, 3)) / keys

    ours, theirs = (student_queries, student_keys), (teacher_queries, teacher_keys)
    return over_heads(error, ours, theirs, (mask,), mask * weights[:, None], ours[0].shape[2])


def score_error_with_padding(
    student_queries: Float[Array, "b l h s"],
    student_keys: Float[Array, "b l h s"],
    teacher_queries: Float[Array, "b l h t"],
    teacher_keys: Float[Array, "b l h t"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
) -> WeightedSum:
    """`score_error` as in TinyBERT's published code. Queries at padding count like others, scores of -100 and less are
    treated as masked, and the mean is over all positions. The value depends on the amount of padding in a batch."""

    def error(
        student: Pair, teacher: Pair, mask: Int[Array, "b l"], everything: Int[Array, "b l"]
    ) -> Float[Array, "b l"]:
        student_out, teacher_out = (scores(*pair, everything) for pair in (student, teacher))
        student_out, teacher_out = (
            jnp.where((mask[:, None, None] > 0) & (x > -100), x, 0.0) for x in (student_out, teacher_out)
        )
        return jnp.sum(jnp.square(student_out - teacher_out), axis=(1, 3)) / mask.shape[1] ** 2

    everything = kept(jnp.ones_like(mask), weights)
    ours, theirs = (student_queries, student_keys), (teacher_queries, teacher_keys)
    return over_heads(error, ours, theirs, (mask, everything), weights[:, None], ours[0].shape[2])


def relation(
    student_one: Float[Array, "b l h s"],
    student_two: Float[Array, "b l h s"],
    teacher_one: Float[Array, "b l g t"],
    teacher_two: Float[Array, "b l g t"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
    heads: int,
) -> WeightedSum:
    """KL(teacher || student) of the relations between the tokens of a text: softmax(A B' / sqrt(d)). The vectors of all
    heads are concatenated and split again into `heads` relation heads of width d. The mean over these heads, per real
    token (MiniLM v2, Wang et al. 2021, eq. 3 to 5).

    With queries and keys and the model's own heads it is the attention term of MiniLM v1 (Wang et al. 2020, eq. 5),
    with values and values its value relation (eq. 7). Both widths must be divisible by `heads`; nothing else has to
    match.
    """
    mask = kept(mask, weights)

    def divergence(student: Pair, teacher: Pair, mask: Int[Array, "b l"]) -> Float[Array, "b l"]:
        student_out, teacher_out = (log_map(scores(*pair, mask), mask) for pair in (student, teacher))
        return jnp.sum(jnp.exp(teacher_out) * (teacher_out - student_out), axis=(1, 3))

    ours, theirs = (student_one, student_two), (teacher_one, teacher_two)
    return over_heads(divergence, ours, theirs, (mask,), mask * weights[:, None], heads)


def token_ranking(
    student_queries: Float[Array, "b l h s"],
    student_keys: Float[Array, "b l h s"],
    teacher_queries: Float[Array, "b l g t"],
    teacher_keys: Float[Array, "b l g t"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
    top: int,
) -> WeightedSum:
    """How far the student's ranking of a text's tokens is from the teacher's: for all pairs of the teacher's `top`
    tokens, [CLS] aside, with ranks i < j, the sum of (j - i) log2(1 + exp(x_j - x_i)), divided by the square of their
    number (LambdaLoss ARP2, Wang et al. 2018, as in the published code of ToP, Li et al. 2023).

    x is the attention that the student gives a token, averaged over its heads and the real queries. In the published
    code queries at padding count, and a text with fewer tokens has pairs with padding.
    """
    mask = kept(mask, weights)
    theirs = jax.lax.stop_gradient(attention_received(teacher_queries, teacher_keys, mask))
    first = ranking(theirs, mask > 0, min(top + 1, mask.shape[1]))[:, 1:]
    ours = attention_received(student_queries, student_keys, mask)
    x, real = (jnp.take_along_axis(array, first, axis=1) for array in (ours, mask > 0))
    count = jnp.sum(real, axis=1)
    rank = jnp.arange(first.shape[1])
    farther = jnp.maximum(rank[None, :] - rank[:, None], 0)[None]
    pairs = farther * jax.nn.softplus(x[:, None, :] - x[:, :, None]) / jnp.log(2.0)
    both = real[:, :, None] & real[:, None, :]
    return weighted(jnp.sum(jnp.where(both, pairs, 0.0), axis=(1, 2)) / jnp.maximum(count, 1) ** 2, weights)


@jax.checkpoint
def attention_received(
    queries: Float[Array, "b l h k"], keys: Float[Array, "b l h k"], mask: Int[Array, "b l"]
) -> Float[Array, "b l"]:
    """The attention that each token gets, averaged over the heads and the real queries. The backward pass computes it
    again, so no attention map is kept."""
    probabilities = jnp.exp(log_map(scores(queries, keys, mask), mask))
    return significance(probabilities, mask > 0, "all") / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]


def attention_cross_entropy_with_padding(
    student_queries: Float[Array, "b l h s"],
    student_keys: Float[Array, "b l h s"],
    teacher_queries: Float[Array, "b l h t"],
    teacher_keys: Float[Array, "b l h t"],
    mask: Int[Array, "b l"],
    weights: Float[Array, " b"],
) -> WeightedSum:
    """Cross-entropy of attention maps as in MobileBERT's published code: -sum p log q over the keys, with the teacher's
    p and the student's q. This is the divergence of `relation` plus the teacher's entropy. Queries at padding count
    like others, and the mean is over all queries and heads. The value depends on the amount of padding in a batch."""

    def crossed(
        student: Pair, teacher: Pair, mask: Int[Array, "b l"], everything: Int[Array, "b l"]
    ) -> Float[Array, "b l"]:
        student_out, teacher_out = (log_map(scores(*pair, everything), mask) for pair in (student, teacher))
        return -jnp.sum(jnp.exp(teacher_out) * student_out, axis=(1, 3)) / mask.shape[1]

    everything = kept(jnp.ones_like(mask), weights)
    ours, theirs = (student_queries, student_keys), (teacher_queries, teacher_keys)
    return over_heads(crossed, ours, theirs, (mask, everything), weights[:, None], ours[0].shape[2])


def log_map(scores: Float[Array, "b h l l"], mask: Int[Array, "b l"]) -> Float[Array, "b h l l"]:
    """The logarithm of the attention probabilities over the real keys."""
    return jax.nn.log_softmax(jnp.where(mask[:, None, None] > 0, scores, -1e9), axis=-1)


def kept(mask: Int[Array, "b l"], weights: Float[Array, " b"]) -> Int[Array, "b l"]:
    """The mask, with zeros in rows of weight 0."""
    return mask * (weights[:, None] > 0)


def scores(
    queries: Float[Array, "b l h k"], keys: Float[Array, "b l h k"], mask: Int[Array, "b l"]
) -> Float[Array, "b h l l"]:
    """Queries times keys, divided by the square root of the head's width, in float32. Padding counts as zeros."""
    real = mask[:, :, None, None] > 0
    queries, keys = (jnp.where(real, x.astype(jnp.float32), 0.0) for x in (queries, keys))
    return jnp.einsum("bqhk,bmhk->bhqm", queries * queries.shape[-1] ** -0.5, keys)
