"""A quantised model: the same answers in integers, in floating point and after a trip to the disk."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.errors import UserError
from bertjax.measure.cost import forward_cost
from bertjax.model import BertConfig, Halting, LayerConfig, Recurrence, abstract_params, build, init_params
from bertjax.model.sites import integer_sites
from bertjax.params import count, flatten
from bertjax.predict import forward
from bertjax.quantize import Activation, Format, Quantization, Quantized, dequantised, quantise_weights
from bertjax.quantize.activations import find_ranges
from tests.quantize.coverage import executed_products, traced_products
from tests.tolerances import SAME_MATHS

CONFIG = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=12,
    layers=(LayerConfig(3, 40), LayerConfig(2, 17)),
    initializer_range=0.3,
)
PARAMS = init_params(CONFIG, 0)
MIXED = (
    (r"^embeddings/word/embedding$", Format(4, block_rows=1, block_cols=None)),
    (r"^embeddings/.*embedding$", Format(8, block_rows=1, block_cols=None)),
    (r"layer_0/attention/.*kernel$", Format(2, "asymmetric", block_cols=3)),
    (r"layer_0/ffn/intermediate/kernel$", Format(3, "asymmetric", block_rows=8)),
    (r"layer_0/ffn/output/kernel$", Format(scheme="ternary", block_cols=None)),
    (r"encoder/.*kernel$", Format(8)),
)


def batch(rows=3, length=9, seed=0):
    rng = np.random.default_rng(seed)
    ids, mask = rng.integers(1, 50, (rows, length)), np.ones((rows, length), np.int32)
    for row in range(1, rows):
        mask[row, length - row :] = 0
    return ids.astype(np.int32), mask, rng.integers(0, 2, (rows, length)).astype(np.int32)


def logits(config, params, inputs):
    return np.asarray(forward(build(config), jax.device_put(params), *inputs))


def applied(config, params, inputs) -> Any:
    return build(config).apply({"params": params}, *inputs)


def rounded(config, activations, **changes):
    return config.replace(quantization=dataclasses.replace(config.quantization, activations=activations), **changes)


@pytest.fixture(scope="module")
def mixed():
    return quantise_weights(CONFIG, PARAMS, MIXED)


@pytest.fixture(scope="module")
def ranges(mixed):
    return find_ranges(build(mixed[0]), mixed[1], [batch(seed=s) for s in range(3)], "min_max")


def test_integers_compute_as_the_numbers_that_they_stand_for(mixed):
    config, params = mixed
    plain = logits(config.replace(quantization=None), dequantised(params), batch())
    np.testing.assert_allclose(logits(config, params, batch()), plain, **SAME_MATHS)
    assert np.abs(plain - logits(CONFIG, PARAMS, batch())).max() > 1e-3


@pytest.mark.parametrize("fixed", [True, False])
def test_integer_products_are_those_of_rounded_numbers(mixed, ranges, fixed):
    config, params = mixed
    sites = tuple((site, ranges[site] if fixed else Activation()) for site in ranges)
    given = [logits(rounded(config, sites, arithmetic=kind), params, batch()) for kind in ("integer", "float")]
    np.testing.assert_allclose(*given, rtol=1e-4, atol=1e-4)
    without = logits(config, params, batch())
    assert 1e-4 < np.abs(given[0] - without).max() < 0.2


def test_products_are_integers_times_integers_where_the_config_says_so(mixed, ranges):
    config, params = mixed
    model = build(rounded(config, tuple(ranges.items())))
    found = traced_products(lambda p: applied(model.config, p, batch()).logits, params)
    kinds = {product.site: (product.left, product.right, product.result) for product in found}
    for site, given in kinds.items():
        integer = site in ranges and site != "step_0/ffn/intermediate"  # its inputs are in five groups
        assert given == (("int8", "int8", "int32") if integer else ("float32",) * 3), site
    assert set(ranges) < set(kinds)
    compiled = jax.jit(lambda p: applied(model.config, p, batch()).logits).lower(params).compile()
    executed = executed_products(compiled)
    assert sum(executed.values()) >= len(kinds), executed


@pytest.mark.parametrize("fixed", [True, False])
def test_no_answer_depends_on_padding_or_on_the_other_texts(mixed, ranges, fixed):
    config, params = mixed
    config = rounded(config, tuple((site, ranges[site] if fixed else Activation()) for site in ranges))
    ids, mask, types = batch()
    together = logits(config, params, (ids, mask, types))
    longer = [np.pad(x, ((0, 2), (0, 3))) for x in (np.where(mask == 1, ids, 7), mask, types)]
    np.testing.assert_allclose(logits(config, params, longer)[:3], together, **SAME_MATHS)
    for row in range(3):
        alone = [x[row : row + 1, : mask[row].sum()] for x in (ids, mask, types)]
        np.testing.assert_allclose(logits(config, params, alone), together[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["min_max", "moving_average", "percentile", "least_squares"])
def test_padding_never_enters_a_range(how, mixed):
    ids, mask, types = batch()
    cut = [(ids, mask, types), batch(seed=1)]
    garbage: list[Any] = [(np.where(mask == 1, ids, 9), mask, np.where(mask == 1, types, 1)), cut[1]]
    longer: Any = [tuple(np.pad(x, ((0, 1), (0, 2))) for x in one) for one in garbage]
    plain, padded = (find_ranges(build(mixed[0]), mixed[1], given, how) for given in (cut, longer))
    for site, activation in plain.items():
        assert padded[site].low == pytest.approx(activation.low, abs=1e-5), site
        assert padded[site].high == pytest.approx(activation.high, abs=1e-5), site


@pytest.mark.slow
def test_ranges_are_those_of_the_hidden_states(mixed, ranges):
    config, params = mixed
    found = [applied(config, params, batch(seed=s)).hidden_states for s in range(3)]
    real = [np.asarray(states[1])[batch(seed=s)[1] == 1] for s, states in enumerate(found)]
    assert ranges["step_1/attention/query"].low == pytest.approx(min(x.min() for x in real), rel=1e-5)
    assert ranges["step_1/attention/query"].high == pytest.approx(max(x.max() for x in real), rel=1e-5)
    kernels = {"query", "key", "value", "output", "intermediate"}
    assert {
        site.rsplit("/", 1)[-1] for site in ranges
    } == kernels  # of pooler and classifier the kernels are not rounded


def test_a_model_that_recurs_has_no_fixed_ranges():
    config = bertjax.model.universal_config("paper", hidden_size=24, num_attention_heads=3, intermediate_size=40)
    with pytest.raises(UserError, match="use dynamic ranges per token"):
        find_ranges(build(config), {}, [batch()])


@pytest.mark.slow
@pytest.mark.parametrize("halting", [None, Halting(bias=-1.0)])
def test_a_model_that_recurs_rounds_each_token_and_is_counted(halting):
    plain = bertjax.model.universal_config(
        "paper",
        architecture="BertForSequenceClassification",
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=40,
        vocab_size=50,
        recurrence=Recurrence(3, halting=halting),
    )
    config, params = quantise_weights(plain, init_params(plain, 0))
    sites = integer_sites(build(config), params)
    assert {site.split("/")[0] for site in sites} == {"step_0", "pooler", *(["halting"] if halting else [])}
    model = build(rounded(config, tuple((site, Activation()) for site in sites)))
    near, exact = (logits(one, params, batch()) for one in (model.config, config))
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()
    assert forward_cost(model, params, 8).flops == pytest.approx(forward_cost(build(config), params, 8).flops, rel=0.5)


def test_sites_that_read_integers_are_those_with_ranges(mixed, ranges):
    assert set(integer_sites(build(mixed[0]), mixed[1])) == set(ranges)


def test_a_folder_holds_the_same_integers(mixed, ranges, tmp_path):
    config, params = rounded(mixed[0], tuple(ranges.items())), mixed[1]
    bertjax.save(Bundle(config, params), tmp_path / "q")
    again = bertjax.load(tmp_path / "q")
    assert again.config == config
    for path, leaf in flatten(params).items():
        found = flatten(again.params)[path]
        if isinstance(leaf, Quantized):
            assert (found.format, found.grid) == (leaf.format, leaf.grid)
            np.testing.assert_array_equal(found.values, leaf.values)
            np.testing.assert_array_equal(found.scale, leaf.scale)
        else:
            np.testing.assert_array_equal(found, leaf)
    np.testing.assert_array_equal(logits(config, params, batch()), logits(again.config, again.params, batch()))
    content = json.loads((tmp_path / "q" / "config.json").read_text())
    assert content["model_type"] == "bertjax"  # so that stock loaders refuse it


def test_a_file_is_as_small_as_its_bits_say(mixed, tmp_path):
    config, params = mixed
    bertjax.save(Bundle(config, params), tmp_path / "q")
    expected = 0
    for leaf in flatten(params).values():
        if isinstance(leaf, Quantized):
            bits = 1.6 if leaf.format.scheme == "ternary" else leaf.format.bits
            expected += int(np.ceil(np.prod(leaf.shape) * bits / 8)) + leaf.scale.nbytes
            expected += 0 if leaf.offset is None else leaf.offset.nbytes
        else:
            expected += leaf.nbytes
    size = (tmp_path / "q" / "model.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "q" / "model.safetensors").read_bytes()[:8], "little") + 8
    assert size - header == expected
    assert count(params) == count(PARAMS)


def test_shapes_are_told_without_weights(mixed):
    config, params = mixed
    shapes = abstract_params(config)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, shapes, params)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (("step_9/attention/query",), "step_9/attention/query where the model has no quantised matrix"),
        (("step_0/attention/qeury",), "step_0/attention/qeury where the model has no quantised matrix"),
        (("classifier",), "classifier where the model has no quantised matrix"),
        (("step_0/attention/query", "step_0/attention/query"), "step_0/attention/query twice"),
    ],
)
def test_a_range_for_a_place_that_does_not_exist_is_refused(mixed, sites, said, tmp_path):
    """It would be passed over in silence, and another model answer."""
    config = rounded(mixed[0], tuple((site, Activation(8, -1.0, 1.0)) for site in sites))
    bertjax.save(Bundle(config, mixed[1]), tmp_path / "q")
    with pytest.raises(UserError, match=rf"quantization\.activations has the site {said}; .* of the 12 sites"):
        bertjax.load(tmp_path / "q")


def test_damaged_integers_are_refused(mixed, tmp_path):
    from safetensors.numpy import load_file, save_file

    bertjax.save(Bundle(*mixed), tmp_path / "q")
    (tmp_path / "q" / "digests.json").unlink()
    file = tmp_path / "q" / "model.safetensors"
    tensors = load_file(file)
    name = "bert.encoder.layer.0.attention.self.query.weight.integers"
    save_file({**tensors, name: tensors[name][:-1]}, file)
    with pytest.raises(UserError, match=f"{name} is uint8"):
        bertjax.load(tmp_path / "q")
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(UserError, match="lacks 1 parameters"):
        bertjax.load(tmp_path / "q")


def test_what_cannot_be_quantised_says_why(mixed):
    with pytest.raises(UserError, match="quantised already"):
        quantise_weights(*mixed)
    with pytest.raises(UserError, match="matches no parameter"):
        quantise_weights(CONFIG, PARAMS, ((r"encodr", Format()),))


@pytest.mark.slow
def test_a_shared_table_gives_the_words_back():
    """A masked language model reads its word table twice: by row, and as the matrix of its output."""
    config = CONFIG.replace(architecture="BertForMaskedLM", labels=("a", "b"))
    params = init_params(config, 0)
    quantised, leaves = quantise_weights(config, params, MIXED[:2] + MIXED[-1:])
    plain = applied(config, dequantised(leaves), batch()).logits
    found = applied(quantised, leaves, batch()).logits
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
    assert Quantization() != quantised.quantization
    assert jnp.isfinite(found).all()
