"""Token dropping, held against loops in NumPy, against the same model with the tokens hidden, and against itself with
other texts and other padding around."""

from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bertjax
from bertjax.bundle import Bundle
from bertjax.distill.progressive import one_layer
from bertjax.errors import UserError
from bertjax.export.folder import export
from bertjax.machine.xla import made_for
from bertjax.model import BertConfig, LayerConfig, LayerGates, Recurrence, Retention, build, mobile_config
from bertjax.model.products import plain_product
from bertjax.model.retention import RankedBy
from bertjax.model.sites import real_rows
from bertjax.model.tokens import Hide, TokenRule, rule_of, significance
from bertjax.prune import keep_heads, keep_layers
from bertjax.prune.scores import activity_sums, gate_gradients
from bertjax.prune.second_order import batch_products
from bertjax.quantize import Quantization, quantise_weights
from bertjax.quantize.activations import find_ranges
from bertjax.share import LeastSquares, recur, tie
from bertjax.student import Student
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK, SAME_MATHS

RETENTION = Retention((1.0, 0.6, 0.6, 0.3))
THRESHOLDS = Retention((1.0, 0.9, 0.9, 0.9), "all", thresholds=(0.02, 0.0, 0.045, 0.06))
"""Texts of 24 tokens keep fewer than their shares, short texts as many."""
LENGTHS = (24, 11, 1, 17, 5, 24, 2, 9, 20, 14, 3, 7)
CLOSE = 1e-5
"""Two significances that are closer than this may be ranked either way."""


def dropping(retention: Retention | None = RETENTION, **changes: Any) -> tuple[Any, Any]:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "max_position_embeddings": 40}
    return tiny(**sizes, **changes, retention=retention)


def batch_of(lengths: tuple[int, ...] = LENGTHS, columns: int = 24, seed: int = 0) -> dict[str, Any]:
    return tiny_batch(lengths, columns, seed)


@partial(jax.jit, static_argnames="model")
def run(model: Any, params: Any, batch: Any, **more: Any) -> Any:
    return model.apply({"params": params}, **batch, **more)


def hide(retention: Retention) -> TokenRule:
    """The reference: every row stays where it is, and what is dropped is hidden from later attention."""
    return rule_of(retention, Hide)


class Survivors(NamedTuple):
    places: list[int]
    gap: float
    """By how much the last that goes on is more significant than the first that does not, or how close one is to the
    threshold."""


def count_of(retention: Retention, step: int, length: int) -> int:
    """Without a rounding error."""
    exact = Fraction(str(retention.shares[step])) * length / retention.multiple
    return min(length, max(1, ceil(exact) * retention.multiple))


def significance_of(probabilities: np.ndarray, real: np.ndarray, ranked_by: str) -> list[float]:
    """`probabilities` are [heads, queries, keys] of one text."""
    heads, length, _ = probabilities.shape
    found = []
    for key in range(length):
        votes = [
            probabilities[head, query, key]
            for head in range(heads)
            for query in range(length)
            if real[query] and (ranked_by == "all" or query != key)
        ]
        found.append(float(np.sum(votes)) / heads)
    return found


def survivors_of(out: Any, row: int, step: int, retention: Retention, length: int) -> Survivors:
    """What goes on of one text, in float64 from the queries and keys of the step."""
    places = np.asarray(out.tokens[step].places[row])
    real = places < out.tokens[step].text.shape[1]
    queries, keys = (np.asarray(each[step][row], np.float64) for each in (out.queries, out.keys))
    scores = np.einsum("qhk,mhk->hqm", queries, keys) / np.sqrt(queries.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * real
    found = significance_of(weights / weights.sum(axis=-1, keepdims=True), real, retention.ranked_by)
    others = sorted((i for i in range(1, len(real)) if real[i]), key=lambda i: (-found[i], i))
    kept = count_of(retention, step, length)
    values = [found[i] for i in others[kept - 2 : kept]] if kept > 1 else []
    gap = values[0] - values[1] if len(values) == 2 else np.inf
    survivors = others[: kept - 1]
    if retention.thresholds:
        over = [found[i] - retention.thresholds[step] * sum(real) for i in survivors]
        gap = min([gap, *np.abs(over)])
        survivors = [i for i, amount in zip(survivors, over, strict=True) if amount >= 0]
    return Survivors(sorted(int(places[i]) for i in [0, *survivors]), gap)


def places_of(out: Any, step: int, row: int) -> list[int]:
    """Where the tokens stand that take part after a step."""
    places = np.asarray(out.tokens[step + 1].places[row])
    return places[places < out.tokens[0].text.shape[1]].tolist()


# --- which tokens go on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [-1, -2])
@pytest.mark.parametrize("ranked_by", ["others", "all"])
def test_significance_is_what_a_loop_over_queries_sums_and_padding_does_not_vote(ranked_by, keys):
    rng = np.random.default_rng(0)
    scores, real = rng.normal(size=(3, 4, 9, 9)), np.arange(9) < np.array([9, 4, 1])[:, None]
    weights = np.exp(scores) * real[:, None, None]
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    given = jnp.asarray(probabilities if keys == -1 else probabilities.swapaxes(2, 3), jnp.float32)
    found = np.asarray(significance(given, jnp.asarray(real), ranked_by, keys))
    expected = np.array([significance_of(p, r, ranked_by) for p, r in zip(probabilities, real, strict=True)])
    np.testing.assert_allclose(found[real], expected[real], **SAME_MATHS)


@pytest.mark.parametrize(
    ("retention", "changes"),
    [
        (RETENTION, {}),
        (Retention((0.7, 0.7, 0.35, 0.1), "all", "layer", 4), {}),
        (Retention((0.5, 0.5, 0.5, 0.2), "all"), {"norm": "pre"}),
        (Retention((1.0, 0.4, 0.0, 0.0), after="layer"), {"architecture": "BertForTokenClassification"}),
        (THRESHOLDS, {}),
    ],
)
def test_what_goes_on_after_each_step_is_what_numpy_picks_from_its_attention(retention, changes):
    model, params = dropping(retention, **changes)
    near, texts, fewer = 0, 0, 0
    for seed in range(4):
        out = run(model, params, batch_of(seed=seed))
        for row, length in enumerate(LENGTHS):
            for step in range(4 if "architecture" in changes else 3):  # of a classifier's last step only [CLS] is read
                expected = survivors_of(out, row, step, retention, length)
                near, texts = near + (expected.gap < CLOSE), texts + 1
                if expected.gap >= CLOSE:
                    assert places_of(out, step, row) == expected.places
                    fewer += count_of(retention, step, length) - len(expected.places)
    assert (fewer > 0) == bool(retention.thresholds)
    assert near < 0.01 * texts


def test_of_equal_tokens_the_earlier_go_on():
    """Without positions, tokens with the same id are equal to the last bit."""
    model, params = dropping(Retention((0.5, 0.5, 0.25, 0.25)), architecture="BertForTokenClassification")
    params["embeddings"]["position"]["embedding"] *= 0
    ids = np.full((2, 13), 7, np.int32)
    ids[:, 0] = 1
    batch = {"input_ids": ids, "attention_mask": np.arange(13, dtype=np.int32)[None] < np.array([[13], [8]])}
    for rule in (rule_of(model.config.retention), hide(model.config.retention)):
        out = run(model, params, batch | {"attention_mask": batch["attention_mask"].astype(np.int32)}, token_rule=rule)
        assert [places_of(out, step, 0) for step in (0, 2)] == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3]]
        assert [places_of(out, step, 1) for step in (0, 2)] == [[0, 1, 2, 3], [0, 1]]


def test_counts_have_no_rounding_error_and_never_rise():
    for multiple in (1, 4, 8):
        retention = Retention((0.9, 0.55, 0.28, 0.07, 0.01), multiple=multiple)
        found = np.array([retention.counts(step, 300) for step in range(5)])[:, 1:]
        expected = [[count_of(retention, step, length) for length in range(1, 301)] for step in range(5)]
        np.testing.assert_array_equal(found, expected)
        assert (np.diff(found, axis=0) <= 0).all()
        assert (np.diff(found, axis=1) >= 0).all()
        assert found.min() == 1
    assert Retention((0.1,)).count(0, 30) == 3
    assert Retention((0.07,)).count(0, 100) == 7  # the product is 7.000000000000001
    assert Retention((0.0,)).count(0, 300) == 1


# --- what the model computes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_shares_of_one_are_the_plain_model(architecture):
    model, params = dropping(Retention((1.0,) * 4), architecture=architecture)
    plain = model.clone(config=model.config.replace(retention=None))
    ours, theirs = (run(one, params, batch_of()) for one in (model, plain))
    np.testing.assert_array_equal(ours.hidden_states, theirs.hidden_states)
    real = batch_of()["attention_mask"] > 0 if ours.logits.ndim == 3 else slice(None)
    np.testing.assert_array_equal(ours.logits[real], theirs.logits[real])


def quantised(model: Any, params: Any) -> tuple[Any, Any]:
    """With integer weights and inputs that are rounded in fixed ranges."""
    config, params = quantise_weights(model.config, params)
    batch = batch_of(seed=5)
    inputs = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    ranges = find_ranges(build(config), params, [inputs], "min_max")
    weights = config.quantization.weights if config.quantization else ()
    return build(config.replace(quantization=Quantization(weights, tuple(ranges.items())))), params


UNEQUAL = (LayerConfig(4, 10), LayerConfig(1, 10), LayerConfig(0, 7), LayerConfig(3, 0))
TAGS = {"architecture": "BertForTokenClassification"}
ALBERT = {"architecture": "AlbertForSequenceClassification", "model_type": "albert", "num_hidden_groups": 1}
DISTIL = {"architecture": "DistilBertForSequenceClassification", "model_type": "distilbert", "type_vocab_size": 0}


@pytest.mark.slow
@pytest.mark.parametrize("thresholds", [(), (0.0, 0.03, 0.0, 0.1)])
@pytest.mark.parametrize(
    ("after", "changes"),
    [
        ("attention", TAGS),
        ("layer", TAGS | {"norm": "pre"}),
        ("attention", ALBERT),
        ("layer", DISTIL),
        ("attention", {"layers": UNEQUAL}),
        ("attention", {"quantised": True}),
        ("layer", {"quantised": True}),
    ],
)
def test_gathered_and_hidden_tokens_give_the_same_states_and_logits(after, changes, thresholds):
    changes = dict(changes)
    integers = changes.pop("quantised", False)
    model, params = dropping(Retention((0.8, 0.5, 0.5, 0.25), after=after, thresholds=thresholds), **changes)
    if integers:
        model, params = quantised(model, params)
    batch = batch_of()
    found = run(model, params, batch)
    reference = run(model, params, batch, token_rule=hide(model.config.retention))
    real = batch["attention_mask"] > 0 if found.logits.ndim == 3 else slice(None)
    np.testing.assert_allclose(found.logits[real], reference.logits[real], **OTHER_FRAMEWORK)
    for step in range(3):
        assert found.hidden_states[step + 1].shape[1] == count_of(model.config.retention, step, 24)
        for row in range(len(LENGTHS)):
            places = places_of(found, step, row)
            assert places == places_of(reference, step, row)
            ours = found.hidden_states[step + 1][row, : len(places)]
            theirs = np.asarray(reference.hidden_states[step + 1][row])[places]
            np.testing.assert_allclose(ours, theirs, **OTHER_FRAMEWORK)


def test_both_layouts_of_attention_drop_the_same_tokens():
    model, params = dropping()
    found = []
    for kind in ("cpu", "gpu"):
        with made_for(kind):
            found.append(jax.jit(partial(model.apply, {"params": params}))(**batch_of((24, 11, 5))))
    for ours, theirs in zip(*(out.tokens for out in found), strict=True):
        np.testing.assert_array_equal(ours.places, theirs.places)
    np.testing.assert_allclose(found[0].logits, found[1].logits, **OTHER_FRAMEWORK)


@pytest.mark.parametrize(
    ("architecture", "after", "norm"),
    [
        ("BertForTokenClassification", "attention", "post"),
        ("BertForTokenClassification", "layer", "pre"),
        ("BertForQuestionAnswering", "attention", "pre"),
        ("BertForPreTraining", "layer", "post"),
    ],
)
def test_a_head_of_every_token_reads_the_last_state_that_the_token_had(architecture, after, norm):
    labels = ("start", "end") if architecture.endswith("QuestionAnswering") else ("a", "b", "c")
    retention = Retention((0.8, 0.5, 0.5, 0.2), after=after)
    model, params = dropping(retention, architecture=architecture, labels=labels, norm=norm)
    batch = batch_of()
    places = np.stack([np.arange(3) * length // 4 for length in LENGTHS]).astype(np.int32)
    more = (
        {"masked_positions": places, "cls_positions": 0 * places[:, :1]} if architecture == "BertForPreTraining" else {}
    )
    out = run(model, params, batch, **more)
    whole = np.array(out.hidden_states[0])
    for step in range(4):
        if norm == "pre" and step == 3:  # the LayerNorm at the end is for every token, also those dropped before
            part = params["encoder"]["last_norm"]
            centred = whole - whole.mean(axis=-1, keepdims=True)
            deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-12)
            whole = centred / deviation * part["scale"] + part["bias"]
        for row in range(len(LENGTHS)):
            kept = places_of(out, step, row)
            whole[row, kept] = out.hidden_states[step + 1][row, : len(kept)]
    given = jnp.asarray(whole), more.get("cls_positions"), None, more.get("masked_positions")
    logits, pooled = model.apply({"params": params}, *given, method="finish")
    real = slice(None) if more else batch["attention_mask"] > 0
    np.testing.assert_allclose(out.logits[real], np.asarray(logits)[real], **OTHER_FRAMEWORK)
    if more:
        np.testing.assert_allclose(out.pooled, pooled, **OTHER_FRAMEWORK)


# --- what changes nothing --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("retention", [Retention((0.8, 0.5, 0.5, 0.2)), THRESHOLDS])
def test_a_text_has_the_same_answer_alone_in_any_batch_and_at_any_padding(retention):
    model, params = dropping(retention, architecture="BertForTokenClassification")
    near, texts = 0, 0
    for seed in range(4):
        batch, order = batch_of(seed=seed), np.random.default_rng(seed).permutation(len(LENGTHS))
        together = run(model, params, batch)
        gaps = [
            min(survivors_of(together, row, step, retention, length).gap for step in range(4))
            for row, length in enumerate(LENGTHS)
        ]
        junk = {name: np.full((2, 24), 41 * (name == "input_ids"), np.int32) for name in batch}
        junk["attention_mask"] += [[0], [1]]  # without any token, and a full one
        shuffled = {name: np.concatenate([array[order], junk[name]]) for name, array in batch.items()}
        others: dict[str, tuple[Any, Any]] = {"shuffled": (run(model, params, shuffled), order.argsort())}
        wide = {name: np.pad(array, ((0, 0), (0, 13)), constant_values=0) for name, array in batch.items()}
        wide["input_ids"][wide["attention_mask"] == 0] = 17
        others["padded"] = run(model, params, wide), range(len(LENGTHS))
        for row in (3, 8) if seed == 0 else ():
            alone = {name: array[row : row + 1, : LENGTHS[row]] for name, array in batch.items()}
            others[f"alone {row}"] = run(model, params, alone), {row: 0}
        assert np.isfinite(others["shuffled"][0].logits).all()
        for out, rows in others.values():
            for row, length in enumerate(LENGTHS):
                if isinstance(rows, dict) and row not in rows:
                    continue
                near, texts = near + (gaps[row] < CLOSE), texts + 1
                if gaps[row] >= CLOSE:
                    ours, theirs = (each.logits[i][:length] for each, i in ((out, rows[row]), (together, row)))
                    np.testing.assert_allclose(ours, theirs, **OTHER_FRAMEWORK)
                    for step in range(4):
                        assert places_of(out, step, rows[row]) == places_of(together, step, row)
    assert near < 0.02 * texts


def loss_of(model: Any, params: Any, batch: Any, **more: Any) -> Any:
    real = batch["attention_mask"][..., None] > 0
    out = model.apply({"params": params}, **batch, **more)
    logits = jnp.where(real, out.logits, 0.0) if out.logits.ndim == 3 else out.logits
    return jnp.sum(jnp.sin(logits)) / len(LENGTHS)


@partial(jax.jit, static_argnames="model")
def gradient(model: Any, params: Any, batch: Any, **more: Any) -> Any:
    return jax.grad(partial(loss_of, model))(params, batch, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "changes"), [("attention", TAGS), ("layer", {})])
def test_the_gradient_is_that_with_hidden_tokens_also_where_layers_are_recomputed(after, changes):
    retention = Retention((0.8, 0.5, 0.5, 0.25), after=after)
    model, params = dropping(retention, **changes)
    expected = gradient(model, params, batch_of(), token_rule=hide(retention))
    for one in (model, model.clone(config=model.config.replace(remat=True))):
        found = gradient(one, params, batch_of())
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 0.1


def test_eight_devices_give_the_logits_of_one():
    model, params = dropping(architecture="BertForTokenClassification")
    batch = batch_of((*LENGTHS, 24, 13, 6, 0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    params_there = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    here, there = run(model, params, batch), run(model, params_there, spread)
    np.testing.assert_allclose(here.logits, there.logits, **OTHER_FRAMEWORK)
    for ours, theirs in zip(here.tokens, there.tokens, strict=True):
        np.testing.assert_array_equal(ours.places, theirs.places)
    program = str(run.lower(model, params_there, spread).compile().as_text())
    assert "all-gather" not in program, "tokens are ranked and gathered where the text is"


# --- beside other techniques -----------------------------------------------------------------------------------------


def test_a_folder_keeps_the_retention_and_is_not_for_stock_code(tmp_path):
    model, params = dropping(Retention((1.0, 0.6, 0.6, 0.25), "all", "layer", 4))
    bertjax.save(Bundle(model.config, params), tmp_path / "m")
    again = bertjax.load(tmp_path / "m")
    assert again.config == model.config
    assert '"model_type": "bertjax"' in (tmp_path / "m" / "config.json").read_text()
    ours, theirs = (run(build(one), params, batch_of()) for one in (model.config, again.config))
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    with pytest.raises(UserError, match=r"drops tokens, and how many depends on the length of the text.*onnx"):
        export(tmp_path / "m", "litert", tmp_path / "litert")
    with pytest.raises(UserError, match="it drops tokens; export the model without its retention"):
        export(tmp_path / "m", "huggingface", tmp_path / "huggingface")


def test_a_removed_layer_takes_its_share_with_it():
    """As with the layer switched off, where the others rank what is left."""
    retention = Retention((0.8, 0.6, 0.4, 0.2))
    model, params = dropping(retention, architecture="BertForTokenClassification")
    batch, real = batch_of(), batch_of()["attention_mask"] > 0
    for removed in (0, 2):
        kept = [number for number in range(4) if number != removed]
        config, fewer = keep_layers(model.config, params, kept)
        assert config.retention is not None
        assert config.retention.shares == tuple(retention.shares[number] for number in kept)
        switches = jnp.arange(4) != removed
        expected = run(model, params, batch, switches=switches, token_rule=hide(retention))
        found = run(build(config), fewer, batch)
        np.testing.assert_allclose(found.logits[real], expected.logits[real], **OTHER_FRAMEWORK)
        assert places_of(found, 2, 0) == places_of(expected, 3, 0)


def test_a_removed_head_ranks_no_tokens_as_with_a_gate_of_0():
    model, params = dropping(Retention((0.6, 0.3, 0.3, 0.2)))
    gates = [LayerGates(heads=jnp.asarray(one)) for one in ([1.0, 0, 0, 1], [0.0, 1, 0, 0], *[[1.0] * 4] * 2)]
    config, fewer = keep_heads(model.config, params, {0: [0, 3], 1: [1]})
    masked, removed = run(model, params, batch_of(), gates=gates), run(build(config), fewer, batch_of())
    np.testing.assert_allclose(masked.logits, removed.logits, **OTHER_FRAMEWORK)
    for ours, theirs in zip(masked.tokens, removed.tokens, strict=True):
        np.testing.assert_array_equal(ours.places, theirs.places)
    plain = run(model, params, batch_of())
    assert any((a.places != b.places).any() for a, b in zip(plain.tokens, masked.tokens, strict=True))


@pytest.mark.parametrize("after", ["attention", "layer"])
def test_statistics_of_a_layers_inputs_are_of_the_tokens_that_reach_it(after):
    model, params = dropping(Retention((1.0, 0.6, 0.6, 0.3), after=after))
    batch, seen = batch_of(), {}

    def product(site, subscripts, left, right):
        seen[site] = left.shape
        return plain_product(site, subscripts, left, right)

    observed = type(model)(model.config, product)
    out = jax.jit(partial(observed.apply, {"params": params}))(**batch)
    for step in range(4):
        for part in ("attention/query", "attention/output", "ffn/intermediate"):
            known = out.tokens[step + (part.startswith("ffn") and after == "attention")].real
            found = real_rows(model.config, f"step_{step}/{part}", jnp.asarray(batch["attention_mask"]))
            assert seen[f"step_{step}/{part}"][:2] == found.shape
            np.testing.assert_array_equal(found, known)
    counts = [sum(count_of(model.config.retention, step, length) for length in LENGTHS) for step in range(4)]
    after_each = counts if after == "attention" else [sum(LENGTHS), *counts[:-1]]
    weighted = jax.tree.map(jnp.asarray, batch | {"weights": np.ones(len(LENGTHS), np.float32)})
    assert [int(one[0, 0]) for one in activity_sums(model, params, weighted, "neurons")] == after_each
    grams = LeastSquares.on_text(model.config, params, [batch]).grams
    assert [round(float(grams[f"step_{step}/ffn/output"][-1, -1])) for step in range(4)] == after_each
    inputs = batch_products(model, params, weighted)["neurons"]
    for step in range(4):
        np.testing.assert_allclose(inputs[step], grams[f"step_{step}/ffn/output"][:-1, :-1], **OTHER_FRAMEWORK)


def test_a_gate_at_each_position_has_no_gradient_where_the_token_is_dropped():
    """Importance as published has such gates; a text of one token has the same in either form."""
    model, params = dropping(Retention((0.5, 0.5, 0.2, 0.2)))
    batch = jax.tree.map(jnp.asarray, batch_of((24, 1, 7)))
    by_position, whole = (gate_gradients(model, params, batch, first_logit, "heads", form) for form in FORMS)
    for step in range(4):
        assert (by_position[step] > 0.9 * jnp.abs(whole[step])).all()
        np.testing.assert_allclose(by_position[step][1], jnp.abs(whole[step][1]), **OTHER_FRAMEWORK)


FORMS = ("official", "paper")


def first_logit(output: Any, row: Any) -> Any:
    return output.logits[0, 0], 1.0


def test_students_begin_without_token_dropping():
    model, params = dropping()
    teacher = Bundle(model.config, params)
    for shape in (Student(2), Student(4, init_from="random"), Student(4, groups=1)):
        assert shape.initialise(teacher, seed=0).config.retention is None
    assert Student(4, as_is=True).initialise(teacher, seed=0).config.retention == RETENTION


NO_HEADS = (LayerConfig(4, 10), LayerConfig(0, 10), *[LayerConfig(4, 10)] * 2)
FULL = BertConfig(num_hidden_layers=2, dtype="bfloat16")
HALF = Retention((1.0, 0.5))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Retention(()), "expected one for each depth step, from 1 down"),
        (lambda: Retention((0.5, 0.7)), "none above the one before it"),
        (lambda: Retention((1.5,)), r"shares\[0\] is 1.5; expected"),
        (lambda: Retention((float("nan"),)), r"shares\[0\] is NaN; expected"),
        (lambda: Retention((0.5,), multiple=0), "multiple is 0; expected"),
        (lambda: dropping(Retention((0.5,))), "one share for each of 4 depth steps, and there are 1"),
        (lambda: BertConfig(num_hidden_layers=2, recurrence=Recurrence(2), retention=HALF), "at one length; leave it"),
        (lambda: mobile_config("tiny", retention=HALF), "retention: a MobileBERT does not support token dropping"),
        (lambda: FULL.replace(attention="cudnn", retention=HALF), "attention='cudnn' never holds the probabilities"),
        (
            lambda: dropping(Retention((0.9, 0.5, 0.5, 0.5)), layers=NO_HEADS),
            "step 1 drops tokens and has no attention",
        ),
        (lambda: dropped(segment_ids=np.ones((1, 7), np.int32)), "do not pack for this model"),
        (lambda: dropped(switches=jnp.ones(4, bool)), "cannot drop whole layers"),
        (lambda: dropped(None, hide(RETENTION), segment_ids=np.ones((1, 7), np.int32)), "do not pack for it"),
        (lambda: dropped(None, rule_of(RETENTION), switches=jnp.ones(4, bool)), "cannot drop whole layers"),
        (lambda: dropped(None, TokenRule(Hide(RETENTION)), layers=NO_HEADS), "step 1 has no attention heads, which"),
        (lambda: dropped(None, hide(HALF), recurrence=Recurrence(2)), "at one length: leave token dropping out"),
        (lambda: second_half(*dropping()), "layers from 2 on of a model that drops tokens: give the `tokens`"),
        (lambda: one_layer(dropping()[0].config, "teacher"), "progressive: the teacher drops tokens"),
        (lambda: recur(*tied(), Recurrence(4)), "retention: a recurrent model repeats one block at one length"),
    ],
)
def test_what_cannot_drop_tokens_is_said(wrong, said):
    with pytest.raises(UserError, match=said):
        wrong()


def dropped(retention: Retention | None = RETENTION, rule: TokenRule | None = None, **more: Any) -> None:
    """Runs a model."""
    changes = {name: more.pop(name) for name in ("layers", "recurrence") if name in more}
    model, params = dropping(retention, **changes)
    model.apply({"params": params}, **batch_of((7,), 7), token_rule=rule, **more)


def second_half(model: Any, params: Any) -> None:
    hidden, mask = jnp.ones((1, 4, 32)), jnp.ones((1, 1, 1, 4), bool)
    model.apply({"params": params}, hidden, mask, start=2, method="layers")


def tied() -> tuple[Any, Any]:
    model, params = dropping()
    return tie(model.config, params, (0,) * 4)


@pytest.mark.parametrize("ranked_by", ["first", "random"])
def test_the_controls_rank_by_places_and_a_text_has_the_same_ranks_at_any_padding(ranked_by: RankedBy):
    lengths, shares = (12, 7, 12), (0.5, 0.5)
    model, params = tiny(retention=Retention(shares, ranked_by))
    batch = tiny_batch(lengths, 14)
    places = np.asarray(apply(model, params, batch).tokens[1].places)
    kept = [[place for place in row if place < 14] for row in places.tolist()]
    assert [len(row) for row in kept] == [6, 4, 6]
    if ranked_by == "first":
        assert kept == [list(range(6)), list(range(4)), list(range(6))]
    else:
        assert kept[0] == kept[2] != list(range(6))  # the same for all texts of a length
        assert all(row[0] == 0 for row in kept)
    alone = {name: array[1:2, :7] for name, array in batch.items()}
    assert np.asarray(apply(model, params, alone).tokens[1].places).tolist() == [kept[1]]
