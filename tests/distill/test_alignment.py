"""Projections that begin with what is alike: rotations are found, and nothing of the student is forgotten."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from bertjax.bundle import Bundle, init_params
from bertjax.distill.alignment import procrustes, second_moments
from bertjax.distill.terms import HiddenStates
from bertjax.model import BertConfig
from bertjax.params import map_with_path
from bertjax.text.batches import eval_batches, inputs_of
from tests.text.tiny import made_up, random_lengths

RNG = np.random.default_rng(0)


def moments(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    return ours.T @ ours, ours.T @ theirs, float((theirs**2).sum())


def test_a_rotation_into_more_dimensions_is_found_with_its_scale():
    states = RNG.normal(size=(50, 6)) * np.arange(1, 7)
    rotation = np.linalg.qr(RNG.normal(size=(10, 6)))[0].T
    np.testing.assert_allclose(procrustes(*moments(states, 3 * states @ rotation)), 3 * rotation, atol=1e-5)


def test_of_equal_widths_it_is_scipys_and_keeps_the_length_of_what_does_not_agree():
    ours, theirs = RNG.normal(size=(50, 6)), RNG.normal(size=(50, 6))
    found = procrustes(*moments(ours, theirs))
    np.testing.assert_allclose(np.linalg.norm(ours @ found), np.linalg.norm(theirs), rtol=1e-5)
    rotation, _ = orthogonal_procrustes(ours, theirs)
    np.testing.assert_allclose(found / np.linalg.norm(found, 2), rotation, atol=1e-5)


def test_a_wider_student_gets_least_squares():
    ours, theirs = RNG.normal(size=(50, 8)), RNG.normal(size=(50, 5))
    expected = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    np.testing.assert_allclose(procrustes(*moments(ours, theirs)), expected, atol=1e-5)


CONFIG = BertConfig(
    vocab_size=512,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
    initializer_range=0.3,
)
STUDENT = Bundle(CONFIG, init_params(CONFIG, 0))


def transpose(params: dict, order: np.ndarray) -> dict:
    """The same model with its dimensions in another order: of all rotations those that LayerNorm lets through."""

    def turn(path: str, leaf: np.ndarray) -> np.ndarray:
        if path.endswith(("embedding", "layer_norm/scale", "layer_norm/bias")):
            return leaf[..., order]
        if "output/" in path:
            return leaf[..., order]
        return leaf[order] if path.endswith("kernel") else leaf

    return map_with_path(turn, params)


@pytest.mark.parametrize("start", ["procrustes", "random"])
def test_the_loss_of_a_turned_teacher_begins_at_zero(start):
    encoded = made_up(random_lengths(40, 9))
    object.__setattr__(encoded, "ids", encoded.ids % 512)
    [batch] = eval_batches(encoded, 40, (9,))
    teacher = Bundle(CONFIG, transpose(STUDENT.params, RNG.permutation(12)))
    term = HiddenStates(preset="official", start=start)  # which has a projection at any width
    extra = term.fit(term.parameters(jax.random.key(0), CONFIG, CONFIG), STUDENT, teacher, [batch])
    ours, theirs = (jax.jit(b.model.apply)({"params": b.params}, *inputs_of(batch)) for b in (STUDENT, teacher))
    total, weight = jax.jit(term.build(CONFIG, CONFIG))(extra, ours, theirs, batch)
    assert (total / weight < 1e-8) == (start == "procrustes")


def test_garbage_and_padding_change_no_moment():
    encoded = made_up(random_lengths(6, 9))
    object.__setattr__(encoded, "ids", encoded.ids % 512)
    [plain] = eval_batches(encoded, 6, (9,))
    [padded] = eval_batches(encoded, 8, (12,))
    pairs = ((0, 0), (2, 1))
    found = [second_moments(STUDENT, dataclasses.replace(STUDENT), pairs, [batch]) for batch in (plain, padded)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
