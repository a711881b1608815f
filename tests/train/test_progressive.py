"""Layer by layer: each phase changes only what it should, reads only what it needs, and all are one program."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.bundle import init_params
from bertjax.distill import losses
from bertjax.distill.progressive import Progressive
from bertjax.distill.terms import FeatureMaps
from bertjax.engine.compiled_step import CompiledSteps
from bertjax.errors import UserError
from bertjax.model import BertConfig, build, mobile_config
from bertjax.params import flatten
from bertjax.recipes.data import Data
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.sharding import Sharding
from bertjax.student import Student
from tests.tolerances import SAME_MATHS
from tests.train.tiny import GOOD, metrics, weights, write_model
from train import distill

LAYERS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> distill.Config:
    """Two steps for each of two layers, and two for everything. All texts have one length."""
    work = tmp_path_factory.mktemp("progressive")
    rows = [f"the film {GOOD[i % 4]}\t{('bad', 'good')[i % 2]}" for i in range(24)]
    (work / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    data = Data(train=str(work / "train.tsv"), eval=str(work / "train.tsv"), max_length=8)
    optimiser = Optimiser(learning_rate=0.01, weight_decay=0.5)
    common = {"data": data, "batch_size": 8, "sharding": Sharding(1, 1), "optimiser": optimiser}
    head = {"architecture": "BertForSequenceClassification", "labels": ("bad", "good")}
    teacher = write_model(work / "teacher", num_hidden_layers=LAYERS, **head)
    return distill.Config(
        model=str(teacher),
        student=Student(num_hidden_layers=LAYERS, init_from="random"),
        progressive=Progressive(steps_per_layer=2, losses=(FeatureMaps(),)),
        steps=6,
        save_every=3,
        out=str(work / "student"),
        **common,
    )


@pytest.fixture(scope="module")
def states(config: distill.Config) -> list[Any]:
    """The state before and after each step of the whole run, with the step's metrics."""
    kept: list[Any] = []
    original = CompiledSteps.__call__

    def watched(self, state, batch, constants):
        kept.append((jax.tree.map(np.array, state), {}))
        state, found = original(self, state, batch, constants)
        kept[-1] = kept[-1][0], jax.tree.map(float, found)
        return state, found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledSteps, "__call__", watched)
        distill.main(config)
    return kept


def first_phase(path: str) -> int:
    if path.startswith("encoder/layer_"):
        return int(path[len("encoder/layer_")])
    return 0 if path.startswith("embeddings/") else LAYERS


@pytest.mark.slow
def test_each_phase_changes_only_what_it_should(states: list[Any]):
    for step, ((before, found), (after, _)) in enumerate(pairwise(states)):
        phase = step // 2
        assert int(after.bad_step) == -1
        assert (found["loss/layers_0_FeatureMaps"] > 0) == (phase < LAYERS)
        assert (found["loss/0_SoftTargets"] > 0) == (phase == LAYERS)
        old, new = flatten(before.params), flatten(after.params)
        for path, leaf in new.items():
            assert np.array_equal(leaf, old[path]) == (first_phase(path) > phase), (step, path)
        moments = jax.tree_util.tree_flatten_with_path(after.opt)[0]
        named = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in moments]
        waiting = [
            leaf for name, leaf in named if "/params/" in name and first_phase(name.split("/params/")[1]) > phase
        ]
        assert not any(np.any(leaf) for leaf in waiting)
        assert bool(waiting) == (phase < LAYERS)


@pytest.mark.slow
def test_all_phases_are_one_program_and_a_run_that_was_cut_ends_with_the_same_bits(
    config: distill.Config, states: list[Any]
):
    out = Path(config.out)
    assert sum(line.get("event") == "compiled" for line in metrics(out)) == 1
    whole = weights(out)
    record = json.loads((out / "run.json").read_text())
    record.pop("result")
    (out / "run.json").write_text(json.dumps(record))
    shutil.rmtree(out / "checkpoints" / "6")
    shutil.rmtree(out / "bundle")
    distill.main(config)
    assert [line["step"] for line in metrics(out) if line.get("event") == "restart"] == [3]
    assert weights(out) == whole


SMALL = BertConfig(
    architecture="BertForSequenceClassification",
    vocab_size=32,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.3,
)


TINY: dict[str, Any] = {
    "architecture": "MobileBertForSequenceClassification",
    "vocab_size": 32,
    "embedding_size": 4,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
THIN = mobile_config("base", num_hidden_layers=2, intra_bottleneck_size=4, **TINY)
WIDE = mobile_config("teacher", num_hidden_layers=3, intra_bottleneck_size=16, **TINY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shallow", "deep"), [(SMALL.replace(num_hidden_layers=2), SMALL), (THIN, WIDE)], ids=["BERT", "MobileBERT"]
)
def test_a_layer_learns_what_the_whole_models_say_there_and_nothing_above_is_computed(
    shallow: BertConfig, deep: BertConfig
):
    """Against the full models; and with parameters above that are no numbers, which a product would pass on."""
    student, teacher = init_params(shallow, 0), init_params(deep, 1)
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ids = jnp.arange(10).reshape(2, 5) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids, "weights": jnp.ones(2)}
    progressive = Progressive(pairing=(0, 2))
    sums = progressive.build(shallow, build(deep))

    @jax.jit
    def value_and_gradient(params: Any, teacher_params: Any, layer: Any) -> Any:
        def value(params: Any) -> Any:
            found = sums(build(shallow), params, teacher_params, batch, layer, jax.random.key(0))  # type: ignore[arg-type]
            return sum(total for total, _ in found.values()), found

        return jax.value_and_grad(value, has_aux=True)(params)

    ours, theirs = (
        jax.jit(lambda p, c=c: build(c).apply({"params": p}, ids, mask))(p)
        for c, p in ((shallow, student), (deep, teacher))
    )
    for layer, paired in enumerate((0, 2)):
        (_, found), gradient = value_and_gradient(student, teacher, layer)
        states = ours.hidden_states[layer + 1], theirs.hidden_states[paired + 1]
        expected = losses.squared_error(*states, mask.astype(jnp.float32))
        np.testing.assert_allclose(found["layers_0_FeatureMaps"], expected, rtol=1e-5)
        inside = ours.queries[layer], ours.keys[layer], theirs.queries[paired], theirs.keys[paired]
        expected = losses.relation(*inside, mask, jnp.ones(2), heads=2)
        np.testing.assert_allclose(found["layers_1_AttentionMaps"], expected, **SAME_MATHS)
        poisoned = poison_above(student, layer), poison_above(teacher, paired)
        (_, again), same = value_and_gradient(*poisoned, layer)
        jax.tree.map(np.testing.assert_array_equal, (again, same), (found, gradient))


def poison_above(params: Any, layer: int) -> Any:
    encoder = {
        name: jax.tree.map(lambda x: x * np.nan, tree) if int(name[len("layer_") :]) > layer else tree
        for name, tree in params["encoder"].items()
    }
    return {**params, "encoder": encoder}


def test_more_phases_than_steps_are_refused(config: distill.Config):
    with pytest.raises(UserError, match="2 layers with 2 steps per layer need 4 steps, and the run has 3"):
        distill.main(dataclasses.replace(config, out=f"{config.out}-short", steps=3))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (SMALL.replace(num_hidden_groups=1), "layers share parameters"),
        (SMALL.replace(hidden_size=16), "hidden_size is 16, the teacher's 8"),
    ],
)
def test_what_cannot_learn_layer_by_layer_is_refused(student: BertConfig, message: str):
    with pytest.raises(UserError, match=message):
        prepare(Progressive(), student)


def prepare(progressive: Progressive, student: BertConfig) -> None:
    progressive.first_phases(student)
    progressive.build(student, build(SMALL))


def test_a_phase_has_at_least_one_step():
    with pytest.raises(UserError, match="expected at least 1 step"):
        Progressive(steps_per_layer=0)
