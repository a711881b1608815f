"""MobileBERT against PyTorch `transformers`, and IB-BERT, which that cannot run, against NumPy."""

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import bertjax
from bertjax.model import (
    BertConfig,
    BottleneckConfig,
    Exits,
    LayerConfig,
    LayerGates,
    Recurrence,
    abstract_params,
    mobile_config,
)
from bertjax.model.hf_config import config_from_json, config_to_json
from bertjax.params import Tree, count, flatten, step_params
from tests.model.reference import everything, random_batch, torch_logits, torch_model, written
from tests.model.test_parity import assert_gradients_equal, our_gradients, torch_gradients
from tests.model.tiny import apply, run, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

MOBILE: dict[str, Any] = {
    "model_type": "mobilebert",
    "architecture": "MobileBertForSequenceClassification",
    "embedding_size": 5,
    "hidden_act": "relu",
    "bottleneck": BottleneckConfig(6, num_feedforward_networks=3, normalization_type="no_norm", trigram_input=True),
}
TEACHER: dict[str, Any] = {
    "model_type": "mobilebert",
    "architecture": "MobileBertForPreTraining",
    "embedding_size": 5,
    "hidden_act": "gelu_new",
    "bottleneck": BottleneckConfig(18, attention_input="block", trigram_input=True),
}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("MobileBertModel", {"num_feedforward_networks": 3}),
    ("MobileBertForPreTraining", {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False}),
    (
        "MobileBertForMaskedLM",
        {
            "hidden_size": 12,
            "num_attention_heads": 3,
            "intra_bottleneck_size": 12,
            "embedding_size": 7,
            "trigram_input": False,
            "key_query_shared_bottleneck": False,
            "normalization_type": "layer_norm",
        },
    ),
    ("MobileBertForSequenceClassification", {"use_bottleneck": False, "classifier_activation": False}),
    ("MobileBertForTokenClassification", {"normalization_type": "layer_norm", "layer_norm_eps": 1e-2}),
    ("MobileBertForQuestionAnswering", {"use_bottleneck": False, "normalization_type": "layer_norm"}),
    ("MobileBertForNextSentencePrediction", {"num_feedforward_networks": 1, "classifier_activation": False}),
)


def assert_near(ours: Any, theirs: np.ndarray, said: str) -> None:
    """1e-4 of the largest entry: without LayerNorm nothing holds the numbers near 1."""
    assert np.shape(ours) == theirs.shape, said
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-4 * np.abs(theirs).max(), said


@pytest.mark.parametrize(("architecture", "fields"), CASES)
def test_all_that_is_computed_equals_torch_and_the_folder_is_bit_exact(architecture, fields, tmp_path):
    model = torch_model(architecture, len(architecture), num_hidden_layers=2, **fields)
    batch = random_batch(model.config, 3, "right", 8)
    bundle = bertjax.load(written(model, tmp_path / "theirs"))
    assert (bundle.newly_initialized, bundle.ignored) == ((), ())
    ours, theirs = apply(bundle.model, bundle.params, batch), everything(model, batch)
    for name, arrays in (("hidden_states", ours.hidden_states), ("scores", ours.attention_scores)):
        for i, (mine, reference) in enumerate(zip(arrays, theirs[name], strict=True)):
            assert_near(mine, reference, f"{name} {i}")
    for name in ("logits", "sentence_logits"):
        if theirs[name] is not None:
            assert_near(getattr(ours, name), theirs[name], name)
    bertjax.save(bundle, tmp_path / "ours")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name, strict=True)
    opened, info = getattr(transformers, architecture).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    opened.set_attn_implementation("eager")
    again = everything(opened.eval(), batch)
    np.testing.assert_array_equal(again["hidden_states"][-1], theirs["hidden_states"][-1])


def test_queries_that_read_the_input_bottleneck_do_so_whatever_else_the_folder_says(tmp_path):
    """The published TINY config asks for both bottlenecks. `transformers` then stores one that it never uses."""
    model = torch_model("MobileBertModel", 5, num_hidden_layers=1, use_bottleneck_attention=True)
    batch = random_batch(model.config, 5, "none", 8)
    bundle = bertjax.load(written(model, tmp_path))
    assert {name.split(".")[4] for name in bundle.ignored} == {"attention"}
    assert bundle.config.bottleneck is not None
    assert bundle.config.bottleneck.attention_input == "input"
    ours, theirs = apply(bundle.model, bundle.params, batch), everything(model, batch)
    assert_near(ours.hidden_states[-1], theirs["hidden_states"][-1], "last")


def test_gradients_equal_torch(tmp_path):
    model = torch_model("MobileBertForMaskedLM", 33, num_hidden_layers=1)
    batch = random_batch(model.config, 33, "right", 9)
    bundle = bertjax.load(written(model, tmp_path))
    labels = np.random.default_rng(33).integers(0, model.config.vocab_size, (3, 9))
    labels = np.where(batch["attention_mask"], labels, -100)
    assert_gradients_equal(bundle, our_gradients(bundle, batch, labels), torch_gradients(model, batch, labels))


# --- published sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "pooled", "parameters"),
    [
        ("base", True, 24_844_544),
        ("base", False, 24_581_888),
        ("tiny", False, 15_485_696),
        ("teacher", True, 294_467_840),
    ],
)
def test_published_sizes_have_their_number_of_parameters(preset, pooled, parameters):
    """Of the base, with pooler, as `transformers` counts its own; of the others, closed form."""
    config = mobile_config(preset, architecture="MobileBertModel", dense_pooler=pooled)
    assert count(abstract_params(config)) == parameters == closed_form(config)
    if preset == "base":
        theirs = transformers.MobileBertConfig(classifier_activation=pooled)
        with torch.device("meta"):
            assert sum(p.numel() for p in transformers.MobileBertModel(theirs).parameters()) == parameters


def closed_form(config: BertConfig) -> int:
    """Weights, biases and norms of the encoder, by hand."""
    bottleneck = config.bottleneck
    assert bottleneck is not None
    wide, narrow, ffn = config.hidden_size, bottleneck.intra_bottleneck_size, config.intermediate_size
    matched = wide if bottleneck.attention_input == "block" else narrow
    valued = narrow if bottleneck.attention_input == "input" else wide
    inputs = (1 + (bottleneck.attention_input == "shared")) * (wide * narrow + 3 * narrow)
    attention = 2 * (matched * narrow + narrow) + (valued * narrow + narrow) + (narrow * narrow + 3 * narrow)
    ffns = bottleneck.num_feedforward_networks * (2 * narrow * ffn + ffn + 3 * narrow)
    layer = inputs + attention + ffns + narrow * wide + 3 * wide
    tables = 30522 * 128 + (512 + 2) * wide + 3 * 128 * wide + 3 * wide
    return tables + 24 * layer + bottleneck.dense_pooler * (wide * wide + wide)


# --- IB-BERT ---------------------------------------------------------------------------------------------------------


def ib_bert(params: Tree, ids: np.ndarray, mask: np.ndarray, types: np.ndarray, heads: int) -> dict[str, Any]:
    """Sun et al. 2020, figure 1b, position by position, in float64."""

    def dense(part: Tree, x: np.ndarray) -> np.ndarray:
        return x @ np.float64(part["kernel"]) + part["bias"]

    def norm(part: Tree, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-12) * part["scale"] + part["bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    tables, (rows, columns) = params["embeddings"], ids.shape
    word = np.asarray(tables["word"]["embedding"], np.float64)
    state = np.zeros((rows, columns, len(tables["mapping"]["bias"])))
    for r in range(rows):
        for c in range(columns):
            around = [word[ids[r, i]] if 0 <= i < columns else 0 * word[0] for i in (c + 1, c, c - 1)]
            state[r, c] = dense(tables["mapping"], np.concatenate(around))
            state[r, c] += tables["position"]["embedding"][c] + tables["token_type"]["embedding"][types[r, c]]
    states, queries = [norm(tables["layer_norm"], state)], []
    for layer in params["encoder"].values():
        x, looks = states[-1], layer["attention"]
        inner = norm(layer["input_bottleneck"]["layer_norm"], dense(layer["input_bottleneck"]["dense"], x))
        q, k, v = (dense(looks[name], x) for name in ("query", "key", "value"))
        size, context = q.shape[-1] // heads, np.zeros_like(q)
        for r in range(rows):
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                weights = np.exp(q[r, :, part] @ k[r, :, part].T / math.sqrt(size)) * mask[r]
                context[r, :, part] = weights / weights.sum(-1, keepdims=True) @ v[r, :, part]
        inner = norm(looks["layer_norm"], inner + dense(looks["output"], context))
        ffn = layer["ffn"]
        inner = norm(ffn["layer_norm"], inner + dense(ffn["output"], gelu(dense(ffn["intermediate"], inner))))
        out = layer["output_bottleneck"]
        states.append(norm(out["layer_norm"], x + dense(out["dense"], inner)))
        queries.append(q.reshape(rows, columns, heads, size))
    last = norm(params["transform_norm"], gelu(dense(params["transform"], states[-1])))
    output = np.concatenate([word.T, params["decoder_rest"]])
    pooled = np.tanh(dense(params["pooler"], states[-1][:, 0]))
    return {
        "hidden_states": states,
        "queries": queries,
        "logits": last @ output + params["decoder_bias"],
        "sentence_logits": dense(params["seq_relationship"], pooled),
    }


def test_ib_bert_equals_numpy(tmp_path):
    model, params = tiny(**TEACHER)
    batch = tiny_batch()
    ours = apply(model, params, batch)
    theirs = ib_bert(params, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], heads=3)
    assert [state.shape for state in ours.hidden_states] == [(3, 7, 12)] * 3
    assert [query.shape for query in ours.queries] == [(3, 7, 3, 6)] * 2
    for name in ("hidden_states", "queries"):
        for i, (mine, reference) in enumerate(zip(getattr(ours, name), theirs[name], strict=True)):
            assert_near(mine, reference, f"{name} {i}")
    for name in ("logits", "sentence_logits"):
        assert_near(getattr(ours, name), theirs[name], name)
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path / "teacher")
    assert json.loads((tmp_path / "teacher" / "config.json").read_text())["model_type"] == "bertjax"
    with pytest.raises(ValueError, match="model type `bertjax`"):
        transformers.AutoModel.from_pretrained(tmp_path / "teacher")
    again = bertjax.load(tmp_path / "teacher")
    assert again.config == model.config
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(again.params)[path], leaf, err_msg=path)


# --- what holds for every model --------------------------------------------------------------------------------------


def test_a_model_made_here_gives_the_same_logits_in_transformers(tmp_path):
    model, params = tiny(**MOBILE)
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(opened).__name__ == "MobileBertForSequenceClassification"
    theirs = torch_logits(opened, tiny_batch())
    assert theirs is not None
    assert_near(apply(model, params, tiny_batch()).logits, theirs.detach().numpy(), "logits")
    stored = dataclasses.replace(MOBILE["bottleneck"], main_norm_eps=1e-5)
    assert bertjax.load(tmp_path).config == model.config.replace(bottleneck=stored)


def padded(batch: dict[str, Any], columns: int) -> dict[str, Any]:
    return {name: np.pad(array, ((0, 0), (0, columns))) for name, array in batch.items()}


def test_how_much_padding_follows_changes_nothing_and_whether_any_does_only_by_its_row_of_the_table():
    model, params = tiny(**MOBILE)
    batch = tiny_batch((7, 4), columns=8)
    outputs = apply(model, params, batch), apply(model, params, padded(batch, 3))
    np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, **SAME_MATHS)
    bare = {name: array[:, :7] for name, array in batch.items()}
    first = np.asarray(apply(model, params, bare).hidden_states[0] - outputs[0].hidden_states[0][:, :7])
    assert np.abs(first[:, :6]).max() < 1e-6
    assert np.abs(first[0, 6]).max() > 0.1  # the last token of the full row now sees [PAD]
    params["embeddings"]["word"]["embedding"][0] = 0
    np.testing.assert_allclose(apply(model, params, bare).logits, apply(model, params, batch).logits, **SAME_MATHS)


@pytest.mark.slow
def test_rematerialisation_and_tokens_change_nothing():
    model, params = tiny(**MOBILE)
    batch = tiny_batch()

    def loss(params: Tree, model: Any) -> Any:
        return jnp.sum(run(model, params, batch).logits ** 2)

    again, _ = tiny(**MOBILE, remat=True)
    plain, rematted = (jax.jit(jax.value_and_grad(lambda p, m=m: loss(p, m)))(params) for m in (model, again))
    np.testing.assert_allclose(plain[0], rematted[0], **SAME_MATHS)
    for path, leaf in flatten(plain[1]).items():
        scale = np.abs(leaf).max()
        assert scale > 0 or path.endswith("key/bias"), path
        assert np.abs(leaf - flatten(rematted[1])[path]).max() <= 1e-5 * scale, path

    def in_tokens(module: Any) -> Any:
        hidden = module.embed(batch["input_ids"], batch["token_type_ids"])
        mask = jnp.asarray(batch["attention_mask"] > 0)[:, None, None, :]
        for start in range(2):
            hidden = module.layers(hidden, mask, start=start, stop=start + 1)[-1].hidden
        return module.finish(hidden)[0]

    logits: Any = model.apply({"params": params}, method=in_tokens)
    np.testing.assert_allclose(logits, apply(model, params, batch).logits, rtol=1e-5, atol=1e-5)


def test_every_product_passes_the_one_place_under_a_name_of_its_own():
    model, params = tiny(**{**MOBILE, "architecture": "MobileBertForPreTraining"})
    seen = []

    def product(site, subscripts, left, right):
        seen.append(site)
        return bertjax.model.products.plain_product(site, subscripts, left, right)

    jax.eval_shape(lambda: run(model.clone(product=product), params, tiny_batch()))
    assert len(seen) == len(set(seen))
    parts = ("input_bottleneck", "shared_bottleneck", "output_bottleneck", "ffn_0/intermediate", "ffn_1/output")
    assert {f"step_1/{part}" for part in parts} | {"embeddings/mapping", "decoder", "decoder_rest"} < set(seen)
    kernels = [path for path in flatten(params) if path.endswith(("/kernel", "/embedding"))]
    assert len(seen) == len(kernels) + 2 * 2 + 2  # scores and context of two layers; the decoder's two


def test_exits_stand_on_top_and_half_of_the_layers_are_a_model():
    from bertjax.adaptive.segments import sub_model

    model, params = tiny(**MOBILE, exits=Exits(after=(0,)))
    batch = tiny_batch()
    outputs = apply(model, params, batch)
    config, half = sub_model(model.config, params, 1, 2)
    assert [one.shape for one in outputs.exit_logits] == [(3, 3)]
    other = bertjax.model.build(config)
    mask = jnp.asarray(batch["attention_mask"] > 0)[:, None, None, :]
    after = other.apply({"params": half}, outputs.hidden_states[1], mask, method="layers")
    np.testing.assert_allclose(after[0].hidden, outputs.hidden_states[2], rtol=1e-5, atol=1e-5)
    (step, *_) = model.config.depth_steps()
    assert step_params(params, step).keys() == params["encoder"]["layer_0"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_groups": 1}, "layers of a MobileBERT cannot share parameters"),
        ({"layers": (LayerConfig(3, 10, ffn=0), LayerConfig(3, 10, ffn=0))}, "layers of a MobileBERT cannot share"),
        ({"recurrence": Recurrence(2)}, "a MobileBERT cannot be recurrent"),
        ({"norm": "pre"}, "a MobileBERT has norm='post'"),
        ({"factorised": "words"}, "factorised is 'words'; a MobileBERT supports only 'sum'"),
        ({"embedding_size": 13}, "embedding_size is 13; a MobileBERT has at most its hidden_size, 12"),
        (
            {"bottleneck": BottleneckConfig(7)},
            "num_attention_heads is 3; intra_bottleneck_size 7 is not divisible by it",
        ),
        ({"model_type": "bert", "architecture": "BertModel"}, "only a MobileBERT has one: leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(bertjax.UserError, match=message):
        tiny(**{**MOBILE, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intra_bottleneck_size": -3}, "intra_bottleneck_size is -3; expected a whole number from 0"),
        ({"num_feedforward_networks": 0}, "num_feedforward_networks is 0; expected a whole number from 1"),
    ],
)
def test_an_impossible_bottleneck_is_refused(changes, message):
    with pytest.raises(bertjax.UserError, match=message):
        BottleneckConfig(**changes)


def test_formats_before_3_had_the_fields_of_a_bottleneck_among_those_of_the_model():
    content = config_to_json(tiny(**TEACHER)[0].config)
    fields = content["bertjax"]
    assert fields.pop("format") == 3
    nested = fields.pop("bottleneck")
    flat = {"bottleneck_attention" if name == "attention_input" else name: value for name, value in nested.items()}
    for older in (1, 2):
        old = fields | flat | {"format": older}
        assert config_from_json(content | {"bertjax": old}, "here") == tiny(**TEACHER)[0].config
    with pytest.raises(bertjax.UserError, match="only a MobileBERT has one"):
        config_from_json(content | {"bertjax": fields | flat | {"model_type": "bert"}}, "here", "BertModel")


def test_gates_and_packed_rows_are_refused():
    model, params = tiny(**MOBILE)
    gates = [LayerGates(heads=jnp.ones(3)), LayerGates()]
    with pytest.raises(bertjax.UserError, match="a MobileBERT does not support gates"):
        run(model, params, tiny_batch(), gates=gates)
    with pytest.raises(bertjax.UserError, match="do not pack for this model"):
        run(model, params, tiny_batch(), segment_ids=tiny_batch()["attention_mask"])
