"""Losses that look inside: cosine, patience, attention scores and relations, against loops in NumPy and torch that know
each text at its own length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from bertjax.distill import losses
from bertjax.measure.cost import peak_memory

RNG = np.random.default_rng(3)
LENGTHS = (5, 2, 4)
MASK = (np.arange(6) < np.array(LENGTHS)[:, None]).astype(np.int32)
ROWS = np.array([1.0, 1.0, 0.5], np.float32)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def heads(width: int, count: int) -> np.ndarray:
    return numbers(3, 6, count, width // count)


def mean(pair) -> float:
    return float(pair[0] / pair[1])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cosine_is_torchs_over_real_tokens():
    student, teacher = numbers(3, 6, 8), numbers(3, 6, 8)
    real = MASK > 0
    chosen = torch.tensor(student[real]), torch.tensor(teacher[real])
    expected = torch.nn.CosineEmbeddingLoss()(*chosen, torch.ones(len(chosen[0])))
    ours = losses.cosine(jnp.array(student), jnp.array(teacher), jnp.array(MASK, jnp.float32))
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-6)


def test_a_vector_of_zeros_has_no_direction_and_no_gradient_that_is_no_number():
    value, gradient = jax.value_and_grad(lambda s: losses.cosine(s, jnp.ones((1, 4)), jnp.ones(1))[0])(
        jnp.zeros((1, 4))
    )
    assert value == 1
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("normalised", [True, False])
def test_patience_is_torchs_mean_squared_error_of_first_rows(normalised: bool):
    student, teacher = numbers(4, 8), numbers(4, 8)
    a, b = torch.tensor(student), torch.tensor(teacher)
    expected = functional.mse_loss(functional.normalize(a), functional.normalize(b)) if normalised else None
    expected = functional.mse_loss(a, b) if expected is None else expected
    formula = losses.direction_error if normalised else losses.squared_error
    ours = formula(jnp.array(student), jnp.array(teacher), jnp.ones(4))
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-6)


def test_score_error_is_a_loop_over_texts_at_their_length():
    student, teacher = (heads(12, 3), heads(12, 3)), (heads(24, 3), heads(24, 3))
    total = 0.0
    for text, length in enumerate(LENGTHS):
        for head in range(3):
            s, t = (
                q[text, :length, head] @ k[text, :length, head].T / np.sqrt(q.shape[-1]) for q, k in (student, teacher)
            )
            # The mean over the real keys of each real query, and over the heads.
            total += ROWS[text] * ((s - t) ** 2).mean(axis=1).sum() / 3
    ours = losses.score_error(*map(jnp.array, (*student, *teacher, MASK, ROWS)))
    np.testing.assert_allclose(ours[0], total, rtol=1e-5)
    np.testing.assert_allclose(ours[1], (MASK.sum(1) * ROWS).sum())


def test_tinyberts_own_code_counts_padded_queries_and_divides_by_all_there_is():
    """Scores with the additive mask, all that is -100 or less set to 0 in both, and torch's mean over everything."""
    student, teacher = (heads(12, 3), heads(12, 3)), (heads(24, 3), heads(24, 3))
    masked = torch.tensor((1 - MASK)[:, None, None, :] * -10000.0)

    def scores(q, k):
        found = torch.einsum("bqhk,bmhk->bhqm", torch.tensor(q), torch.tensor(k)) / np.sqrt(q.shape[-1]) + masked
        return torch.where(found <= -1e2, torch.zeros_like(found), found)

    expected = functional.mse_loss(scores(*student), scores(*teacher))
    ours = losses.score_error_with_padding(*map(jnp.array, (*student, *teacher, MASK, np.ones(3, np.float32))))
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-5)


def loop_of_relations(student, teacher, relation_heads: int, weights: np.ndarray) -> tuple[float, float]:
    """Wang et al. 2021, eq. 3 to 5, text by text: the KL of softmax(A A' / sqrt(d)), mean over heads and real rows."""
    total, weight = 0.0, 0.0
    for text, length in enumerate(LENGTHS):
        for head in range(relation_heads):
            relations = []
            for a, b in (student, teacher):
                width = a.shape[-1] * a.shape[-2] // relation_heads
                cut = slice(head * width, (head + 1) * width)
                one, two = (x[text, :length].reshape(length, -1)[:, cut] for x in (a, b))
                relations.append(softmax(one @ two.T / np.sqrt(width)))
            s, t = relations
            total += weights[text] * (t * (np.log(t) - np.log(s))).sum() / relation_heads
        weight += weights[text] * length
    return total, weight


@pytest.mark.parametrize(("relation_heads", "teacher_heads"), [(3, 3), (6, 4), (1, 2), (12, 3)])
def test_relations_are_a_loop_over_texts_at_their_length(relation_heads: int, teacher_heads: int):
    student, teacher = (heads(12, 3), heads(12, 3)), (heads(24, teacher_heads), heads(24, teacher_heads))
    ours = losses.relation(*map(jnp.array, (*student, *teacher, MASK, ROWS)), heads=relation_heads)
    expected = loop_of_relations(student, teacher, relation_heads, ROWS)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_relation_of_queries_and_keys_is_the_divergence_of_attention():
    """With as many relation heads as the model has, MiniLM's second version contains the first's attention term."""
    student, teacher = (heads(12, 3), heads(12, 3)), (heads(12, 3), heads(12, 3))

    def attention(q, k):
        scores = torch.einsum("bqhk,bmhk->bhqm", torch.tensor(q), torch.tensor(k)) / 2
        return torch.softmax(scores.masked_fill(torch.tensor(MASK == 0)[:, None, None, :], -torch.inf), -1)

    divergence = functional.kl_div(attention(*student).log(), attention(*teacher), reduction="none")
    divergence = torch.where(torch.tensor(MASK == 0)[:, None, None, :], torch.zeros(()), divergence)
    expected = divergence.sum(-1).mean(1)[torch.tensor(MASK > 0)].mean()
    ours = losses.relation(*map(jnp.array, (*student, *teacher, MASK, np.ones(3, np.float32))), heads=3)
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-5)


def test_more_relation_heads_than_the_model_has_take_no_more_memory():
    shape, rows = jax.ShapeDtypeStruct((8, 128, 12, 32), jnp.float32), jax.ShapeDtypeStruct((8, 128), jnp.int32)
    weights = jax.ShapeDtypeStruct((8,), jnp.float32)

    def memory(count: int) -> int:
        gradient = jax.grad(lambda q, *rest: losses.relation(q, *rest, heads=count)[0])
        return peak_memory(jax.jit(gradient).lower(shape, shape, shape, shape, rows, weights)) or 0

    # Four times as many maps would be three times as much.
    assert 0 < memory(48) < 1.3 * memory(12)


@pytest.mark.parametrize("top", [2, 3, 20])
def test_token_ranking_is_a_double_loop_over_the_teachers_highest_ranks(top: int):
    student, teacher = (heads(12, 3), heads(12, 3)), (heads(24, 2), heads(24, 2))
    total = 0.0
    for text, length in enumerate(LENGTHS):

        def received(queries: np.ndarray, keys: np.ndarray, text: int = text, length: int = length) -> np.ndarray:
            """The attention that each token gets, the mean over heads and queries."""
            q, k = (x[text, :length].swapaxes(0, 1) for x in (queries, keys))
            return softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])).mean(axis=(0, 1))

        x, theirs = received(*student), received(*teacher)
        best = sorted(range(1, length), key=lambda i: -theirs[i])[:top]  # without [CLS]
        relevance = dict(zip(best, range(len(best), 0, -1), strict=True))
        for i in best:
            for j in best:
                if relevance[i] > relevance[j]:
                    pair = (relevance[i] - relevance[j]) * np.log2(1 + np.exp(x[j] - x[i]))
                    total += ROWS[text] * pair / len(best) ** 2
    ours = losses.token_ranking(*map(jnp.array, (*student, *teacher, MASK, ROWS)), top=top)
    np.testing.assert_allclose(ours[0], total, rtol=1e-5)
    np.testing.assert_allclose(ours[1], ROWS.sum())


def test_a_step_down_the_gradient_of_token_ranking_brings_the_ranking_nearer():
    """From queries and keys that rank tokens at random to those of the teacher's order."""
    student, teacher = (jnp.array(heads(12, 3)), jnp.array(heads(12, 3))), (heads(12, 3), heads(12, 3))
    rest = tuple(map(jnp.array, (*teacher, MASK, ROWS)))

    def order(queries: jax.Array, keys: jax.Array) -> np.ndarray:
        return np.argsort(-losses.attention_received(queries, keys, rest[2])[0, 1:5])

    @jax.jit
    def descend(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gradient = jax.grad(lambda pair: losses.token_ranking(*pair, *rest, top=20)[0])(pair)
        return jax.tree.map(lambda x, g: x - 3 * g, pair, gradient)

    assert (order(*student) != order(*rest[:2])).any()
    for _ in range(200):
        student = descend(student)
    np.testing.assert_array_equal(order(*student), order(*rest[:2]))
