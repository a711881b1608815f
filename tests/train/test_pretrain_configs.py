"""The recipes at the sizes of the paper: nothing is run, everything is built abstractly."""

from typing import Any

import numpy as np
import pytest

from bertjax.engine.command_line import load_config
from bertjax.engine.optimiser import learning_rate_schedule
from bertjax.jobs.pretrain import learning
from bertjax.model import abstract_params
from bertjax.params import count
from bertjax.recipes.pretrain import Config
from bertjax.text.masking import Masking
from tests.train.abstract import abstract_bundle, pretraining_batch, traced_step

SIZES = {"base": 11_683_584, "large": 17_683_968, "xlarge": 58_724_864, "xxlarge": 222_595_584}


def recipe(name: str) -> tuple[Config, Any]:
    """A recipe, and the model that it describes."""
    config = load_config(f"albert:{name}", Config)
    settings: Any = {"dtype": config.dtype, "remat": config.remat}
    return config, config.shape.config(config.vocab_size or 0, "ForPreTraining", **settings)


@pytest.mark.parametrize("name", SIZES)
def test_a_recipe_has_the_published_number_of_parameters(name: str):
    _, shape = recipe(name)
    assert count(abstract_params(shape.replace(architecture="AlbertModel"))) == SIZES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "xxlarge"])  # the latter with remat; the others are deeper, and no different
def test_the_whole_step_of_a_recipe_can_be_traced(name: str):
    config, shape = recipe(name)
    found = traced_step(config, learning(config, abstract_bundle(shape), None, 1000), pretraining_batch(config))
    assert {"loss", "loss/words", "loss/sentences"} <= found


def test_the_recipe_is_that_of_the_paper():
    config = load_config("albert", Config)
    assert (config.steps, config.batch_size, config.data.max_length) == (125_000, 4096, 512)
    assert (config.masking, config.sentences) == (Masking("ngrams", 0.15), "order")
    rate = learning_rate_schedule(config.optimiser, 125_000)
    np.testing.assert_allclose([rate(3124), rate(3125), rate(125_000)], [1.76e-3, 1.76e-3, 0], rtol=1e-6)
