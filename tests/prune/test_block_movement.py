"""Block movement: scores of neurons, heads and blocks against torch's autograd, and what is removed at the end."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bertjax.errors import UserError
from bertjax.learn.transform import Update
from bertjax.model import build
from bertjax.params import flatten, unflatten
from bertjax.prune import BlockMovement
from bertjax.prune.movement import LAYERS
from bertjax.quantize.transforms import FakeQuantize
from tests.learn.test_composition import WEIGHTS, learning, shipped, trained
from tests.model.tiny import TINY, apply, tiny, tiny_batch
from tests.prune.test_surgery import CLOSE, MODELS
from tests.tolerances import SAME_MATHS

LAST = Update(jnp.int32(9), jax.random.key(0), 10, TINY)
HEADS, BLOCKS = BlockMovement(sparsity=0.5, begin=0.0), BlockMovement(sparsity=0.5, begin=0.0, attention=4)


def scored(part: BlockMovement, config: Any, params: Any, seed: int = 0) -> tuple[Any, Any]:
    """Random scores and the masks of the last update."""
    extra, state = part.init(jax.random.key(0), config, params)
    rng = np.random.default_rng(seed)
    scores = {path: jnp.asarray(rng.normal(size=one.shape), jnp.float32) for path, one in flatten(extra).items()}
    return unflatten(scores), part.advance(LAST._replace(config=config), params, unflatten(scores), state)


def test_the_score_of_a_neuron_gets_the_gradient_of_both_its_matrices():
    """Against torch: masks expanded by repetition, with the identity backwards."""
    model, params = tiny()
    extra, state = scored(HEADS, model.config, params)
    target = np.random.default_rng(1).normal(size=(12, 10)).astype(np.float32)

    def loss(extra: Any) -> Any:
        applied = flatten(HEADS.apply(LAST, params, extra, state)[0])
        site = "encoder/layer_0/ffn"
        inner, outer = applied[f"{site}/intermediate/kernel"], applied[f"{site}/output/kernel"]
        return jnp.sum((inner - target) ** 2) + jnp.sum((outer - target.T) ** 2)

    ours = flatten(jax.grad(loss)(extra))["layer_0/neurons"]
    flat = flatten(params)
    inner, outer = (
        torch.tensor(np.asarray(flat[f"encoder/layer_0/ffn/{name}/kernel"])) for name in ("intermediate", "output")
    )
    mask = torch.tensor(np.asarray(flatten(state["masks"])["layer_0/neurons"], np.float32), requires_grad=True)
    loss_there = ((inner * mask[None] - torch.tensor(target)) ** 2).sum()
    (loss_there + ((outer * mask[:, None] - torch.tensor(target.T)) ** 2).sum()).backward()
    assert mask.grad is not None
    np.testing.assert_allclose(ours, mask.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_the_score_of_a_block_is_the_sum_over_its_weights():
    model, params = tiny()
    extra, state = scored(BLOCKS, model.config, params)
    path = "encoder/layer_1/attention/value/kernel"
    ours = jax.grad(lambda extra: jnp.sum(flatten(BLOCKS.apply(LAST, params, extra, state)[0])[path] ** 2))(extra)
    weights = np.asarray(flatten(params)[path])
    mask = np.kron(np.asarray(flatten(state["masks"])["layer_1/value"]), np.ones((4, 4)))
    by_weight = 2 * weights * mask * weights
    expected = by_weight.reshape(3, 4, 3, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(flatten(ours)["layer_1/value"], expected, **SAME_MATHS)


@pytest.mark.parametrize("part", [HEADS, BLOCKS], ids=["heads", "blocks"])
def test_as_many_stay_as_asked_with_the_highest_scores_of_all_layers(part: BlockMovement):
    model, params = tiny()
    extra, state = scored(part, model.config, params)
    for kind in (True, False):
        masks, scores = (
            np.concatenate([np.ravel(a) for p, a in flatten(t).items() if p.endswith("neurons") == kind])
            for t in (state["masks"], extra)
        )
        assert masks.sum() == masks.size - int(0.5 * masks.size)
        assert scores[masks].min() > scores[~masks].max()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("part", [HEADS, BLOCKS], ids=["heads", "blocks"])
def test_what_is_removed_equals_what_was_masked(name: str, part: BlockMovement):
    model, params = tiny(**MODELS[name])
    extra, state = scored(part, model.config, params, 3)
    masked = part.apply(LAST, params, extra, state)[0]
    config, cut = part.finish(model.config, params, extra, state)
    config, cut = part.removal(config, cut, extra, state)(config, cut)
    ours, theirs = apply(build(config), cut, tiny_batch()), apply(model, masked, tiny_batch())
    np.testing.assert_allclose(ours.logits, theirs.logits, **CLOSE)
    assert sum(step.intermediate_size for step in config.depth_steps()) < 10 * 3


@pytest.mark.parametrize(("attention", "largest"), [("heads", 4 * 4 * 12), (4, 2 * 12)])
def test_soft_movement_ends_at_the_fraction_of_weights_that_was_asked(attention: Any, largest: int):
    """Scores fall at different speeds. Of the matrices' weights half stays, and at most one more part."""
    part = BlockMovement(sparsity=0.5, method="soft", begin=0.0, end=0.5, attention=attention, every=10)
    model, params = tiny()
    extra, state = part.init(jax.random.key(0), model.config, params)
    rng = np.random.default_rng(0)
    pull = {p: jnp.asarray(rng.uniform(0, 2, one.shape), jnp.float32) for p, one in flatten(extra).items()}

    @jax.jit
    def step(extra: Any, state: Any, number: Any) -> Any:
        update = Update(number, jax.random.key(0), 400, model.config)
        state = part.advance(update, params, extra, state)
        gradient = jax.grad(lambda e: part.penalties(update, params, e, state)["sparsity"])(extra)
        loss = lambda x, g, up: x - 0.3 * (30 * g - 0.02 * up)  # noqa: E731
        return jax.tree.map(loss, extra, gradient, unflatten(pull)), state

    for number in range(400):
        extra, state = step(extra, state, jnp.int32(number))
    assert 0 <= left(part, model.config, params, extra, state) - 0.5 < largest / WEIGHTS_OF_LAYERS


WEIGHTS_OF_LAYERS = 2 * (4 * 12 * 12 + 2 * 12 * 10)


def left(part: BlockMovement, config: Any, params: Any, extra: Any, state: Any) -> float:
    """The fraction of the weights of the layers' matrices that ship."""
    shipped = flatten(part.finish(config, params, extra, state)[1])
    return sum(int(np.count_nonzero(leaf)) for p, leaf in shipped.items() if re.search(LAYERS, p)) / WEIGHTS_OF_LAYERS


def test_heads_that_stay_in_any_case_count_as_kept():
    """All heads are below all neurons, and one stays in each layer: so many neurons fewer do."""
    part = BlockMovement(sparsity=0.7, method="soft", begin=0.0)
    model, params = tiny()
    extra, state = scored(part, model.config, params)
    low = {path: one - 100.0 * path.endswith("heads") for path, one in flatten(extra).items()}
    state = part.advance(LAST, params, unflatten(low), state)
    assert all(int(mask.sum()) == 1 for path, mask in flatten(state["masks"]).items() if path.endswith("heads"))
    assert 0 <= left(part, model.config, params, extra, state) - 0.3 < 2 * 12 / WEIGHTS_OF_LAYERS


@pytest.mark.slow
def test_removed_rounded_and_distilled_in_one_step():
    part = BlockMovement(sparsity=0.5, begin=0.0, end=0.5)
    what = learning((part, FakeQuantize(WEIGHTS, activations="token", learned=True)))
    state = trained(what)
    config, params = shipped(what, state)
    masks = flatten(state.state["transforms"]["0_BlockMovement"]["masks"])
    for number, step in enumerate(config.depth_steps()):
        assert step.shape == (masks[f"layer_{number}/heads"].sum(), masks[f"layer_{number}/neurons"].sum())
    assert np.isfinite(apply(build(config), params, tiny_batch()).logits).all()


def test_what_makes_no_sense_is_refused():
    model, params = tiny()
    with pytest.raises(UserError, match=r"blocks of 5 do not fit query of layer 0, which is 12 x 12"):
        BlockMovement(attention=5).init(jax.random.key(0), model.config, params)
    with pytest.raises(UserError, match="expected heads, or the size of a block"):
        BlockMovement(attention=0)
