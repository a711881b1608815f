"""What a transform observes of the student's output: sums over the whole batch, given to the next `advance`."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.distill.progressive import Progressive, layer_by_layer
from bertjax.distill.terms import SoftTargets
from bertjax.errors import UserError
from bertjax.learn import Loss, Transform
from bertjax.prune import LayerDrop
from tests.learn.test_composition import batch, learning, models, trained
from tests.model.tiny import apply
from tests.tolerances import SAME_MATHS

LOSSES: dict[str, Loss] = {"soft": SoftTargets()}


@dataclass(frozen=True)
class Energies(Transform):
    """Sums the squares of each unit of the last hidden state over real tokens."""

    units: int = 32

    def init(self, key: Any, config: Any, params: Any) -> Any:
        sums = {"tokens": jnp.zeros(()), "squares": jnp.zeros(config.hidden_size)}
        return {}, {"observed": sums, "seen": sums, "updates": jnp.int32(0)}

    def advance(self, update: Any, params: Any, extra: Any, state: Any) -> Any:
        return {**state, "seen": state["observed"], "updates": state["updates"] + 1}

    def observe(self, update: Any, output: Any, batch: Any) -> Any:
        real = batch["attention_mask"] * batch["weights"][:, None]
        squares = jnp.square(output.hidden_states[-1])
        return {"tokens": real.sum(), "squares": jnp.einsum("rth,rt->h", squares, real)}


def state_of(state: Any) -> Any:
    return state.state["transforms"]["0_Energies"]


def observed_after(steps: int, *others: Transform, **how: Any) -> Any:
    return state_of(trained(learning((Energies(), *others), LOSSES), steps, **how))


def test_the_sums_are_those_of_a_loop_over_rows_and_real_tokens():
    found = observed_after(1)["observed"]
    student, given = models()[0], batch(0)
    names = ("input_ids", "attention_mask", "token_type_ids")
    output = apply(student.model, student.params, {name: given[name] for name in names})
    tokens, squares = 0, np.zeros(student.config.hidden_size)
    for row, mask in zip(np.asarray(output.hidden_states[-1]), given["attention_mask"], strict=True):
        for position in range(mask.sum()):
            tokens, squares = tokens + 1, squares + row[position] ** 2
    assert found["tokens"] == tokens
    np.testing.assert_allclose(found["squares"], squares, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("micro_batches", "devices"), [(4, 1), (1, 8), (2, 8)])
def test_micro_batches_and_devices_observe_the_same(micro_batches: int, devices: int):
    whole, parts = observed_after(1), observed_after(1, micro_batches=micro_batches, devices=devices)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), whole, parts)


@pytest.mark.slow
def test_the_next_advance_sees_the_sums_of_the_update_before():
    first, second = observed_after(1), observed_after(2)
    assert first["seen"]["tokens"] == 0
    assert second["updates"] == 2
    jax.tree.map(np.testing.assert_array_equal, second["seen"], first["observed"])
    assert second["observed"]["tokens"] == batch(1)["attention_mask"].sum()


@pytest.mark.slow
def test_a_run_that_was_cut_observes_the_same_bits():
    what = learning((Energies(), LayerDrop(0.4)), LOSSES)
    whole, half = trained(what, 4), trained(what, 2)
    jax.tree.map(np.testing.assert_array_equal, trained(what, 4, state=half), whole)


def test_a_transform_that_observes_begins_with_zeros_and_says_so():
    @dataclass(frozen=True)
    class Forgetful(Energies):
        def init(self, key: Any, config: Any, params: Any) -> Any:
            return {}, {"updates": jnp.int32(0)}

        def advance(self, update: Any, params: Any, extra: Any, state: Any) -> Any:
            return state

    with pytest.raises(UserError, match=r"0_Forgetful observes .*squares.* and its state holds sums of the shapes {};"):
        trained(learning((Forgetful(),), LOSSES), 1)


def test_layer_by_layer_training_observes_nothing():
    student, teacher = models()
    phases = layer_by_layer(Progressive(steps_per_layer=2), student.config, teacher.model, 6)
    with pytest.raises(UserError, match="progressive training cannot be combined with 0_Energies"):
        learning((Energies(),), LOSSES, curriculum=phases)
