"""Layers that share parameters, and embeddings of another width: sizes, gradients, folders, dropout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import bertjax
from bertjax.model import AlbertModel, BertConfig, LayerConfig, abstract_params, build
from bertjax.params import Tree, count, flatten, unflatten
from tests.model.tiny import TINY, apply, run, tiny, tiny_batch
from tests.tolerances import OTHER_FRAMEWORK, SAME_MATHS

DEPTH = 4
# Which group each of four steps takes its attention, its feed-forward layer and its two LayerNorms from.
PATTERNS = {
    "all": [LayerConfig(3, 10, 0, 0)] * DEPTH,
    "attention": [LayerConfig(3, 10, attention=0)] * DEPTH,
    "ffn": [LayerConfig(3, 10, ffn=0)] * DEPTH,
    "all but the norms": [LayerConfig(3, 10, 0, 0, step, step) for step in range(DEPTH)],
    "two groups": [LayerConfig(3, 10, step // 2, step // 2) for step in range(DEPTH)],
    "cycle of two": [LayerConfig(3, 10, step % 2, step % 2) for step in range(DEPTH)],
    "ffn of another size in one step": [LayerConfig(3, 10, 0, 0)] * (DEPTH - 1) + [LayerConfig(3, 7, 0, DEPTH)],
}


def shared(pattern: str, **changes):
    return tiny(num_hidden_layers=DEPTH, layers=tuple(PATTERNS[pattern]), **changes)


def untied(config: BertConfig, params: Tree) -> tuple[BertConfig, Tree]:
    """The same numbers with groups of its own for every step."""
    flat = {path: leaf for path, leaf in flatten(params).items() if not path.startswith("encoder/")}
    layers = []
    for number, step in enumerate(config.depth_steps()):
        layers.append(LayerConfig(*step.shape))
        parts = {"attention": step.attention, "ffn": step.ffn}
        norms = {"attention": step.attention_norm, "ffn": step.ffn_norm}
        for name in parts:
            products = params["encoder"][f"layer_{parts[name]}"][name]
            own = {**products, "layer_norm": params["encoder"][f"layer_{norms[name]}"][name]["layer_norm"]}
            flat |= {f"encoder/layer_{number}/{name}/{path}": leaf for path, leaf in flatten(own).items()}
    return config.replace(layers=tuple(layers)), unflatten(flat)


# --- sizes -----------------------------------------------------------------------------------------------------------


def albert(width: int, depth: int, heads: int) -> BertConfig:
    return BertConfig(
        model_type="albert",
        architecture="AlbertModel",
        vocab_size=30000,
        embedding_size=128,
        hidden_size=width,
        num_hidden_layers=depth,
        num_hidden_groups=1,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (albert(768, 12, 12), 11_683_584),
        (albert(1024, 24, 16), 17_683_968),
        (albert(2048, 24, 16), 58_724_864),
        (albert(4096, 12, 64), 222_595_584),
    ],
)
def test_the_published_sizes_have_as_many_parameters_as_in_torch(config, parameters):
    assert count(abstract_params(config)) == parameters
    theirs = transformers.AlbertConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in transformers.AlbertModel(theirs).parameters()) == parameters


@pytest.mark.parametrize(
    ("width", "sharing", "millions"),
    [
        (768, {"attention": 0, "ffn": 0}, 31.1),
        (768, {"attention": 0}, 83.1),
        (768, {"ffn": 0}, 57.1),
        (768, {}, 109.1),
        (128, {"attention": 0, "ffn": 0}, 11.7),
        (128, {"attention": 0}, 63.6),
        (128, {"ffn": 0}, 37.7),
        (128, {}, 89.7),
    ],
)
def test_the_sharing_ablation_has_the_sizes_of_the_paper(width, sharing, millions):
    """Lan et al. 2020, table 4."""
    layers = (LayerConfig(12, 3072, **sharing),) * 12
    config = BertConfig(vocab_size=30000, embedding_size=width, layers=layers)
    assert round(count(abstract_params(config)) / 1e6, 1) == millions


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_gradient_of_a_shared_array_is_the_sum_over_the_steps_that_use_it(pattern):
    model, params = shared(pattern)
    loose_config, loose_params = untied(model.config, params)
    loose = build(loose_config)
    batch = tiny_batch()

    def loss(model, params):
        out = run(model, params, batch)
        return jnp.sum(jnp.square(out.logits)) + jnp.sum(jnp.square(out.hidden_states[-1] - 1))

    ours = flatten(jax.jit(jax.grad(partial(loss, model)))(params))
    theirs = flatten(jax.jit(jax.grad(partial(loss, loose)))(loose_params))
    sums = {path: np.zeros(leaf.shape) for path, leaf in ours.items()}
    for path, gradient in theirs.items():
        sums[shared_path(model.config, path)] += np.asarray(gradient, np.float64)
    for path, expected in sums.items():
        # The biases of keys have a gradient of 0, and what is computed for it is rounding.
        scale = np.abs(expected).max() if not path.endswith("key/bias") else 1.0
        np.testing.assert_allclose(ours[path], expected, rtol=0, atol=1e-6 * scale, err_msg=path)


def shared_path(config: BertConfig, path: str) -> str:
    """Where an array of the untied model comes from."""
    if not path.startswith("encoder/"):
        return path
    _, layer, part, *rest = path.split("/")
    step = config.depth_steps()[int(layer.removeprefix("layer_"))]
    group = getattr(step, f"{part}_norm" if rest[0] == "layer_norm" else part)
    return "/".join(["encoder", f"layer_{group}", part, *rest])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_shared_model_computes_what_the_untied_one_does(pattern):
    model, params = shared(pattern)
    config, loose = untied(model.config, params)
    ours, theirs = apply(model, params, tiny_batch()), apply(build(config), loose, tiny_batch())
    assert len(ours.hidden_states) == DEPTH + 1
    for mine, reference in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(mine, reference, **SAME_MATHS)


def test_no_parameter_exists_that_no_step_uses():
    names = {path.removeprefix("encoder/") for path in flatten(shared("attention")[1]) if "layer_1/" in path}
    assert names
    assert all(name.startswith("layer_1/ffn/") for name in names)
    norms = {path for path in flatten(shared("all but the norms")[1]) if "layer_2/" in path}
    assert {path.split("/")[-2] for path in norms} == {"layer_norm"}


# --- dropout and rematerialisation -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_shared_layer_drops_something_else_at_every_step(remat):
    """Its update would otherwise miss the same units all the way up."""
    model, params = shared("all", remat=remat, attention_probs_dropout_prob=0.0)
    hidden, mask = jnp.ones((1, 7, 12)), jnp.ones((1, 1, 1, 7), bool)
    bound = model.bind({"params": params}, rngs={"dropout": jax.random.key(3)})
    outputs = [bound.layers(hidden, mask, None, step, step + 1)[0].hidden for step in range(DEPTH)]
    for later in range(DEPTH):
        for earlier in range(later):
            assert np.abs(outputs[later] - outputs[earlier]).max() > 1e-3, (earlier, later)


@pytest.mark.slow
def test_rematerialisation_of_shared_layers_changes_neither_values_nor_gradients():
    def loss_and_gradients(remat: bool):
        model, params = shared("all", remat=remat)

        def loss(params):
            return jnp.sum(run(model, params, tiny_batch(), rngs={"dropout": jax.random.key(1)}).logits)

        return jax.jit(jax.value_and_grad(loss))(params)

    (stored, gradients), (recomputed, again) = loss_and_gradients(False), loss_and_gradients(True)
    np.testing.assert_allclose(stored, recomputed, **SAME_MATHS)
    for path, gradient in flatten(gradients).items():
        np.testing.assert_allclose(gradient, flatten(again)[path], rtol=1e-5, atol=1e-6, err_msg=path)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_model_that_stock_code_cannot_express_is_written_as_our_own_and_comes_back(pattern, tmp_path):
    model, params = shared(pattern, embedding_size=5)
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path / "one")
    back = bertjax.load(tmp_path / "one")
    assert back.config.depth_steps() == model.config.depth_steps()
    assert back.config.embedding_size == 5
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(back.params)[path], leaf, err_msg=path)
    with pytest.raises(ValueError, match="bertjax"):
        transformers.AutoModel.from_pretrained(tmp_path / "one")


def test_an_albert_made_here_gives_the_same_logits_in_transformers(tmp_path):
    model, params = tiny(
        model_type="albert",
        architecture="AlbertForSequenceClassification",
        embedding_size=5,
        num_hidden_layers=4,
        num_hidden_groups=2,
        inner_group_num=2,
        hidden_act="gelu_new",
    )
    bertjax.save(bertjax.Bundle(model.config, params), tmp_path / "made")
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    assert type(opened).__name__ == "AlbertForSequenceClassification"
    batch = tiny_batch()
    with torch.no_grad():
        theirs = opened(**{name: torch.from_numpy(array).long() for name, array in batch.items()}).logits
    np.testing.assert_allclose(apply(model, params, batch).logits, theirs, **OTHER_FRAMEWORK)
    assert isinstance(build(model.config.replace(architecture="AlbertModel")), AlbertModel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_groups": 3}, "num_hidden_groups is 3; expected 0 to 2, the number of layers"),
        ({"inner_group_num": 0}, "inner_group_num is 0; expected a whole number from 1"),
        ({"layers": (LayerConfig(3, 10, 0), LayerConfig(2, 10, 0))}, "step 1 uses attention group 0 with a size of 2"),
        ({"model_type": "albert"}, "expected a class name that begins with Albert, because model_type is albert"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
    with pytest.raises(bertjax.UserError, match=message):
        TINY.replace(**changes)
