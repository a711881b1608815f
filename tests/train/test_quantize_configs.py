"""The published recipes, built abstractly, and ours on the disk: what they round, and how small it becomes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.engine.command_line import load_config
from bertjax.jobs import mixed_precision
from bertjax.model import BertConfig, abstract_params
from bertjax.params import flatten
from bertjax.quantize import quantise_weights
from bertjax.quantize.training import roundings_of
from bertjax.quantized.packing import packed_size
from bertjax.recipes.vocabulary import Vocabulary
from bertjax.share import prune_vocabulary
from bertjax.text.demo import demo_examples
from train import compress, quantize

BASE = BertConfig(architecture="BertForSequenceClassification")
PARAMS = abstract_params(BASE)
# Matrices that are rounded; how much smaller the encoder's become, scales and offsets included.
RECIPES = {"q8bert": (3 + 72 + 1, 4.0), "qbert": (3 + 72, 7.98), "qbert:mixed": (3 + 72, 12.75)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_rounds_what_its_paper_does(name: str):
    config = load_config(name, quantize.Config)
    assert (config.optimiser.learning_rate, config.batch_size, config.qat) == (2e-5, 32, "ste")
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
def test_a_small_recipe_differs_in_size_alone(name: str):
    paper, small = (load_config(one, quantize.Config) for one in (name.split(":")[0], name))
    assert (small.weights, small.losses, small.qat) == (paper.weights, paper.losses, paper.qat)
    assert small.data.train == "demo"


# Of MiniLM's folder, tokenizer and all, in floating point.
SMALLER = {"int8": 3.8, "tables8": 5.0, "tables4": 8.0, "vocabulary": 10.0}


@pytest.fixture(scope="module")
def minilm() -> Bundle:
    """Published weights, with a head that nobody trained: as large as one that somebody did."""
    drawn = bertjax.load("demo", architecture="BertForSequenceClassification", labels=("negative", "positive"))
    return dataclasses.replace(drawn, newly_initialized=())


def bytes_on_disk(bundle: Bundle, folder: Path) -> int:
    bertjax.save(bundle, folder)
    return sum(file.stat().st_size for file in folder.iterdir())


def last_stage(name: str) -> Any:
    """With the ranges that are found fastest; sizes do not depend on it."""
    return dataclasses.replace(load_config(f"qbert_sst2:{name}", compress.Config).stages[-1], weight_range="min_max")  # type: ignore[type-var]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_whole_bundle_is_so_much_smaller_on_the_disk(name: str, minilm: Bundle, tmp_path, monkeypatch):
    """Whatever the layers turn out to bear: the dearest three bits that the mean allows are the largest file."""
    monkeypatch.setattr(
        mixed_precision, "by_loss", lambda config, model, batches, trees: ({one: -one[1] for one in trees}, {})
    )
    stage, model = last_stage(name), minilm
    if any(isinstance(one, Vocabulary) for one in load_config(f"qbert_sst2:{name}", compress.Config).stages):
        model = prune_vocabulary(model, demo_examples("train").texts)
    rules = stage.weights if stage.mean_bits is None else mixed_precision.assigned_rules(stage, model, [], tmp_path)
    config, params = quantise_weights(model.config, model.params, rules, stage.weight_range)
    smaller = bytes_on_disk(dataclasses.replace(model, config=config, params=params), tmp_path / "smaller")
    assert bytes_on_disk(minilm, tmp_path / "whole") / smaller > SMALLER[name]


def test_the_ablation_of_ranges_differs_in_who_shares_one_and_in_nothing_else():
    def parts(name: str) -> tuple[Any, ...]:
        stage = last_stage(name)
        encoder = [(path, format) for path, format in stage.weights if path.startswith("^encoder")]
        same = [(path, dataclasses.replace(format, block_cols=None)) for path, format in encoder]
        rest = dataclasses.replace(stage, name="", weights=tuple(rule for rule in stage.weights if rule not in encoder))
        return {format.block_cols for _, format in encoder}, same, rest

    found = [parts(name) for name in ("matrix", "groups", "channels")]
    assert [outputs for outputs, *_ in found] == [{None}, {6}, {1}]
    assert found[0][1:] == found[1][1:] == found[2][1:]
