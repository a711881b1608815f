"""Tying and untying layers, and what several layers become when they turn into one."""

import json

import numpy as np
import pytest

import bertjax
from bertjax.model import BertConfig, Halting, LayerConfig, Recurrence, build
from bertjax.params import Tree, flatten, step_params
from bertjax.share import LeastSquares, first, mean, recur, tie, untie
from bertjax.share.merging import RIDGE
from bertjax.share.tying import equal_groups
from tests.model.tiny import apply, tiny, tiny_batch
from tests.tolerances import SAME_MATHS

DEPTH = 4
HALVES = (0, 0, 1, 1)


@pytest.fixture
def loose() -> tuple[BertConfig, Tree]:
    """Four layers that have nothing in common."""
    model, params = tiny(num_hidden_layers=DEPTH)
    return model.config, params


@pytest.fixture
def alike(loose) -> tuple[BertConfig, Tree]:
    """Four equal layers."""
    config, params = loose
    return config, {**params, "encoder": {f"layer_{i}": params["encoder"]["layer_0"] for i in range(DEPTH)}}


def fit(config: BertConfig, params: Tree) -> LeastSquares:
    return LeastSquares.on_text(config, params, [tiny_batch(seed=1), tiny_batch(seed=2)])


def same_function(a: tuple[BertConfig, Tree], b: tuple[BertConfig, Tree]) -> None:
    (one, params), (other, theirs) = a, b
    ours, reference = apply(build(one), params, tiny_batch()), apply(build(other), theirs, tiny_batch())
    for mine, expected in zip(ours.hidden_states, reference.hidden_states, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", ["all", "attention", "ffn"])
@pytest.mark.parametrize("norms", ["shared", "separate"])
@pytest.mark.parametrize("merge", ["mean", "first", "fit"])
def test_tying_equal_layers_changes_nothing(alike, parts, norms, merge):
    rule = {"mean": mean, "first": first, "fit": fit(*alike)}[merge]
    tied = tie(alike[0], alike[1], HALVES, parts=parts, norms=norms, merge=rule)
    same_function(tied, alike)
    shared = {"all": ("attention", "ffn")}.get(parts, (parts,))
    for step in tied[0].depth_steps():
        assert all(getattr(step, part) in (0, 1) for part in shared)


@pytest.mark.parametrize("parts", ["all", "attention", "ffn"])
@pytest.mark.parametrize("norms", ["shared", "separate"])
def test_untying_changes_nothing_and_leaves_nothing_shared(loose, parts, norms):
    tied = tie(loose[0], loose[1], (0, 1, 0, 1), parts=parts, norms=norms)
    config, params = untie(*tied)
    same_function((config, params), tied)
    assert [step.groups for step in config.depth_steps()] == [{i} for i in range(DEPTH)]
    for ours, theirs in zip(config.depth_steps(), tied[0].depth_steps(), strict=True):
        own, shared = flatten(step_params(params, ours)), flatten(step_params(tied[1], theirs))
        for path, leaf in own.items():
            np.testing.assert_array_equal(leaf, shared[path], err_msg=path)


def test_a_shared_array_is_the_mean_of_its_layers_and_the_others_stay(loose):
    config, params = loose
    tied = flatten(tie(config, params, HALVES, parts="ffn", norms="separate")[1])
    stack = params["encoder"]
    for name in ("intermediate", "output"):
        both = (stack["layer_2"]["ffn"][name]["kernel"] + stack["layer_3"]["ffn"][name]["kernel"]) / 2
        np.testing.assert_allclose(tied[f"encoder/layer_1/ffn/{name}/kernel"], both, **SAME_MATHS)
    for path, leaf in flatten(params).items():
        if "attention" in path or "layer_norm" in path or not path.startswith("encoder"):
            np.testing.assert_array_equal(tied[path], leaf, err_msg=path)


def test_the_fit_is_the_regression_of_every_dense_layer_on_what_the_layers_made_of_the_text(loose):
    """Against lstsq on the stacked inputs themselves, for the products whose inputs the output shows. Float32 inputs
    multiplied by themselves keep three digits of the solution."""
    config, params = loose
    tied = tie(config, params, HALVES, merge=fit(config, params))[1]
    inputs: dict[int, list[np.ndarray]] = {}
    for seed in (1, 2):
        batch = tiny_batch(seed=seed)
        states, real = apply(build(config), params, batch).hidden_states, batch["attention_mask"] > 0
        for step in range(DEPTH):
            rows = np.asarray(states[step], np.float64)[real]
            inputs.setdefault(step, []).append(np.concatenate([rows, np.ones((len(rows), 1))], axis=1))
    for name in ("query", "key", "value"):
        for group, members in ((0, (0, 1)), (1, (2, 3))):
            x = {step: np.concatenate(inputs[step]) for step in members}
            layers = {step: params["encoder"][f"layer_{step}"]["attention"][name] for step in members}
            own = {step: np.concatenate([dense["kernel"], dense["bias"][None]]) for step, dense in layers.items()}
            root = np.sqrt(RIDGE * np.mean([np.mean(np.sum(rows**2, axis=0)) for rows in x.values()]))
            left = np.concatenate([*x.values(), root * np.eye(13)])
            right = np.concatenate([*(x[i] @ own[i] for i in members), root * np.mean(list(own.values()), axis=0)])
            expected = np.linalg.lstsq(left, right, rcond=None)[0]
            ours = tied["encoder"][f"layer_{group}"]["attention"][name]
            np.testing.assert_allclose(ours["kernel"], expected[:-1], rtol=0, atol=1e-3)
            np.testing.assert_allclose(ours["bias"], expected[-1], rtol=0, atol=1e-3)


def test_padding_takes_no_part_in_a_fit(loose):
    config, params = loose
    batch = tiny_batch()
    longer = {name: np.pad(array, ((0, 2), (0, 3)), constant_values=0) for name, array in batch.items()}
    longer["input_ids"][:, -3:] = 7
    ours, theirs = (LeastSquares.on_text(config, params, [b]).grams for b in (batch, longer))
    for site, gram in ours.items():
        np.testing.assert_allclose(gram, theirs[site], rtol=1e-5, atol=1e-5, err_msg=site)


def test_an_albert_tied_by_whole_groups_stays_one_that_transformers_opens(tmp_path):
    model, params = tiny(
        model_type="albert",
        architecture="AlbertForSequenceClassification",
        num_hidden_layers=DEPTH,
        num_hidden_groups=DEPTH,
    )
    for groups, kind in ((HALVES, "albert"), ((0, 1, 0, 1), "bertjax")):
        bertjax.save(bertjax.Bundle(*tie(model.config, params, groups)), tmp_path / kind)
        assert json.loads((tmp_path / kind / "config.json").read_text())["model_type"] == kind
    bertjax.save(bertjax.Bundle(*untie(*tie(model.config, params, HALVES))), tmp_path / "untied")
    content = json.loads((tmp_path / "untied" / "config.json").read_text())
    assert (content["model_type"], content["num_hidden_groups"]) == ("albert", DEPTH)


def test_equal_groups_are_successive_and_of_like_size():
    assert equal_groups(6, 1) == (0,) * 6
    assert equal_groups(6, 4) == (0, 0, 1, 2, 2, 3)
    with pytest.raises(bertjax.UserError, match="7 groups for 6 layers; expected 1 to 6"):
        equal_groups(6, 7)


def test_what_cannot_be_tied_is_refused(loose):
    config, params = loose
    with pytest.raises(
        bertjax.UserError, match="has 2 entries; expected one group number for each of the model's 4 depth steps"
    ):
        tie(config, params, (0, 0))
    ragged = config.replace(layers=(*(LayerConfig(3, 10),) * 3, LayerConfig(3, 7)))
    with pytest.raises(bertjax.UserError, match="ffn group 0 with a size of 7"):
        tie(ragged, params, (0, 0, 0, 0))
    with pytest.raises(bertjax.UserError, match="needs sample text"):
        LeastSquares.on_text(config, params, [])


@pytest.mark.slow
def test_one_group_becomes_the_block_of_a_recurrence(loose):
    plain = Recurrence(DEPTH, positions="none", times="none")
    shared = tie(loose[0], loose[1], (0,) * DEPTH)
    same_function(recur(*shared, plain), shared)
    halting = Recurrence(DEPTH, times="learned", halting=Halting())
    config, params = recur(*shared, halting)
    assert config.recurrence == halting
    assert set(params["encoder"]) == {"layer_0", "halting", "time_signal"}
    assert params["encoder"]["halting"]["bias"] == 1
    with pytest.raises(bertjax.UserError, match="tie them into one group first"):
        recur(loose[0], loose[1], plain)
