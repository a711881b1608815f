"""What holds of every loss: nothing depends on padding, on filler rows or on the number of devices, and the teacher
learns nothing."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bertjax.distill import losses
from tests.tolerances import SAME_MATHS

LENGTHS = np.array([6, 2, 4, 1, 3, 5, 6, 2])
MASK = (np.arange(6) < LENGTHS[:, None]).astype(np.int32)
ROWS = np.array([1, 1, 0.5, 1, 2, 1, 1, 1], np.float32)


def of_rows(loss: Any) -> Any:
    return lambda s, t, mask, rows: loss(s[0][:, 0], t[0][:, 0], rows)


def of_tokens(loss: Any) -> Any:
    return lambda s, t, mask, rows: loss(s[0], t[0], mask * rows[:, None])


def of_texts(loss: Any) -> Any:
    return lambda s, t, mask, rows: loss(*s, *t, mask, rows)


class Case(NamedTuple):
    loss: Any
    """Of the arrays of student and of teacher, [8, 6, ...] each, the mask and the weights of rows."""
    student: tuple[tuple[int, ...], ...] = ((4,),)
    teacher: tuple[tuple[int, ...], ...] = ((4,),)
    reads_padding: bool = False


HEADS: dict[str, Any] = {"student": ((3, 4), (3, 4)), "teacher": ((3, 8), (3, 8))}
CASES = {
    "soft_targets": Case(of_rows(losses.soft_targets)),
    "soft_cross_entropy": Case(of_rows(losses.soft_cross_entropy)),
    "binary_soft_targets": Case(of_rows(losses.binary_soft_targets)),
    "span_soft_targets": Case(of_texts(losses.span_soft_targets), ((2,),), ((2,),)),
    "squared_error": Case(of_tokens(losses.squared_error)),
    "matched_error": Case(
        lambda s, t, mask, rows: losses.matched_error(s, t, {}, jnp.array([True, False, True]), mask * rows[:, None]),
        student=((4,),) * 3,
        teacher=((4,),) * 2,
    ),
    "cosine": Case(of_tokens(losses.cosine)),
    "similarity_error": Case(of_rows(losses.similarity_error)),
    "similarity_divergence": Case(of_rows(partial(losses.similarity_divergence, temperature=0.3))),
    "direction_error": Case(of_rows(losses.direction_error)),
    "feature_error": Case(of_tokens(losses.feature_error)),
    "score_error": Case(of_texts(losses.score_error), **HEADS),
    "score_error_with_padding": Case(of_texts(losses.score_error_with_padding), **HEADS, reads_padding=True),
    "attention_cross_entropy_with_padding": Case(
        of_texts(losses.attention_cross_entropy_with_padding), **HEADS, reads_padding=True
    ),
    "relation": Case(of_texts(partial(losses.relation, heads=6)), **HEADS),
    "token_ranking": Case(of_texts(partial(losses.token_ranking, top=3)), **HEADS),
}


def test_every_loss_is_here():
    formulas = {
        name
        for name, function in vars(losses).items()
        if callable(function) and getattr(function, "__module__", "") == losses.__name__
    }
    assert formulas - {"similarities", "scores", "log_map", "kept", "projected", "attention_received"} == set(CASES)


def arrays(shapes: tuple[tuple[int, ...], ...], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*MASK.shape, *shape)).astype(np.float32) for shape in shapes]


def computed(case: Case, *given: Any) -> Any:
    """Sum, weight, and the gradients to student and teacher."""
    value = jax.value_and_grad(case.loss, argnums=(0, 1), has_aux=True)
    return jax.tree.map(np.asarray, jax.jit(value)(*given))


@pytest.mark.parametrize("name", CASES)
def test_neither_padding_nor_filler_nor_devices_change_a_loss_and_no_teacher_learns(name: str):
    case = CASES[name]
    given = arrays(case.student, 0), arrays(case.teacher, 1), MASK, ROWS
    (total, weight), (gradient, of_teacher) = computed(case, *jax.tree.map(jnp.asarray, given))
    assert total > 0
    assert any(leaf.any() for leaf in gradient)
    assert not any(leaf.any() for leaf in of_teacher)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = computed(case, *jax.device_put(given, NamedSharding(mesh, PartitionSpec("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), spread[0], (total, weight))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), spread[1][0], gradient)

    columns = 0 if case.reads_padding else 2
    spoiled = [[garbage(x, columns, case.reads_padding) for x in side] for side in given[:2]]
    mask = np.pad(MASK, ((0, 1), (0, columns)))
    mask[-1, :3] = 1
    other = computed(case, *jax.tree.map(jnp.asarray, (*spoiled, mask, np.append(ROWS, np.float32(0)))))
    np.testing.assert_allclose(other[0], (total, weight), **SAME_MATHS)
    for found, expected in zip(other[1][0], gradient, strict=True):
        np.testing.assert_allclose(found[:8, :6], expected, **SAME_MATHS)
        assert not found[8:].any()
        assert not found[:, 6:].any()


def garbage(x: np.ndarray, columns: int, reads_padding: bool) -> np.ndarray:
    """With numbers that are none in padding, in more columns of it, and in one more row."""
    x = np.pad(x, ((0, 1), (0, columns), *[(0, 0)] * (x.ndim - 2)), constant_values=np.nan)
    if not reads_padding:
        x[:8, :6][MASK == 0] = np.nan
    return x


@pytest.mark.parametrize("name", ["soft_targets", "soft_cross_entropy", "binary_soft_targets", "span_soft_targets"])
def test_who_says_what_the_teacher_says_learns_nothing(name: str):
    """At temperature 1 a divergence from oneself is 0, a cross-entropy with oneself the entropy."""
    case = CASES[name]
    given = arrays(case.student, 0), arrays(case.student, 0), MASK, ROWS
    (total, _), (gradient, _) = computed(case, *jax.tree.map(jnp.asarray, given))
    p = np.exp(given[0][0][:, 0])
    p /= p.sum(-1, keepdims=True)
    entropy = float(-(p * np.log(p)).sum(-1) @ ROWS) if name == "soft_cross_entropy" else 0.0
    np.testing.assert_allclose(total, entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[0], 0, atol=1e-6)
