"""Layers that are matched while their number changes: the match against loops in NumPy, the loss against its pairs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.distill import losses
from bertjax.distill.pairing import nearest_layers
from bertjax.distill.terms import MatchedStates, SoftTargets
from bertjax.errors import UserError
from bertjax.learn.assemble import loss_names
from bertjax.learn.transform import Update
from bertjax.model import LayerGates, ModelOutput, build
from bertjax.params import flatten, merge, unflatten
from bertjax.prune import CoFi
from bertjax.quantize.transforms import FakeQuantize
from bertjax.text.batches import eval_batches, inputs_of, places_of
from bertjax.text.packing import packed_batches
from tests.learn.test_composition import STEPS, WEIGHTS, batch, learning, models, shipped, trained
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.text.tiny import made_up
from tests.tolerances import OTHER_FRAMEWORK, SAME_MATHS

STUDENT = TINY.replace(num_hidden_layers=4)
TEACHER = TINY.replace(num_hidden_layers=6)
LAYERS = (1, 3, 5)
OPEN, CLOSED = LayerGates(), LayerGates(ffn=jnp.zeros(1))


def nearest(distances: np.ndarray, alive: np.ndarray, ordered: bool) -> list[int]:
    """The rule in words: from the last teacher layer down, the nearest student layer, the lower one of two that are as
    near. In order: only below the one before, or that one again where none is left."""
    found: list[int] = []
    for row in reversed(distances.tolist()):
        best = None
        for layer, distance in enumerate(row):
            below = not ordered or not found or layer < found[-1]
            if alive[layer] and below and (best is None or distance < row[best]):
                best = layer
        found.append(found[-1] if best is None else best)
    return found[::-1]


@pytest.mark.parametrize("ordered", [False, True])
def test_the_match_is_what_a_loop_finds(ordered: bool):
    """Whole numbers up to 3, so that many are equal; from one to all of six layers are alive."""
    match = jax.jit(nearest_layers, static_argnums=2)
    rng, rules = np.random.default_rng(0), set()
    for _ in range(200):
        distances, alive = rng.integers(0, 4, (3, 6)).astype(np.float32), rng.random(6) < rng.random()
        alive[rng.integers(6)] = True
        found = np.asarray(match(jnp.asarray(distances), jnp.asarray(alive), ordered)).tolist()
        assert found == nearest(distances, alive, ordered)
        assert alive[found].all()
        assert not ordered or found == sorted(found)
        rules.add(tuple(found) == tuple(nearest(distances, alive, not ordered)))
    assert rules == {True, False}  # the order matters, and not always


def outputs(seed: int = 0, gates: tuple[LayerGates, ...] = ()) -> tuple[Any, Any, dict[str, Any]]:
    """Random outputs of a student of four and a teacher of six layers, and their batch of four texts."""
    rng = np.random.default_rng(seed)
    student, teacher = (jnp.asarray(rng.normal(size=(n, 4, 5, 12)), jnp.float32) for n in (5, 7))
    mask = np.arange(5) < np.array([[5], [2], [4], [3]])
    given = {"attention_mask": jnp.asarray(mask, jnp.int32), "weights": jnp.asarray([1.0, 0.5, 2.0, 0.0])}
    made = [ModelOutput(None, None, None, tuple(states), (), (), ()) for states in (student, teacher)]
    return made[0]._replace(gates=gates), made[1], given


def kernel(seed: int = 5) -> dict[str, Any]:
    return {"kernel": jnp.eye(12) + 0.3 * jnp.asarray(np.random.default_rng(seed).normal(size=(12, 12)), jnp.float32)}


def distances(
    student: Any, teacher: Any, given: Any, extra: Any, everywhere: bool = False, layers: Sequence[int] = LAYERS
) -> np.ndarray:
    """[teacher layers, student layers], as a loop over layers and tokens: sums of mean squares over the width."""
    found = np.zeros((len(layers), len(student.hidden_states) - 1))
    for t, layer in enumerate(layers):
        for s in range(found.shape[1]):
            for row, position in np.ndindex(given["attention_mask"].shape):
                weight = given["weights"][row] * (everywhere or given["attention_mask"][row, position])
                ours = np.asarray(student.hidden_states[s + 1][row, position], np.float64) @ extra["kernel"]
                theirs = teacher.hidden_states[layer + 1][row, position]
                found[t, s] += float(weight * np.square(ours + extra.get("bias", 0.0) - theirs).mean())
    return found


def value(term: MatchedStates, student: Any, teacher: Any, given: Any, extra: Any) -> tuple[Any, Any]:
    return jax.jit(term.build(STUDENT, TEACHER))(extra, student, teacher, given)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("closed", [(), (1,), (0, 2, 3)])
def test_the_loss_is_the_error_of_the_nearest_layers_that_are_alive(ordered: bool, closed: tuple[int, ...]):
    gates = tuple(CLOSED if layer in closed else OPEN for layer in range(4))
    student, teacher, given = outputs(0, gates)
    errors = distances(student, teacher, given, kernel())
    found = nearest(errors, ~np.isin(np.arange(4), closed), ordered)
    expected = errors[np.arange(3), found].sum()
    tokens = given["attention_mask"].sum(1) @ given["weights"]
    for preset, share in (("mean", 3), ("paper", 1)):
        term = MatchedStates(layers=LAYERS, ordered=ordered, preset=preset)  # type: ignore[arg-type]
        total, weight = value(term, student, teacher, given, kernel())
        np.testing.assert_allclose([total, weight], [expected / share, tokens], **OTHER_FRAMEWORK)


def test_the_official_code_counts_padding_has_a_bias_and_matches_closed_layers_unless_ordered():
    """Of two closed layers, each the nearest to a teacher layer."""
    extra = kernel() | {"bias": jnp.linspace(-1, 1, 12)}
    everything = distances(*outputs(), extra, everywhere=True)
    closed = np.unique(everything.argmin(1))[:2]
    gates = tuple(CLOSED if layer in closed else OPEN for layer in range(4))
    student, teacher, given = outputs(0, gates)
    for ordered in (False, True):
        alive = np.ones(4, bool) if not ordered else ~np.isin(np.arange(4), closed)
        expected = everything[np.arange(3), nearest(everything, alive, ordered)].sum()
        term = MatchedStates(layers=LAYERS, ordered=ordered, preset="official")
        total, weight = value(term, student, teacher, given, extra)
        np.testing.assert_allclose([total, weight], [expected, 5 * 3.5], **OTHER_FRAMEWORK)
    assert MatchedStates(preset="official").needs(STUDENT, TEACHER) is None
    assert set(MatchedStates(preset="official").parameters(jax.random.key(0), STUDENT, TEACHER)) == {"kernel", "bias"}


def test_what_is_not_matched_gets_no_gradient_and_the_rest_that_of_its_pairs():
    student, teacher, given = outputs(3, (OPEN, OPEN, CLOSED, OPEN))
    term, extra = MatchedStates(layers=LAYERS, preset="paper"), kernel()
    pairs = nearest(distances(student, teacher, given, extra), np.array([1, 1, 0, 1], bool), False)
    assert len({*pairs}) < 3  # one layer for several
    weights = given["attention_mask"] * given["weights"][:, None]

    def loss(states: Any, extra: Any) -> Any:
        return term.build(STUDENT, TEACHER)(extra, student._replace(hidden_states=states), teacher, given)[0]

    def of_pairs(states: Any, extra: Any) -> Any:
        each = [
            (states[s + 1] @ extra["kernel"], teacher.hidden_states[t + 1]) for s, t in zip(pairs, LAYERS, strict=True)
        ]
        return sum(losses.squared_error(*both, weights)[0] for both in each)

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(student.hidden_states, extra) for f in (loss, of_pairs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SAME_MATHS), found, expected)
    assert [bool(layer.any()) for layer in found[0][1:]] == [layer in pairs for layer in range(4)]
    assert found[1]["kernel"].any()


def test_without_a_layer_that_is_alive_there_is_nothing_to_learn():
    student, teacher, given = outputs(0, (CLOSED,) * 4)
    for ordered in (False, True):
        loss = MatchedStates(ordered=ordered).build(STUDENT, TEACHER)
        value, gradient = jax.value_and_grad(lambda extra, loss=loss: loss(extra, student, teacher, given)[0])(kernel())
        assert value == 0
        assert not gradient["kernel"].any()


def test_a_layer_is_alive_while_none_of_its_gates_is_closed():
    gates = [
        LayerGates(),
        LayerGates(ffn=jnp.full(1, 0.1), attention=jnp.zeros(1), heads=jnp.zeros(3)),  # only attention is closed
        LayerGates(neurons=jnp.zeros(10).at[3].set(0.5), layer=jnp.float32(1)),
        LayerGates(ffn=jnp.zeros(2).at[1].set(0.5)),  # of one example of two
        LayerGates(neurons=jnp.zeros(10), ffn=jnp.ones(1)),
        LayerGates(ffn=jnp.zeros(1), neurons=jnp.ones(10)),
        LayerGates(layer=jnp.float32(0), ffn=jnp.ones(1)),
    ]
    assert [bool(one.ffn_alive) for one in gates] == [True] * 4 + [False] * 3


def test_a_model_says_which_gates_it_ran_with_and_which_layers_it_left_out():
    model, params = tiny()
    assert apply(model, params, tiny_batch()).gates == ()
    half: Any = [LayerGates(ffn=jnp.full(1, 0.5)), LayerGates(layer=jnp.float32(0.5))]
    output = apply(model, params, tiny_batch(), gates=half)
    jax.tree.map(np.testing.assert_array_equal, list(output.gates), half)
    output = apply(model, params, tiny_batch(), gates=half, switches=jnp.array([True, False]))
    assert [bool(one.ffn_alive) for one in output.gates] == [True, False]
    output = apply(model, params, tiny_batch(), switches=jnp.array([False, True]))
    assert [bool(one.ffn_alive) for one in output.gates] == [False, True]


def test_layers_that_were_pruned_before_are_not_matched():
    """The same as with their gates closed."""
    thin = STUDENT.replace(
        layers=tuple(
            step.__class__(step.num_attention_heads, 0 if layer == 1 else step.intermediate_size)
            for layer, step in enumerate(STUDENT.depth_steps())
        )
    )
    student, teacher, given = outputs()
    assert 1 in nearest(distances(student, teacher, given, kernel()), np.ones(4, bool), False)
    pruned = MatchedStates(layers=LAYERS).build(thin, TEACHER)(kernel(), student, teacher, given)
    gated = value(MatchedStates(layers=LAYERS), outputs(0, (OPEN, CLOSED, OPEN, OPEN))[0], teacher, given, kernel())
    np.testing.assert_allclose(pruned, gated, **SAME_MATHS)


def test_the_layers_of_the_paper_are_the_default_and_the_map_begins_as_the_identity():
    assert MatchedStates().teacher_layers(TINY.replace(num_hidden_layers=12)) == (2, 5, 8, 11)
    assert MatchedStates().teacher_layers(TINY) == (0, 1)
    assert MatchedStates(layers=(3, 1)).teacher_layers(TEACHER) == (1, 3)
    assert MatchedStates(layers=(3, 1)).needs(STUDENT, TEACHER) == {("hidden_states", 2), ("hidden_states", 4)}
    first = MatchedStates().parameters(jax.random.key(0), STUDENT, TEACHER)
    np.testing.assert_array_equal(first["kernel"], np.eye(12))
    with pytest.raises(UserError, match="has layer 6; the teacher's layers are 0 to 5"):
        MatchedStates(layers=(2, 6)).build(STUDENT, TEACHER)
    with pytest.raises(UserError, match="student's hidden_size is 12, the teacher's 24"):
        MatchedStates().build(STUDENT, TEACHER.replace(hidden_size=24))


def test_examples_of_a_packed_row_teach_what_they_teach_alone():
    student, teacher = models()
    encoded = made_up([5, 3, 7, 2, 4])
    object.__setattr__(encoded, "ids", encoded.ids % 43)
    [alone], [packed] = eval_batches(encoded, 5, (7,)), packed_batches(encoded, 4, row_length=12, seed=0, epochs=1)
    assert packed["weights"].shape[1] > 1
    formula = jax.jit(MatchedStates().build(student.config, teacher.config))
    found = []
    for given in (alone, packed):
        inputs = dict(zip(tiny_batch(), inputs_of(given), strict=True))
        out = [apply(bundle.model, bundle.params, inputs, **places_of(given)) for bundle in (student, teacher)]
        found.append(formula({}, *out, given))
    np.testing.assert_allclose(*found, **OTHER_FRAMEWORK)


GATES = CoFi(sparsity=0.3, parts=("heads", "attention", "neurons", "ffn"), warmup=0.0, end=0.5, gate_learning_rate=1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CoFi")  # six steps meet no target
def test_gates_that_close_change_the_match_in_a_step_that_rounds():
    """The term of the step, after it was trained, against loops over the states of the gated and rounded model."""
    rounding = FakeQuantize(WEIGHTS, activations="token").fit(models()[0], [])
    what = learning((GATES, rounding), loss_names((MatchedStates(0.9, preset="paper"), SoftTargets(0.1))))
    state = trained(what)
    config, params = shipped(what, state)
    assert np.isfinite(apply(build(config), params, tiny_batch()).logits).all()
    params, extra, own = jax.tree.map(jnp.asarray, (state.params, state.extra, state.state["transforms"]))
    projection = extra["losses"]["0_MatchedStates"]
    assert not np.array_equal(projection["kernel"], np.eye(12))

    (student, teacher), given = models(), jax.tree.map(jnp.asarray, batch())
    inputs = {name: given[name] for name in tiny_batch()}
    update = Update(jnp.int32(STEPS - 1), jax.random.key(0), STEPS, student.config)
    terms, theirs = jax.jit(what.objective.terms), apply(teacher.model, teacher.params, inputs)

    def match(*ffn: float) -> list[int]:
        """With these gates of the feed-forward sublayers, and everything else open."""
        kept = flatten(jax.tree.map(jnp.ones_like, own["0_CoFi"]))
        kept |= {f"ffn/layer_{layer}": jnp.full(1, gate) for layer, gate in enumerate(ffn)}
        kept = unflatten(kept)
        gated, forward = GATES.apply(update, params, extra["transforms"]["0_CoFi"], kept)
        rounded, products = rounding.apply(update, merge(gated, what.constants.get("frozen", {})), {}, {})
        ours = run(student.model.clone(product=products.product), rounded, inputs, gates=forward.gates)
        errors = distances(ours, theirs, given, projection, layers=range(4))
        found = nearest(errors, np.array(ffn) > 0, False)
        trees = {"transforms": own | {"0_CoFi": kept}}
        every, _ = terms(params, extra, trees, given | what.constants, update._replace(config=None), update.key)
        np.testing.assert_allclose(every["0_MatchedStates"].total, errors[range(4), found].sum(), rtol=1e-4)
        return found

    assert set(match(1.0, 1.0)) == {0, 1}
    assert set(match(1.0, 0.0)) == {0}
    assert set(match(0.0, 1.0)) == {1}
