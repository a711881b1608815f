"""The model against itself: what must not change a result, and what must change it in a known way.

That it computes what BERT computes is shown in test_parity.py.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.machine.layout import softmax_axis
from bertjax.machine.xla import made_for
from bertjax.model import BertConfig, LayerConfig, LayerGates, abstract_params, build, init_params, key_mask
from bertjax.model.products import plain_product
from bertjax.params import Tree, count, flatten, unflatten
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.tolerances import BFLOAT16, SAME_MATHS

MODEL = build(TINY)
HEADS, NEURONS, STEPS = 3, 10, 2


@pytest.fixture(scope="module")
def params() -> Tree:
    return tiny()[1]


@pytest.fixture(scope="module")
def plain(params) -> Any:
    return apply(MODEL, params, tiny_batch())


def close(a, b, **tolerance) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), **(tolerance or SAME_MATHS))


def watching(site, subscripts, left, right):
    """A product that is not the plain one, though it computes the same."""
    return plain_product(site, subscripts, left, right)


def ones(**changes) -> list[LayerGates]:
    """Gates of 1 everywhere; `changes` replace them in step 1."""
    gate = LayerGates(jnp.ones(HEADS), jnp.ones(NEURONS), jnp.ones(()))
    return [gate, gate._replace(**changes)]


# --- what changes nothing --------------------------------------------------------------------------------------------


def test_more_padding_and_garbage_in_it_change_no_real_output(params, plain):
    batch, wide = tiny_batch(), tiny_batch(columns=11)
    padding = wide["attention_mask"] == 0
    for name, garbage in (("input_ids", 999), ("token_type_ids", -7)):
        wide[name][:, :7] = batch[name]
        wide[name][padding] = garbage
    wider = apply(MODEL, params, wide)
    real = batch["attention_mask"] > 0
    for a, b in zip(plain.hidden_states, wider.hidden_states, strict=True):
        close(np.asarray(a)[real], np.asarray(b)[:, :7][real])
    close(plain.logits, wider.logits)
    close(plain.pooled, wider.pooled)


def test_a_row_alone_and_in_a_batch_agree(params, plain):
    alone = apply(MODEL, params, tiny_batch((7,)) | {k: v[1:2] for k, v in tiny_batch().items()})
    close(plain.logits[1:2], alone.logits)
    close(plain.hidden_states[-1][1:2, :4], alone.hidden_states[-1][:, :4])


def test_mask_and_types_may_be_left_out(params):
    batch = tiny_batch((7, 7))
    batch["token_type_ids"][:] = 0
    close(apply(MODEL, params, {"input_ids": batch["input_ids"]}).logits, apply(MODEL, params, batch).logits)


def test_a_row_of_padding_alone_is_finite_forward_and_backward(params):
    batch = tiny_batch((7, 0))

    def total(params):
        return run(MODEL, params, batch).logits.sum()

    value, gradients = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in flatten(gradients).values())


def test_the_tokens_composed_are_the_whole(params, plain):
    batch = tiny_batch()

    @jax.jit
    def in_parts(params):
        bound = MODEL.bind({"params": params})
        hidden = bound.embed(batch["input_ids"], batch["token_type_ids"])
        mask = key_mask(batch["attention_mask"])
        first = bound.layers(hidden, mask, stop=1)
        second = bound.layers(first[-1].hidden, mask, start=1)
        return [hidden, first[-1].hidden, second[-1].hidden], *bound.finish(second[-1].hidden)

    hidden_states, logits, pooled = in_parts(params)
    for a, b in zip(hidden_states, plain.hidden_states, strict=True):
        close(a, b)
    close(logits, plain.logits)
    close(pooled, plain.pooled)


@pytest.mark.slow
def test_rematerialisation_changes_neither_values_nor_gradients():
    def loss_and_gradients(remat: bool):
        model, params = tiny(remat=remat)

        def loss(params):
            return jnp.sum(run(model, params, tiny_batch(), rngs={"dropout": jax.random.key(1)}).logits)

        return jax.jit(jax.value_and_grad(loss))(params)

    stored, recomputed = loss_and_gradients(False), loss_and_gradients(True)
    close(stored[0], recomputed[0])
    assert flatten(stored[1]).keys() == flatten(recomputed[1]).keys()
    for path, gradient in flatten(stored[1]).items():
        close(gradient, flatten(recomputed[1])[path], rtol=1e-5, atol=1e-6)


def test_packed_rows_equal_separate_rows(params, plain):
    """Three texts in one row of 17 columns, which is more than the MODEL has positions, with one column to spare."""
    batch, lengths = tiny_batch(), (7, 4, 5)
    real = batch["attention_mask"] > 0

    def packed(array):
        return np.append(array[real], 0)[None].astype(np.int32)

    position = np.broadcast_to(np.arange(7), real.shape)
    segment = np.broadcast_to(np.arange(1, 4)[:, None], real.shape)
    out = apply(
        MODEL,
        params,
        {name: packed(array) for name, array in batch.items()},
        position_ids=packed(position),
        segment_ids=packed(segment),
        cls_positions=np.array([[0, 7, 11]], np.int32),
    )
    for a, b in zip(out.hidden_states, plain.hidden_states, strict=True):
        close(np.asarray(a)[0, : sum(lengths)], np.asarray(b)[real])
    close(out.logits[0], plain.logits)
    close(out.pooled[0], plain.pooled)


def test_bfloat16_is_close_to_float32(plain):
    out = apply(*tiny(dtype="bfloat16"), tiny_batch())
    assert out.hidden_states[0].dtype == out.queries[0].dtype == out.logits.dtype == jnp.bfloat16
    real = tiny_batch()["attention_mask"] > 0
    for a, b in zip(out.hidden_states, plain.hidden_states, strict=True):
        difference = (np.asarray(a, np.float32) - np.asarray(b))[real]
        assert np.linalg.norm(difference) <= BFLOAT16["rtol"] * np.linalg.norm(np.asarray(b)[real])


# --- gates -----------------------------------------------------------------------------------------------------------


def test_gates_of_one_change_nothing(params, plain):
    for out in (
        apply(MODEL, params, tiny_batch(), gates=ones()),
        apply(MODEL, params, tiny_batch(), gates=[LayerGates(), LayerGates(layer=jnp.ones(3))]),
    ):
        close(out.logits, plain.logits)


def without(params: Tree, pattern: str, keep: np.ndarray, axis: int) -> Tree:
    flat = flatten(params)
    return unflatten(flat | {pattern: np.compress(keep, flat[pattern], axis=axis)})


def test_a_head_gated_by_zero_a_head_with_zeroed_weights_and_a_removed_head_agree(params):
    gated = apply(MODEL, params, tiny_batch(), gates=ones(heads=jnp.array([1.0, 0, 1])))
    keep = np.repeat([True, False, True], 4)
    zeroed, removed, site = params, params, "encoder/layer_1/attention"
    for name in ("value/kernel", "value/bias"):
        zeroed = unflatten(flatten(zeroed) | {f"{site}/{name}": flatten(params)[f"{site}/{name}"] * keep})
    for name in ("query/kernel", "query/bias", "key/kernel", "key/bias", "value/kernel", "value/bias"):
        removed = without(removed, f"{site}/{name}", keep, axis=-1)
    removed = without(removed, f"{site}/output/kernel", keep, axis=0)
    smaller, _ = tiny(layers=(LayerConfig(3, 10), LayerConfig(2, 10)))
    close(apply(MODEL, zeroed, tiny_batch()).logits, gated.logits)
    close(apply(smaller, removed, tiny_batch()).logits, gated.logits)


def test_neurons_gated_by_zero_and_removed_neurons_agree(params):
    keep = np.arange(NEURONS) % 3 > 0
    gated = apply(MODEL, params, tiny_batch(), gates=ones(neurons=jnp.asarray(keep, jnp.float32)))
    removed, site = params, "encoder/layer_1/ffn"
    for name, axis in (("intermediate/kernel", 1), ("intermediate/bias", 0), ("output/kernel", 0)):
        removed = without(removed, f"{site}/{name}", keep, axis)
    smaller, _ = tiny(layers=(LayerConfig(3, 10), LayerConfig(3, int(keep.sum()))))
    close(apply(smaller, removed, tiny_batch()).logits, gated.logits)


def test_a_layer_without_heads_and_neurons_is_all_gates_zero(params):
    """What is left of it: two biases and two LayerNorms."""
    gated = apply(MODEL, params, tiny_batch(), gates=ones(heads=jnp.zeros(HEADS), neurons=jnp.zeros(NEURONS)))
    removed = flatten(params)
    for path, leaf in flatten(abstract_params(TINY.replace(layers=(LayerConfig(3, 10), LayerConfig(0, 0))))).items():
        if 0 in leaf.shape:
            removed[path] = np.zeros(leaf.shape, np.float32)
    empty, _ = tiny(layers=(LayerConfig(3, 10), LayerConfig(0, 0)))
    close(apply(empty, unflatten(removed), tiny_batch()).logits, gated.logits)


def test_a_layer_gated_by_zero_passes_its_input_on(params, plain):
    out = apply(MODEL, params, tiny_batch(), gates=ones(layer=jnp.array([0.0, 1, 0])))
    close(out.hidden_states[2][::2], out.hidden_states[1][::2])
    close(out.hidden_states[2][1], plain.hidden_states[2][1])


def test_gradients_of_gates_per_example_equal_a_loop(params):
    batch = tiny_batch()

    def loss(heads, row):
        gates = [LayerGates(heads=heads[step]) for step in range(STEPS)]
        row = {name: array[None] for name, array in row.items()}
        return jax.nn.log_softmax(run(MODEL, params, row, gates=gates).logits)[0, 1]

    heads = jnp.ones((STEPS, HEADS))
    together = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(heads, batch)
    one = jax.jit(jax.grad(loss))
    for i in range(3):
        alone = one(heads, {name: array[i] for name, array in batch.items()})
        close(together[i], alone, rtol=1e-5, atol=1e-6)
        assert np.abs(alone).min() > 0


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_needs_a_key_and_follows_it(params, plain):

    @jax.jit
    def logits(params, key):
        return run(MODEL, params, tiny_batch(), rngs={"dropout": key}).logits

    one, same, other = (logits(params, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-3)
    assert not np.allclose(one, plain.logits, atol=1e-3)
    still, _ = tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    close(apply(still, params, tiny_batch(), rngs={"dropout": jax.random.key(1)}).logits, plain.logits)


def test_every_dropout_of_the_paper_is_there(monkeypatch):
    """Embeddings, then per layer probabilities, attention output and feed-forward output, then before the head."""
    rates = {"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.75}
    seen = []

    def watched(x, rate, key):
        seen.append((rate, x.shape, key is not None))
        return x

    for module in ("embeddings", "attention", "layers", "heads"):
        monkeypatch.setattr(f"bertjax.model.{module}.dropout", watched)
    hidden, scores = (0.25, (3, 7, 12), True), (0.5, (3, 3, 7, 7), True)
    for architecture, shape in (("BertForTokenClassification", (3, 7, 12)), ("BertForSequenceClassification", (3, 12))):
        model, params = tiny(architecture=architecture, **rates)
        watcher = model.clone(product=watching)
        seen.clear()
        jax.eval_shape(lambda: run(watcher, params, tiny_batch(), rngs={"dropout": jax.random.key(0)}))  # noqa: B023
        assert seen == [hidden, *(scores, hidden, hidden) * STEPS, (0.75, shape, True)]


def test_dropout_averaged_over_keys_is_the_deterministic_value():
    """Up to a bias of the order of the rate, from the layers' curvature; the spread is of the order of its root."""
    model, params = tiny(hidden_dropout_prob=1 / 256, attention_probs_dropout_prob=1 / 256)

    @jax.jit
    def logits(params, keys):
        return jax.vmap(lambda key: run(model, params, tiny_batch(), rngs={"dropout": key}).logits)(keys)

    drawn = np.asarray(logits(params, jax.random.split(jax.random.key(0), 2000)))
    expected = np.asarray(apply(model, params, tiny_batch()).logits)
    assert np.all(np.abs(drawn.mean(axis=0) - expected) < 0.2 * drawn.std(axis=0))


# --- products and sizes ----------------------------------------------------------------------------------------------

SCORES = "bhmq" if softmax_axis() == -2 else "bhqm"
LAYER_SITES = (
    ("attention/query", "abi,io->abo"),
    ("attention/key", "abi,io->abo"),
    ("attention/value", "abi,io->abo"),
    ("attention/scores", f"bqhk,bmhk->{SCORES}"),
    ("attention/context", f"{SCORES},bmhk->bqhk"),
    ("attention/output", "abi,io->abo"),
    ("ffn/intermediate", "abi,io->abo"),
    ("ffn/output", "abi,io->abo"),
)
EMBEDDING_SITES = tuple((f"embeddings/{name}", "lookup") for name in ("word", "position", "token_type"))
HEAD_SITES = {
    "BertModel": [("pooler", "ai,io->ao")],
    "BertForSequenceClassification": [("pooler", "ai,io->ao"), ("classifier", "ai,io->ao")],
    "BertForQuestionAnswering": [("qa_outputs", "abi,io->abo")],
    "BertForMaskedLM": [("transform", "abi,io->abo"), ("decoder", "bld,vd->blv")],
}


@pytest.mark.parametrize("architecture", HEAD_SITES)
def test_a_product_sees_every_site_once_and_replaces_it(architecture):
    labels = ("a", "b") if architecture == "BertForQuestionAnswering" else ("a", "b", "c")
    model, params = tiny(architecture=architecture, labels=labels)
    seen = []

    def product(site, subscripts, left, right):
        seen.append((site, subscripts))
        return 2 * plain_product(site, subscripts, left, right)

    doubled = jax.eval_shape(lambda: run(model.clone(product=product), params, tiny_batch()))
    layers = [(f"step_{i}/{site}", subscripts) for i in range(STEPS) for site, subscripts in LAYER_SITES]
    assert seen == [*EMBEDDING_SITES, *layers, *HEAD_SITES[architecture]]
    assert doubled.hidden_states[-1].shape == (3, 7, 12)


@pytest.mark.slow
def test_the_order_of_the_scores_is_a_matter_of_speed_alone():
    model, params = tiny()
    segments = np.arange(7)[None].repeat(3, axis=0) // 3
    found = []
    for kind in ("cpu", "gpu"):
        with made_for(kind):
            found.append(
                [run(model, params, tiny_batch(), **more).hidden_states for more in ({}, {"segment_ids": segments})]
            )
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


PUBLISHED = {
    "BERT-base": (BertConfig(), 109_482_240),
    "BERT-large": (
        BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
        335_141_888,
    ),
    "DistilBERT": (
        BertConfig("distilbert", "DistilBertModel", num_hidden_layers=6, type_vocab_size=0),
        66_362_880,
    ),
    "MiniLM-L6": (BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536), 22_713_216),
    "TinyBERT-4": (BertConfig(hidden_size=312, num_hidden_layers=4, intermediate_size=1200), 14_350_248),
    "TinyBERT-6, BERT6-PKD": (BertConfig(num_hidden_layers=6), 66_955_008),
    "BERT3-PKD": (BertConfig(num_hidden_layers=3), 45_691_392),
}


def test_fresh_parameters_are_as_published_and_the_same_alone():
    """Normal with the config's spread, LayerNorm the identity, biases 0 (Devlin et al. 2018)."""
    config = TINY.replace(vocab_size=3000, initializer_range=0.05)
    whole = flatten(init_params(config, seed=3))
    assert {path: leaf.shape for path, leaf in whole.items()} == {
        path: leaf.shape for path, leaf in flatten(abstract_params(config)).items()
    }
    assert abs(whole["embeddings/word/embedding"].std() - 0.05) < 0.001
    for path, leaf in whole.items():
        if path.endswith(("scale", "bias")):
            np.testing.assert_array_equal(leaf, float(path.endswith("scale")))
    path = "pooler/kernel"
    np.testing.assert_array_equal(flatten(init_params(config, 3, only=[path]))[path], whole[path])
    assert not np.array_equal(flatten(init_params(config, 4, only=[path]))[path], whole[path])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_published_number_of_parameters(name):
    config, expected = PUBLISHED[name]
    assert count(abstract_params(config)) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 13}, "num_attention_heads is 3; hidden_size 13 is not divisible by it"),
        ({"num_hidden_layers": 3, "layers": (LayerConfig(3, 10),)}, "num_hidden_layers is 3; `layers` has 1 entries"),
        ({"vocab_size": 0}, "vocab_size is 0; expected a whole number from 1 to"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0; expected a number of at least 0, below 1"),
        ({"attention": "cudnn"}, "attention='cudnn' supports only bfloat16"),
        ({"model_type": "distilbert"}, "a class name that begins with DistilBert"),
        ({"model_type": "distilbert", "architecture": "DistilBertModel"}, "type_vocab_size is 2; DistilBERT has no"),
        (
            {"architecture": "BertModel", "classifier_activation": "relu"},
            "has no classifier on a pooled vector",
        ),
        ({"architecture": "BertForQuestionAnswering"}, "question answering has exactly two, start and end"),
    ],
)
def test_an_impossible_config_says_what_would_be_possible(changes, said):
    with pytest.raises(UserError, match=said):
        TINY.replace(**changes)


def test_a_choice_that_does_not_exist_is_answered_with_those_that_do(monkeypatch):
    """Without the type checks that otherwise run during tests and would answer first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for field, value, known in (
        ("hidden_act", "swish", "gelu, gelu_new, relu"),
        ("dtype", "half", "float32, bfloat16"),
        ("classifier_activation", "gelu", "relu"),
    ):
        with pytest.raises(UserError, match=f'{field} is "{value}"; expected one of {known}'):
            TINY.replace(**{field: value})


def test_an_unknown_architecture_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="'BertForMagic' is not one of: BertModel, BertForSequenceClassification"):
        tiny(architecture="BertForMagic")


def test_too_many_columns_are_refused_with_the_limit(params):
    with pytest.raises(UserError, match="17 columns, and the model only 16 positions"):
        run(MODEL, params, {"input_ids": np.ones((1, 17), np.int32)})
