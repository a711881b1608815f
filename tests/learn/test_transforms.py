"""Transforms inside the training step: whose trees they own, when their state advances, and what cannot be combined."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.distill.terms import HardLabels
from bertjax.engine.optimiser import build_optimiser
from bertjax.errors import UserError
from bertjax.learn import Forward, Frozen, Loss, Penalty, Transform
from bertjax.learn.assemble import Learning, assemble, loss_names
from bertjax.learn.step import Objective, Term, init_state, make_step
from bertjax.learn.task_losses import TaskLoss
from bertjax.model.products import plain_product
from bertjax.params import flatten
from bertjax.prune.transforms import KeepZeros
from bertjax.quantize.transforms import FakeQuantize
from bertjax.quantized.formats import Format
from bertjax.recipes.optimiser import Optimiser
from tests.model.tiny import tiny, tiny_batch

KEY = jax.random.key(0)
QUERY = "encoder/layer_0/attention/query/kernel"
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def student() -> Bundle:
    model, params = tiny(num_hidden_layers=1, **NO_DROPOUT)
    return Bundle(model.config, params)


def labelled() -> dict[str, Any]:
    return tiny_batch((7, 4, 5, 3)) | {"labels": np.array([0, 2, 1, 1]), "weights": np.ones(4, np.float32)}


def learning(*transforms: Transform, losses: tuple[Loss, ...] = (HardLabels(),), **options: Any) -> Learning:
    return assemble(student(), loss_names(losses), steps=10, seed=0, transforms=transforms, **options)


def trained(learning: Learning, steps: int = 1, micro_batches: int = 1) -> tuple[Any, list[dict[str, float]]]:
    """The state after so many steps, and the metrics of each."""
    optimiser = build_optimiser(Optimiser(), 10, {"params": learning.params, "extra": learning.extra})
    step = jax.jit(make_step(learning.objective, optimiser, KEY, micro_batches))
    state, found = init_state(learning.params, learning.extra, learning.state, optimiser), []
    for _ in range(steps):
        state, metrics = step(state, labelled(), learning.constants)
        found.append({name: float(value) for name, value in metrics.items()})
    return state, found


@dataclass(frozen=True)
class Counting(Transform):
    """Counts the calls of `advance`, and remembers the number of the step."""

    start: int = 0

    def init(self, key, config, params):
        return {}, {"calls": jnp.float32(self.start), "step": jnp.int32(-1)}

    def advance(self, update, params, extra, state):
        return {"calls": state["calls"] + 1, "step": update.step}

    def penalties(self, update, params, extra, state):
        return {"calls": state["calls"]}


@dataclass(frozen=True)
class Shifted(Transform):
    """Adds a trained number to the bias of the head."""

    def init(self, key, config, params):
        return {"shift": jnp.zeros(())}, {}

    def apply(self, update, params, extra, state):
        bias = params["classifier"]["bias"] + extra["shift"] * jnp.arange(3.0)
        return {**params, "classifier": {**params["classifier"], "bias": bias}}, Forward()


@dataclass(frozen=True)
class Projected(TaskLoss):
    """A loss with a parameter of its own."""

    def parameters(self, key, student, teacher):
        return {"scale": jnp.ones(())}

    def build(self, student, teacher):
        return lambda extra, student_out, teacher_out, batch: (extra["scale"] * student_out.logits.sum(), jnp.ones(()))


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_state_advances_once_per_update_and_before_the_gradient(micro_batches: int):
    state, found = trained(learning(Counting()), steps=3, micro_batches=micro_batches)
    counted = state.state["transforms"]["0_Counting"]
    assert (float(counted["calls"]), int(counted["step"])) == (3.0, 2)
    assert [metrics["loss/0_Counting/calls"] for metrics in found] == pytest.approx([1.0, 2.0, 3.0])


def test_every_micro_batch_sees_the_state_of_its_update():
    """Without `assemble`: a term that is the state itself is the same in one micro-batch and in four."""

    def terms(params, extra, state, batch, update, key):
        rows = jnp.float32(len(batch["weights"]))
        return {"seen": Term(state["calls"] * rows + 0 * params["w"], rows)}, {}

    def advance(update, params, extra, state, constants):
        return {"calls": state["calls"] + 1}

    optimiser = build_optimiser(Optimiser(), 10, {"params": {"w": jnp.ones(())}, "extra": {}})
    for parts in (1, 4):
        step = jax.jit(make_step(Objective(terms, advance), optimiser, KEY, parts))
        state = init_state({"w": jnp.ones(())}, {}, {"calls": jnp.zeros(())}, optimiser)
        for number in (1, 2):
            state, metrics = step(state, {"weights": np.ones(8, np.float32)}, {})
            assert float(metrics["loss/seen"]) == float(state.state["calls"]) == number


def test_trees_are_keyed_by_position_and_class():
    learnt = learning(Shifted(), KeepZeros(), Counting(5), Shifted(), losses=(HardLabels(), Projected()))
    extra, state = flatten(learnt.extra), flatten(learnt.state)
    transforms = {"transforms/0_Shifted/shift", "transforms/3_Shifted/shift"}
    assert set(extra) == {"losses/1_Projected/scale", *transforms}
    assert {path.split("/")[1] for path in state} == {"1_KeepZeros", "2_Counting"}
    assert float(state["transforms/2_Counting/calls"]) == 5
    after, (metrics,) = trained(learnt)
    assert flatten(after.extra).keys() == extra.keys()
    assert flatten(after.state).keys() == state.keys()
    assert all(float(leaf) != float(extra[path]) for path, leaf in flatten(after.extra).items())
    assert {"loss/0_HardLabels", "loss/1_Projected", "loss/2_Counting/calls"} <= metrics.keys()


def test_without_parts_that_own_any_there_are_no_trees():
    learnt = learning(Frozen())
    assert (learnt.extra, learnt.state) == ({}, {})


@dataclass(frozen=True)
class OwnProduct(Transform):
    """Computes all products, as the model itself does."""

    def apply(self, update, params, extra, state):
        return params, Forward(product=plain_product)


def test_two_transforms_that_compute_the_products_are_refused_in_one_sentence():
    trained(learning(OwnProduct(), Counting()))
    with pytest.raises(UserError) as refused:
        trained(learning(OwnProduct(), Counting(), OwnProduct()))
    expected = "transforms: 2_OwnProduct is the second to change how products are computed; give one."
    assert str(refused.value) == expected


def test_nothing_follows_a_transform_that_rounds_to_integers():
    rounding = FakeQuantize(activations="none")
    with pytest.raises(UserError, match="KeepZeros follows FakeQuantize, which rounds to integers; give FakeQuantize"):
        learning(rounding, KeepZeros())
    with pytest.raises(UserError, match="FakeQuantize follows FakeQuantize"):
        learning(KeepZeros(), rounding, rounding)
    learning(KeepZeros(), rounding)


@pytest.mark.parametrize("scheme", ["symmetric", "ternary", "asymmetric"])
def test_zeros_of_a_mask_are_not_rounded_to_other_values(scheme: Any):
    rounding = FakeQuantize(((r"/query/kernel$", Format(2, scheme)),), activations="none")
    learning(KeepZeros("/key/kernel$"), rounding)  # zeros in other matrices than those that are rounded
    masks = KeepZeros("/query/kernel$")
    if scheme != "asymmetric":
        learning(masks, rounding)
        return
    with pytest.raises(
        UserError,
        match=rf"KeepZeros keeps weights of {QUERY} at 0, and the format that FakeQuantize .* is asymmetric",
    ):
        learning(masks, rounding)


def test_frozen_parameters_are_in_neither_gradient_nor_optimiser_state():
    learnt, free = learning(Frozen("^(embeddings|encoder)/")), learning()
    frozen = {path for path in flatten(free.params) if path.startswith(("embeddings/", "encoder/"))}
    assert set(flatten(learnt.params)) == set(flatten(free.params)) - frozen
    assert set(flatten(learnt.constants["frozen"])) == frozen
    state, (metrics,) = trained(learnt)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state.opt)[0]]
    assert paths
    assert not any("embeddings" in path or "encoder" in path for path in paths)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(learnt.params))

    # The gradient of what is left is the one that it has in a model of which nothing is frozen.
    _, (whole,) = trained(free)
    assert metrics["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert 0 < metrics["gradient_norm"] < whole["gradient_norm"]

    assert learnt.finish is not None
    _, shipped = learnt.finish(state.params, state.extra, state.state)
    before = flatten(student().params)
    assert flatten(shipped).keys() == before.keys()
    for path, leaf in flatten(shipped).items():
        assert np.array_equal(leaf, before[path]) == (path in frozen), path


def test_a_model_that_is_frozen_whole_has_nothing_to_train():
    with pytest.raises(UserError, match="every parameter is frozen"):
        learning(Frozen("."))
    with pytest.raises(UserError, match=r"'\^nowhere/' matches no parameter"):
        learning(Frozen("^nowhere/"))


@dataclass(frozen=True)
class Spread(Penalty):
    """The sum of squares of the head's bias; the weight grows."""

    def value(self, update, params, extra, state):
        return jnp.sum(jnp.square(params["classifier"]["bias"]))

    def weight_at(self, update):
        return self.weight * (1 + 2 * update.step / update.total)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_penalty_counts_once_whatever_the_batch_is_cut_into(micro_batches: int):
    learnt = learning(penalties=(Spread(3.0),))
    _, found = trained(learnt, 2, micro_batches)
    bias = np.asarray(student().params["classifier"]["bias"])
    assert found[0]["loss/0_Spread"] == pytest.approx(3.0 * np.square(bias).sum(), rel=1e-5)
    assert found[1]["loss/0_Spread"] == pytest.approx(3.0 * 1.2 * np.square(bias).sum(), rel=1e-2)
