"""The published recipes, built abstractly: what they round, and how small it becomes."""

import numpy as np
import pytest

from bertjax.model import BertConfig, abstract_params
from bertjax.params import flatten
from bertjax.quantize.packing import packed_size
from bertjax.quantize.training import roundings_of
from train import quantize
from train.settings import load_config

BASE = BertConfig(architecture="BertForSequenceClassification")
PARAMS = abstract_params(BASE)
# Matrices that are rounded; how much smaller the encoder's become, scales and offsets included.
RECIPES = {"q8bert": (3 + 72 + 1, 4.0), "qbert": (3 + 72, 7.98), "qbert:mixed": (3 + 72, 12.75)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_rounds_what_its_paper_does(name: str):
    config = load_config(name, quantize.Config)
    assert (config.optimiser.learning_rate, config.batch_size, config.learn) == (2e-5, 32, "weights")
    roundings = roundings_of(BASE, PARAMS, config.weights)
    matrices, smaller = RECIPES[name]
    assert len(roundings) == matrices
    size = {path: int(np.prod(leaf.shape)) for path, leaf in flatten(PARAMS).items()}
    stored = {
        path: packed_size(size[path], format) + 4 * int(np.prod(grid.shape)) * (1 + (format.scheme == "asymmetric"))
        for path, (format, grid) in roundings.items()
    }
    encoder = [path for path in roundings if path.startswith("encoder/")]
    found = 4 * sum(size[path] for path in encoder) / sum(stored[path] for path in encoder)
    assert found == pytest.approx(smaller, abs=0.01)


@pytest.mark.parametrize("name", ["q8bert:small", "qbert:small"])
def test_a_small_twin_differs_in_size_alone(name: str):
    paper, small = (load_config(one, quantize.Config) for one in (name.split(":")[0], name))
    assert (small.weights, small.losses, small.learn) == (paper.weights, paper.losses, paper.learn)
    assert small.data.train == "demo"
