"""The Universal Transformer: halting against plain numbers, the loop against the scan, padding, gradients, folders."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.model import BertConfig, Halting, Recurrence, UniversalTransformer, build, universal_config
from bertjax.model.recurrence import HaltingState, halt, initial_halting, sinusoid
from bertjax.params import Tree, flatten
from configs import universal_transformer_base
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

RULES = {
    "basic": Halting(bias=0.0),
    "accumulated": Halting("accumulated", bias=0.0),
    "frozen": Halting(halted="frozen", bias=0.0),
    "remainder": Halting("accumulated", remainder_at_end=True, bias=-3.0),
    "example": Halting(scope="example", bias=-1.0),
}


def recurrent(rule: Halting | None, steps: int = 5, **changes):
    recurrence = Recurrence(steps, changes.pop("positions", "sinusoid"), changes.pop("times", "sinusoid"), halting=rule)
    return tiny(num_hidden_layers=1, recurrence=recurrence, **changes)


# --- halting, by itself ----------------------------------------------------------------------------------------------


def plain_halting(probabilities: list[float], epsilon: float, remainder_at_end: bool) -> tuple[list[float], float, int]:
    """One position, as Dehghani et al. (2018) list it, in Python numbers."""
    total, remainder, steps, weights = 0.0, 0.0, 0, []
    for number, p in enumerate(probabilities):
        weight = 0.0
        if total < 1:
            steps += 1
            last = remainder_at_end and number == len(probabilities) - 1
            if total + p > 1 - epsilon or last:
                weight = remainder = 1 - total
                total = 1.0
            else:
                weight = p
                total += p
        weights.append(weight)
    return weights, remainder, steps


def ours(probabilities: list[float], epsilon: float = 0.01, remainder_at_end: bool = False):
    state, weights = initial_halting(jnp.ones((1, 1), bool)), []
    for number, p in enumerate(probabilities):
        last = remainder_at_end and number == len(probabilities) - 1
        state, weight = halt(state, jnp.full((1, 1), p), last, epsilon)
        weights.append(weight.item())
    return state, weights


@pytest.mark.parametrize(
    ("p", "most", "steps", "remainder", "weights", "basic", "accumulated"),
    [
        (0.731, 12, 2, 0.269, [0.731, 0.269], 1.0724, 1.269),
        (0.3, 12, 4, 0.1, [0.3, 0.3, 0.3, 0.1], 1.7203, 2.2),
        (0.3, 3, 3, 0.0, [0.3, 0.3, 0.3], 1.467, 1.8),
        (0.05, 4, 4, 0.0, [0.05] * 4, 0.4756, 0.5),
        (0.995, 4, 1, 1.0, [1.0], 1.0, 1.0),
    ],
)
def test_the_known_cases(p, most, steps, remainder, weights, basic, accumulated):
    """The result of step n is n."""
    state, found = ours([p] * most)
    np.testing.assert_allclose(found, weights + [0.0] * (most - len(weights)), atol=1e-6)
    assert (state.steps.item(), pytest.approx(state.remainder.item(), abs=1e-6)) == (steps, remainder)
    replaced = summed = 0.0
    for number, weight in enumerate(found, start=1):
        replaced, summed = weight * number + (1 - weight) * replaced, summed + weight * number
    assert (replaced, summed) == (pytest.approx(basic, abs=1e-4), pytest.approx(accumulated, abs=1e-4))


@pytest.mark.parametrize("remainder_at_end", [False, True])
def test_random_probabilities_against_a_loop_over_plain_numbers(remainder_at_end):
    rng = np.random.default_rng(0)
    for _ in range(50):
        probabilities = rng.uniform(0, rng.choice([0.1, 0.5, 1.0]), rng.integers(1, 9)).astype(np.float32).tolist()
        weights, remainder, steps = plain_halting(probabilities, 0.01, remainder_at_end)
        state, found = ours(probabilities, remainder_at_end=remainder_at_end)
        np.testing.assert_allclose(found, weights, atol=1e-6)
        assert state.steps.item() == steps
        np.testing.assert_allclose(state.remainder.item(), remainder, atol=1e-6)
        if state.total.item() == 1:
            assert sum(found) == pytest.approx(1, abs=1e-6)


def test_only_the_remainder_and_the_weights_have_a_gradient():
    def numbers(p):
        state = HaltingState(*(jnp.zeros((1, 1)) for _ in range(3)))
        weights = []
        for _ in range(3):
            state, weight = halt(state, jnp.full((1, 1), 1.0) * p, False, 0.01)
            weights.append(weight)
        return jnp.stack([state.steps.sum(), state.remainder.sum(), *(w.sum() for w in weights)])

    slopes = jax.jacobian(numbers)(0.4)
    np.testing.assert_allclose(slopes, [0, -2, 1, 1, -2], atol=1e-6)


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_the_published_ones(width):
    numbers = np.array([1.0, 5.0, 40.0])
    interleaved = np.asarray(sinusoid(jnp.array(numbers), width, "interleaved"))
    halves = np.asarray(sinusoid(jnp.array(numbers), width, "halves"))
    for row, n in enumerate(numbers):
        for column in range(width):
            function = math.sin if column % 2 == 0 else math.cos
            assert interleaved[row, column] == pytest.approx(function(n / 10000 ** (column // 2 * 2 / width)), abs=1e-5)
        for j in range(width // 2):
            angle = n * math.exp(-j * math.log(10000) / (width // 2 - 1))
            assert halves[row, j] == pytest.approx(math.sin(angle), abs=1e-5)
            assert halves[row, width // 2 + j] == pytest.approx(math.cos(angle), abs=1e-5)


# --- the model -------------------------------------------------------------------------------------------------------


def test_a_fixed_number_of_steps_without_signals_is_an_albert_with_one_group():
    model, params = recurrent(None, steps=4, positions="none", times="none")
    albert, _ = tiny(num_hidden_layers=4, num_hidden_groups=1)
    ours, theirs = apply(model, params, tiny_batch()), apply(albert, params, tiny_batch())
    assert len(ours.hidden_states) == 5
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, reference, **SAME_MATHS)
    np.testing.assert_allclose(ours.logits, theirs.logits, **SAME_MATHS)


def rules_of(config: BertConfig) -> tuple[Recurrence, Halting]:
    assert config.recurrence is not None
    assert config.recurrence.halting is not None
    return config.recurrence, config.recurrence.halting


def by_hand(config: BertConfig, params: Tree, batch: dict) -> tuple[np.ndarray, np.ndarray]:
    """The last output and the weights, from an ordinary layer applied in a Python loop to what NumPy prepares."""
    layer: Any = build(config.replace(recurrence=None))
    recurrence, rule = rules_of(config)
    encoder = {name: leaf for name, leaf in params["encoder"].items() if name.startswith("layer_")}
    bare = {"params": {**params, "encoder": encoder}}
    state = np.asarray(layer.apply(bare, batch["input_ids"], batch["token_type_ids"], method="embed"))
    real = batch["attention_mask"] > 0
    mask = jnp.asarray(real[:, None, None, :])
    columns = np.asarray(sinusoid(jnp.arange(1.0, real.shape[1] + 1), config.hidden_size, "interleaved"))
    total, output, weights = np.where(real, 0.0, 1.0), np.zeros(state.shape), []
    for number in range(recurrence.steps):
        moved = state + columns + np.asarray(sinusoid(jnp.array(number + 1.0), config.hidden_size, "interleaved"))
        kernel, bias = params["encoder"]["halting"]["kernel"][:, 0], params["encoder"]["halting"]["bias"][0]
        p = 1 / (1 + np.exp(-(moved @ kernel + bias)))
        if rule.scope == "example":
            p = np.broadcast_to((p * real).sum(1, keepdims=True) / real.sum(1, keepdims=True), p.shape)
        running = total < 1
        above = running & (total + p > 1 - rule.epsilon)
        if rule.remainder_at_end and number == recurrence.steps - 1:
            above = running
        weight = np.where(above, 1 - total, np.where(running, p, 0))
        total = np.where(above, 1.0, np.where(running, total + p, total))
        (after,) = layer.apply(bare, jnp.asarray(moved, jnp.float32), mask, None, 0, 1, method="layers")
        after = np.asarray(after.hidden)
        w = weight[..., None]
        output = w * after + (output if rule.output == "accumulated" else (1 - w) * output)
        state = np.where(running[..., None], after, state) if rule.halted == "frozen" else after
        weights.append(weight)
    return output, np.stack(weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_every_choice_against_a_loop_by_hand(name):
    model, params = recurrent(RULES[name])
    batch = tiny_batch()
    found = apply(model, params, batch)
    output, weights = by_hand(model.config, params, batch)
    np.testing.assert_allclose(found.trace.weights, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.hidden_states[-1], output, rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in (np.asarray(found.trace.halting.steps) * batch["attention_mask"]).tolist()}) > 1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_loop_that_stops_early_has_the_bits_of_the_scan(name, norm):
    model, params = recurrent(RULES[name], norm=norm)
    batch = tiny_batch()
    scanned, looped = jax.jit(lambda p, b: run(model, p, b))(params, batch), stopped_early(model, params, batch)
    np.testing.assert_array_equal(looped.hidden_states[-1], scanned.hidden_states[-1])
    np.testing.assert_array_equal(looped.logits, scanned.logits)
    for mine, reference in zip(looped.trace.halting, scanned.trace.halting, strict=True):
        np.testing.assert_array_equal(mine, reference)


def stopped_early(model, params, batch):
    return jax.jit(lambda p, b: run(model, p, b, stop_early=True))(params, batch)


def test_the_loop_ends_when_every_real_position_has_halted():
    """A halting bias that halts everything at the first step: the output is that of one step, whatever the limit."""
    model, params = recurrent(Halting(bias=0.0), steps=1)
    long, _ = recurrent(Halting(bias=0.0), steps=50)
    halting = {"kernel": np.zeros((12, 1), np.float32), "bias": np.full(1, 20.0, np.float32)}
    params = {**params, "encoder": {**params["encoder"], "halting": halting}}
    once, often = (stopped_early(m, params, tiny_batch()) for m in (model, long))
    np.testing.assert_allclose(once.logits, often.logits, **SAME_MATHS)
    assert np.asarray(often.trace.halting.steps).max() == 1


@pytest.mark.parametrize("name", RULES)
def test_padding_takes_no_part(name):
    model, params = recurrent(RULES[name])
    batch = tiny_batch()
    longer = {key: np.pad(array, ((0, 1), (0, 4))) for key, array in batch.items()}
    longer["input_ids"][:, 7:] = 5
    short, wide = stopped_early(model, params, batch), stopped_early(model, params, longer)
    real = batch["attention_mask"] > 0
    np.testing.assert_allclose(wide.hidden_states[-1][:3, :7][real], short.hidden_states[-1][real], **SAME_MATHS)
    np.testing.assert_allclose(wide.logits[:3], short.logits, **SAME_MATHS)
    np.testing.assert_array_equal(wide.trace.ponder[:, 7:], 0)
    np.testing.assert_allclose(wide.trace.ponder[:3, :7], short.trace.ponder, **SAME_MATHS)
    np.testing.assert_array_equal(np.asarray(short.trace.ponder)[~real], 0)


def test_halting_learns_by_the_ponder_cost():
    model, params = recurrent(Halting(bias=0.0))

    def cost(params):
        return run(model, params, tiny_batch()).trace.ponder.sum()

    slope = flatten(jax.jit(jax.grad(cost))(params))
    assert slope["encoder/halting/bias"].item() != 0
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in slope.values()])).all()


def test_halting_is_decided_in_float32_whatever_the_model_computes_in():
    model, params = recurrent(Halting(bias=0.0), dtype="bfloat16")
    out = apply(model, params, tiny_batch())
    assert out.hidden_states[-1].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(out.trace)} == {jnp.dtype("float32")}


def layer_norm(x: np.ndarray, norm: Any) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-12) * norm["scale"] + norm["bias"]


def dense(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def coordinates(length: int, step: int, width: int) -> np.ndarray:
    """Dehghani et al. (2018), eq. 6 and 7, number by number; positions and steps count from 1."""
    signal = np.zeros((length, width))
    for i, column in np.ndindex(length, width):
        wave = math.sin if column % 2 == 0 else math.cos
        scale = 10000 ** (2 * (column // 2) / width)
        signal[i, column] = wave((i + 1) / scale) + wave(step / scale)
    return signal


def block(x: np.ndarray, layer: Any, heads: int) -> np.ndarray:
    """Eq. 4 and 5: LayerNorm after each sum, ReLU between two affine maps."""
    attention, ffn = layer["attention"], layer["ffn"]
    cut = {
        name: dense(x, attention[name]).reshape(len(x), heads, -1).swapaxes(0, 1) for name in ("query", "key", "value")
    }
    scores = np.exp(cut["query"] @ cut["key"].swapaxes(1, 2) / np.sqrt(cut["query"].shape[-1]))
    looked = (scores / scores.sum(-1, keepdims=True) @ cut["value"]).swapaxes(0, 1).reshape(len(x), -1)
    a = layer_norm(x + dense(looked, attention["output"]), attention["layer_norm"])
    inner = np.maximum(dense(a, ffn["intermediate"]), 0)
    return layer_norm(a + dense(inner, ffn["output"]), ffn["layer_norm"])


def test_the_papers_preset_is_the_papers_equations_on_berts_embeddings():
    """What its docstring says: block, signals and halting of the paper, after BERT's sum of tables and LayerNorm."""
    sizes = {name: getattr(TINY, name) for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    config = universal_config("paper", **sizes, intermediate_size=10, max_position_embeddings=16)
    model, params = tiny(**vars(config))
    assert config.recurrence is not None
    ids, types = np.array([[5, 7, 7, 30, 2]]), np.array([[0, 0, 1, 1, 0]])
    out = apply(model, params, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types})
    exact: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    table = exact["embeddings"]
    total = table["word"]["embedding"][ids[0]] + table["position"]["embedding"][:5]
    state = layer_norm(total + table["token_type"]["embedding"][types[0]], table["layer_norm"])
    np.testing.assert_allclose(out.hidden_states[0][0], state, atol=1e-5)
    probabilities, results = [], []
    for step in range(1, config.recurrence.steps + 1):
        x = state + coordinates(5, step, config.hidden_size)
        probabilities.append(1 / (1 + np.exp(-dense(x, exact["encoder"]["halting"])[:, 0])))
        state = block(x, exact["encoder"]["layer_0"], config.num_attention_heads)
        results.append(state)
    said = np.zeros_like(state)
    for position in range(5):
        weights, _, steps = plain_halting([float(p[position]) for p in probabilities], 0.01, False)
        assert steps < config.recurrence.steps
        for weight, result in zip(weights, results, strict=True):
            said[position] = weight * result[position] + (1 - weight) * said[position]
    np.testing.assert_allclose(out.hidden_states[-1][0], said, atol=1e-4)


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_both_presets_begin_with_berts_embeddings(preset):
    config = universal_config(preset, vocab_size=9, hidden_size=12, num_attention_heads=3, intermediate_size=10)
    embeddings = flatten(bertjax.model.abstract_params(config)["embeddings"])
    assert {"word/embedding", "position/embedding", "token_type/embedding", "layer_norm/scale"} < set(embeddings)
    without = bertjax.model.abstract_params(config.replace(type_vocab_size=0))["embeddings"]
    assert "token_type" not in without


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_the_presets_make_a_model_that_is_stored_and_comes_back(preset, tmp_path):
    sizes = {name: getattr(TINY, name) for name in ("vocab_size", "hidden_size", "num_attention_heads")}
    config = universal_config(preset, **sizes, intermediate_size=10, max_position_embeddings=16)
    model = UniversalTransformer(config)
    variables: Any = model.init(jax.random.key(0), np.ones((1, 3), np.int32))
    params = jax.tree.map(np.asarray, variables["params"])
    assert params["encoder"]["halting"]["bias"].item() == 1
    bertjax.save(bertjax.Bundle(config, params), tmp_path / preset)
    back = bertjax.load(tmp_path / preset)
    assert back.config == config
    ours, theirs = apply(back.model, back.params, tiny_batch()), apply(model, params, tiny_batch())
    np.testing.assert_array_equal(ours.hidden_states[-1], theirs.hidden_states[-1])
    with pytest.raises(bertjax.UserError, match="needs a recurrence"):
        UniversalTransformer(TINY).init(jax.random.key(0), np.ones((1, 3), np.int32))


def test_what_cannot_be_is_refused():
    with pytest.raises(bertjax.UserError, match="steps is 0; expected a whole number from 1"):
        Recurrence(0)
    with pytest.raises(bertjax.UserError, match=r"epsilon is 1\.0; expected a number of at least 0, below 1"):
        Halting(epsilon=1.0)
    model, params = recurrent(None)
    with pytest.raises(bertjax.UserError, match="gates belong to single layers"):
        run(model, params, tiny_batch(), gates=())


@pytest.mark.slow
def test_predicting_stops_early_and_the_arithmetic_of_all_steps_is_counted():
    from bertjax.measure.cost import forward_cost
    from bertjax.predict import forward

    model, params = recurrent(Halting(bias=0.0), steps=6)
    batch = tiny_batch()
    inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    np.testing.assert_allclose(forward(model, params, *inputs), run(model, params, batch).logits, **SAME_MATHS)
    albert, shared = tiny(num_hidden_layers=6, num_hidden_groups=1)
    counted, expected = forward_cost(model, params, 8).flops, forward_cost(albert, shared, 8).flops
    assert counted is not None
    assert counted == expected


@pytest.mark.parametrize(
    ("name", "steps", "halts", "count"),
    [
        ("fixed", 6, False, 45_426_688),
        ("config", 12, True, 45_427_713),  # 1,025 more to halt
        ("official", 12, True, 45_442_049),  # a row for each of 12 steps, and a LayerNorm at the end
    ],
)
def test_the_base_size_has_its_parameters(name, steps, halts, count):
    config = vars(universal_transformer_base)[name]
    assert (config.recurrence.steps, config.recurrence.halting is not None) == (steps, halts)
    model, ids = UniversalTransformer(config), jnp.ones((1, 3), jnp.int32)
    variables: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), ids))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    output: Any = jax.eval_shape(model.apply, variables, ids)
    assert output.hidden_states[-1].shape == (1, 3, 1024)
