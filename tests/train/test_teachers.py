"""More than one teacher: several at once, and one after another."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import bertjax
from bertjax.bundle import Bundle, init_params
from bertjax.distill import losses
from bertjax.distill.terms import HiddenStates, SoftTargets
from bertjax.engine.log import Log
from bertjax.errors import UserError
from bertjax.jobs.compress import Compression, run_stages
from bertjax.jobs.data import Text, tokenizer_of
from bertjax.predict import run_rows
from bertjax.recipes.compress import Config as Compress
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.sharding import Sharding
from bertjax.student import Student
from bertjax.text.tokenizer import Tokenizer
from tests.train.tiny import metrics, write_model, write_table
from train import distill

HEAD: dict[str, Any] = {"architecture": "BertForSequenceClassification", "labels": ("bad", "good")}
HEAD |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
ONE: dict[str, Any] = {"batch_size": 32, "sharding": Sharding(1, 1)}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A teacher, and another of other width and depth with the same vocabulary."""
    folder = tmp_path_factory.mktemp("teachers")
    write_model(folder / "one", **HEAD)
    write_model(folder / "other", hidden_size=8, num_hidden_layers=3, **HEAD)
    write_table(folder / "train.tsv", 32)
    return folder


def data(work: Path) -> Data:
    return Data(train=str(work / "train.tsv"), eval=str(work / "train.tsv"), max_length=8)


def test_the_mean_of_losses_teaches_the_mean_of_probabilities():
    rng, temperature = np.random.default_rng(0), 3.0
    student, one, other = (rng.normal(size=(5, 4)).astype(np.float32) for _ in range(3))

    def mean(s):
        return sum(losses.soft_targets(s, jnp.array(t), jnp.ones(5), temperature)[0] for t in (one, other)) / 2

    logits = torch.tensor(student, requires_grad=True)
    together = torch.stack([functional.softmax(torch.tensor(t) / temperature, -1) for t in (one, other)]).mean(0)
    divergence = functional.kl_div(functional.log_softmax(logits / temperature, -1), together, reduction="sum")
    (temperature**2 * divergence).backward()
    np.testing.assert_allclose(jax.grad(mean)(jnp.array(student)), np.asarray(logits.grad), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_teachers_of_any_shape_teach_together_each_with_stored_outputs_of_its_own(work: Path):
    config = distill.Config(
        model=str(work / "one"),
        teachers=(str(work / "other"),),
        data=data(work),
        student=Student(num_hidden_layers=1),
        losses=(SoftTargets(weight=0.5), HiddenStates(weight=2.0, start="procrustes")),
        steps=1,
        out=str(work / "student"),
        **ONE,
    )
    distill.main(config)
    found = next(line for line in metrics(work / "student") if "loss" in line)
    names = ("0_SoftTargets", "1_HiddenStates", "0_SoftTargets_of_1", "1_HiddenStates_of_1")
    parts = [found[f"loss/{name}"] for name in names]
    assert len(set(parts)) == 4
    assert found["loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert len(list((work / "student" / "teacher").iterdir())) == 2
    assert 0 < parts[3] < 1  # states of variance 1, from a fit and not from noise of that size
    # Each as it would be alone, at half of its weight.
    one, other = (bertjax.load(work / name) for name in ("one", "other"))
    text = Text.of(config.data)
    texts = text.training(text.task(), tokenizer_of(one), labelled=False).encoded
    said = [run_rows(b.model, b.params, texts)[0] for b in (config.student.initialise(one, 0), one, other)]
    for found, teacher in ((parts[0], said[1]), (parts[2], said[2])):
        total, weight = losses.soft_targets(jnp.array(said[0]), jnp.array(teacher), jnp.ones(32), 2.0)
        assert found == pytest.approx(float(0.5 * total / weight / 2), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [({"labels": ("good", "bad")}, "labels good, bad"), ({"vocabulary": True}, "another vocabulary")],
)
def test_teachers_who_speak_of_other_things_are_refused(work: Path, tmp_path: Path, changes: dict, message: str):
    other = bertjax.load(work / "other")
    config = other.config.replace(labels=changes.get("labels", other.config.labels))
    bertjax.save(Bundle(config, init_params(config, 0), other.tokenizer), tmp_path / "other")
    if "vocabulary" in changes:
        lines = (work / "other-vocabulary" / "vocab.txt").read_text().replace("warm", "hot")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "vocab.txt").write_text(lines)
        bertjax.save(Bundle(config, other.params, Tokenizer.from_folder(tmp_path / "new")), tmp_path / "other")
    given = {"model": str(work / "one"), "teachers": (str(tmp_path / "other"),), "data": data(work), **ONE}
    with pytest.raises(UserError, match=message):
        distill.main(distill.Config(out=str(tmp_path / "out"), **given))


@pytest.mark.slow
def test_a_student_may_be_the_next_ones_teacher_and_the_baseline_has_its_shape(work: Path):
    """A teacher assistant (Mirzadeh et al. 2020) is a stage in between."""
    stages = (
        Distill(name="middle", student=Student(num_hidden_layers=2, intermediate_size=16), steps=1, **ONE),
        Distill(name="small", student=Student(num_hidden_layers=1), losses=(SoftTargets(),), steps=1, **ONE),
    )
    config = Compress(model=str(work / "one"), data=data(work), stages=stages)
    out = work / "chain"
    log, text = Log(out, "compressing", 2, start=None), Text.of(config.data)
    models = run_stages(Compression(config, out, text, text.task(), log, []))
    log.close()
    assert models[0].name == "middle"
    shapes = [bertjax.load(model.folder).config for model in models]
    assert [(c.num_hidden_layers, c.intermediate_size) for c in shapes] == [(2, 16), (1, 16), (1, 16)]
    asked = json.loads((out / "stages" / "2-small" / "run.json").read_text())["config"]
    assert asked["model"].endswith("1-middle/bundle")
