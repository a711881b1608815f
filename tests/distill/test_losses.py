"""Distillation losses against torch and NumPy loops, and what must not change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from bertjax.distill import losses

RNG = np.random.default_rng(0)
WEIGHTS = np.array([1, 1, 0, 1, 0.5], np.float32)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def mean(pair) -> float:
    return float(pair[0] / pair[1])


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_soft_targets_are_hintons_in_torch(temperature: float):
    student, teacher = numbers(6, 3), numbers(6, 3)
    expected = temperature**2 * functional.kl_div(
        functional.log_softmax(torch.tensor(student) / temperature, -1),
        functional.softmax(torch.tensor(teacher) / temperature, -1),
        reduction="batchmean",
    )
    ours = losses.soft_targets(jnp.array(student), jnp.array(teacher), jnp.ones(6), temperature)
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-5)


def test_the_gradient_of_soft_targets_is_the_difference_of_probabilities():
    student, teacher, t = jnp.array(numbers(5, 4)), jnp.array(numbers(5, 4)), 3.0
    gradient = jax.grad(lambda s: losses.soft_targets(s, teacher, jnp.array(WEIGHTS), t)[0])(student)
    expected = t * (jax.nn.softmax(student / t) - jax.nn.softmax(teacher / t)) * WEIGHTS[:, None]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_soft_targets_of_independent_labels_are_a_loop_of_binary_ones():
    student, teacher, t = numbers(5, 3), numbers(5, 3), 2.0
    total = 0.0
    for row in range(5):
        for label in range(3):
            p = 1 / (1 + np.exp(-teacher[row, label] / t))
            q = 1 / (1 + np.exp(-student[row, label] / t))
            total += WEIGHTS[row] * t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) / 3
    ours = losses.binary_soft_targets(jnp.array(student), jnp.array(teacher), jnp.array(WEIGHTS), t)
    np.testing.assert_allclose(ours[0], total, rtol=1e-5)
    np.testing.assert_allclose(ours[1], WEIGHTS.sum())


def test_squared_error_is_torchs_over_real_tokens():
    student, teacher = numbers(2, 4, 8), numbers(2, 4, 8)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    expected = functional.mse_loss(torch.tensor(student[mask > 0]), torch.tensor(teacher[mask > 0]))
    ours = losses.squared_error(jnp.array(student), jnp.array(teacher), jnp.array(mask))
    np.testing.assert_allclose(mean(ours), expected, rtol=1e-5)


def test_spans_are_soft_targets_over_the_real_positions_alone():
    student, teacher, t = numbers(3, 6, 2), numbers(3, 6, 2), 2.0
    lengths, total = (6, 4, 3), 0.0
    for row, length in enumerate(lengths):
        for side in (0, 1):
            p = np.exp(teacher[row, :length, side] / t)
            q = np.exp(student[row, :length, side] / t)
            p, q = p / p.sum(), q / q.sum()
            total += t**2 * (p * np.log(p / q)).sum() / 2
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int32)
    ours = losses.span_soft_targets(jnp.array(student), jnp.array(teacher), jnp.array(mask), jnp.ones(3), t)
    np.testing.assert_allclose(ours[0], total, rtol=1e-4)
