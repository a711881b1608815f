"""The recipes at the sizes of the paper: nothing is run, everything is built abstractly."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.model import abstract_params, build
from bertjax.params import count
from bertjax.text.masking import Masking
from train.pretrain import Config, apply, terms_of
from train.settings import load_config
from train.step import init_state, make_step

SIZES = {"base": 11_683_584, "large": 17_683_968, "xlarge": 58_724_864, "xxlarge": 222_595_584}


def recipe(name: str) -> tuple[Config, Any]:
    """A recipe, and the model that it describes."""
    config = load_config(f"albert_{name}", Config)
    settings: Any = {"dtype": config.dtype, "remat": config.remat}
    return config, config.shape.config(config.vocab_size or 0, "ForPreTraining", **settings)


@pytest.mark.parametrize("name", SIZES)
def test_a_recipe_has_the_published_number_of_parameters(name: str):
    _, shape = recipe(name)
    assert count(abstract_params(shape.replace(architecture="AlbertModel"))) == SIZES[name]


@pytest.mark.parametrize("name", ["base", "xxlarge"])  # the latter with remat; the others are deeper, and no different
def test_the_whole_step_of_a_recipe_can_be_traced(name: str):
    config, shape = recipe(name)
    model, params = build(shape), abstract_params(shape)

    def objective(params, extra, state, batch, step, key):
        return terms_of(apply(model, params, batch, rngs={"dropout": key}), batch), state

    rows, length = config.batch_size, config.data.max_length
    places = config.masking.most(length)
    sizes = {"input_ids": length, "attention_mask": length, "token_type_ids": length}
    sizes |= {"masked_positions": places, "masked_labels": places, "cls_positions": 1, "sentence_labels": 1}
    batch = {name: jax.ShapeDtypeStruct((rows, size), jnp.int32) for name, size in sizes.items()}
    weights = {"masked_weights": places, "sentence_weights": 1}
    batch |= {name: jax.ShapeDtypeStruct((rows, size), jnp.float32) for name, size in weights.items()}
    tx = config.optimiser.build(config.total_steps(1), {"params": params, "extra": {}})
    state = jax.eval_shape(lambda p: init_state(p, {}, {}, tx), params)
    after, found = jax.eval_shape(make_step(objective, tx, jax.random.key(0), config.micro_batches), state, batch, {})
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"loss", "loss/words", "loss/sentences"} <= found.keys()


def test_the_recipe_is_that_of_the_paper():
    config = load_config("albert_base", Config)
    assert (config.steps, config.batch_size, config.data.max_length) == (125_000, 4096, 512)
    assert (config.masking, config.sentences) == (Masking("ngrams", 0.15), "order")
    rate = config.optimiser.schedule(125_000)
    np.testing.assert_allclose([rate(3124), rate(3125), rate(125_000)], [1.76e-3, 1.76e-3, 0], rtol=1e-6)
