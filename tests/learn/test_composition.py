"""Distillation, pruning and quantisation-aware training in one jitted step."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import Bundle
from bertjax.distill.terms import AttentionScores, HardLabels, HiddenStates, SoftTargets
from bertjax.engine.compiled_step import build_program
from bertjax.engine.sharding import put_batch
from bertjax.errors import UserError
from bertjax.learn import Forward, Frozen, Loss, Penalty, Transform
from bertjax.learn.assemble import Learning, assemble, loss_names
from bertjax.learn.objective import Teacher
from bertjax.model import build
from bertjax.params import flatten
from bertjax.prune import LayerDrop, Movement
from bertjax.quantize.transforms import FakeQuantize
from bertjax.quantized.formats import Format
from bertjax.quantized.tensor import Quantized, dequantised
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding
from bertjax.recipes.training import Training
from tests.model.tiny import apply, tiny, tiny_batch

WEIGHTS = ((r"^encoder/.*kernel$", Format(8, "symmetric")), (".*", None))
PRUNED = (Movement(sparsity=0.6, begin=0.0, end=0.5), FakeQuantize(WEIGHTS, activations="token"))
LOSSES = loss_names((SoftTargets(), HiddenStates(), AttentionScores()))
STEPS = 6
OPTIMISER = Optimiser(learning_rate=3e-3, rule="adamw", warmup=0.0, decay="constant")


@cache
def models() -> tuple[Bundle, Bundle]:
    """A student, and a teacher of twice its depth; without dropout."""
    none: Any = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    pairs = [tiny(**none), tiny(num_hidden_layers=4, initializer_range=0.5, **none)]
    return tuple(Bundle(model.config, params) for model, params in pairs)  # type: ignore[return-value]


def batch(number: int = 0) -> dict[str, np.ndarray]:
    lengths = tuple(np.random.default_rng(number).integers(2, 8, 16))
    rng = np.random.default_rng(number)
    labels = rng.integers(0, 3, 16).astype(np.int32)
    return {**tiny_batch(lengths, 8, number), "labels": labels, "weights": np.ones(16, np.float32)}


def learning(transforms: tuple[Transform, ...] = PRUNED, losses: Any = LOSSES, **options: Any) -> Learning:
    student, teacher = models()
    teachers = options.pop("teachers", (Teacher(teacher),))
    sample = lambda: [batch(9)]  # noqa: E731
    return assemble(
        student, losses, steps=STEPS, seed=0, teachers=teachers, transforms=transforms, sample=sample, **options
    )


def trained(what: Learning, steps: int = STEPS, micro_batches: int = 1, devices: int = 1, state: Any = None) -> Any:
    """The state after some steps, from the beginning or from another state."""
    training = Training(
        steps=STEPS, batch_size=16, micro_batches=micro_batches, sharding=Sharding(devices, 1), optimiser=OPTIMISER
    )
    program = build_program(training, STEPS, what)
    state = program.start(what.params, what.extra, what.state) if state is None else jax.device_put(state)
    while int(state.step) < steps:
        state, metrics = program.step(state, put_batch(batch(int(state.step)), program.mesh), what.constants)
        assert all(np.isfinite(value) for value in metrics.values())
    return jax.device_get(state)


def shipped(what: Learning, state: Any) -> tuple[Any, Any]:
    assert what.finish is not None
    return what.finish(state.params, state.extra, state.state)


@pytest.mark.slow
def test_distilled_pruned_and_quantised_in_one_step_ships_exact_zeros_and_exact_integers():
    what = learning()
    state = trained(what)
    config, params = shipped(what, state)
    masks = flatten(state.state["transforms"]["0_Movement"]["masks"])
    dense = flatten(dequantised(params))
    for path, mask in masks.items():
        leaf = flatten(params)[path]
        assert isinstance(leaf, Quantized)
        assert np.asarray(leaf.values).dtype == np.int8
        assert mask.sum() == mask.size - int(0.6 * mask.size)
        assert not np.asarray(dense[path])[~mask].any()
    frozen = models()[0].params["embeddings"]["word"]["embedding"]
    np.testing.assert_array_equal(dense["embeddings/word/embedding"], frozen)
    ours = apply(build(config), params, tiny_batch())
    assert np.isfinite(ours.logits).all()


@pytest.mark.slow
def test_a_run_of_all_three_that_was_cut_ends_with_the_same_bits():
    what = learning()
    whole = trained(what)
    half = trained(what, 3)
    jax.tree.map(np.testing.assert_array_equal, trained(what, state=half), whole)


@pytest.mark.slow
@pytest.mark.parametrize(("micro_batches", "devices"), [(4, 1), (1, 8), (2, 8)])
@pytest.mark.parametrize("transforms", [PRUNED, (LayerDrop(0.4),)], ids=["movement and rounding", "layerdrop"])
def test_micro_batches_and_devices_give_the_same_update(transforms: Any, micro_batches: int, devices: int):
    whole = trained(learning(transforms), 1)
    parts = trained(learning(transforms), 1, micro_batches, devices)
    for path, leaf in flatten(whole.params).items():
        # Adam divides rounding by rounding where a gradient is 0.
        close = np.isclose(flatten(parts.params)[path], leaf, rtol=1e-4, atol=2e-5)
        assert close.mean() > 0.99, path
    jax.tree.map(np.testing.assert_array_equal, whole.state, parts.state)


@pytest.mark.slow
def test_a_transform_alone_is_what_it_is_in_company():
    """The masks do not depend on what follows them."""
    both, alone = trained(learning(), 1), trained(learning(PRUNED[:1]), 1)
    jax.tree.map(
        np.testing.assert_array_equal,
        both.state["transforms"]["0_Movement"],
        alone.state["transforms"]["0_Movement"],
    )


# --- parts of a user's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confidence(Loss):
    """The mean largest logit, from the labels' point of view: a loss that reads labels and no teacher."""

    reads_labels = True
    reads_teacher = False

    def build(self, student: Any, teacher: Any) -> Any:
        def loss(extra: Any, student_out: Any, teacher_out: Any, batch: Any) -> Any:
            right = jnp.take_along_axis(student_out.logits, batch["labels"][:, None], axis=1)[:, 0]
            return -jnp.sum(right * batch["weights"]), jnp.sum(batch["weights"])

        return loss


@dataclass(frozen=True)
class SmallWeights(Penalty):
    """L1 on the encoder's weights."""

    weight: float = 0.1

    def value(self, update: Any, params: Any, extra: Any, state: Any) -> Any:
        return sum(jnp.sum(jnp.abs(leaf)) for path, leaf in flatten(params).items() if path.endswith("kernel"))


@dataclass(frozen=True)
class Halved(Transform):
    """Computes with half of each bias."""

    def apply(self, update: Any, params: Any, extra: Any, state: Any) -> Any:
        from bertjax.params import map_with_path

        return map_with_path(lambda path, x: x * 0.5 if path.endswith("bias") else x, params), Forward()

    def finish(self, config: Any, params: Any, extra: Any, state: Any) -> Any:
        return config, self.apply(None, params, extra, state)[0]


@pytest.mark.slow
def test_parts_of_a_users_own_work_like_ours():
    what = learning((Halved(), *PRUNED), {**LOSSES, "mine": Confidence(0.5)}, penalties=(SmallWeights(),))
    state = trained(what, 2)
    assert set(state.state["transforms"]) >= {"1_Movement"}
    _, params = shipped(what, state)
    for path, leaf in flatten(params).items():
        if path.endswith("bias"):
            np.testing.assert_array_equal(
                leaf, 0.5 * flatten(state.params).get(path, np.nan * leaf) if "embeddings" not in path else leaf
            )


def test_parts_that_leave_nothing_to_learn_are_refused():
    with pytest.raises(UserError, match="reads a teacher's output, and this run has no teacher"):
        learning(teachers=())
    with pytest.raises(UserError, match="every parameter is frozen"):
        learning((Frozen(".*"),))
    with pytest.raises(UserError, match="matches no parameter"):
        learning((Frozen("^embeddings/"), Frozen("^nothing")))
    both = learning((Frozen("^embeddings/"), Frozen("^embeddings/word")))  # one rule may be part of another
    assert set(both.constants["frozen"]) == {"embeddings"}


def test_a_loss_that_reads_labels_of_text_without_any_says_so():
    @dataclass(frozen=True)
    class Undeclared(Confidence):
        reads_labels = False

    what = learning(losses={"mine": Undeclared()}, teachers=())
    unlabelled = {name: array for name, array in batch().items() if name != "labels"}
    training = Training(steps=STEPS, batch_size=16, sharding=Sharding(1, 1))
    program = build_program(training, STEPS, what)
    with pytest.raises(UserError, match="Undeclared reads labels, which this text lacks"):
        program.step(
            program.start(what.params, what.extra, what.state), put_batch(unlabelled, program.mesh), what.constants
        )


@pytest.mark.slow
def test_a_loss_without_a_teacher_counts_once_however_many_there_are():
    _, teacher = models()
    one, two = (learning((), {"task": HardLabels()}, teachers=(Teacher(teacher),) * n) for n in (1, 2))
    results = [trained(what, 1) for what in (one, two)]
    jax.tree.map(np.testing.assert_array_equal, results[0].params, results[1].params)
