"""The mean of several runs: what each of them would have been alone, nothing done twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.engine.log import worked_seconds
from bertjax.engine.record import read_record
from bertjax.errors import UserError
from bertjax.jobs import finetune as jobs
from bertjax.jobs.data import Text
from bertjax.jobs.training import result_of
from bertjax.params import flatten
from bertjax.recipes.data import Data
from bertjax.recipes.finetune import Config, Finetune
from bertjax.recipes.optimiser import Optimiser
from tests.train.tiny import context, metrics, write_model, write_table
from train import finetune


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("runs")
    write_table(folder / "train.tsv", 64, filler=(10, 12))
    write_table(folder / "eval.tsv", 60, seed=1, filler=(10, 12))
    return Config(
        model=str(write_model(folder / "model")),
        data=Data(train=str(folder / "train.tsv"), eval=str(folder / "eval.tsv"), max_length=16),
        steps=8,
        batch_size=16,
        optimiser=Optimiser(learning_rate=0.01),
        model_soup=2,
        seed=3,
        out=str(folder / "averaged"),
    )


def params(folder: Path) -> dict[str, np.ndarray]:
    return flatten(bertjax.load(folder / "bundle").params)


@pytest.mark.slow
def test_it_is_the_mean_of_what_the_seeds_give_alone(asked: Config, tmp_path: Path, monkeypatch):
    normal = jobs.train_unscored

    def interrupted(config: Config, text: Text, prepare: Any) -> None:
        if config.seed == 7:
            raise KeyboardInterrupt
        normal(config, text, prepare)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train_unscored", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune.main(asked)
    finetune.main(asked)
    out = Path(asked.out)
    for seed in (6, 7):
        finetune.main(replace(asked, model_soup=1, seed=seed, out=str(tmp_path / str(seed))))
    first, second = params(tmp_path / "6"), params(tmp_path / "7")
    for path, mean in params(out).items():
        np.testing.assert_allclose(mean, (first[path] + second[path]) / 2, rtol=1e-6, atol=1e-8, err_msg=path)
        assert mean.dtype == first[path].dtype
    assert np.abs(first["pooler/kernel"] - second["pooler/kernel"]).max() > 1e-3
    starts = [line["event"] for line in metrics(out) if line.get("event") in ("start", "restart")]
    assert starts == ["start", "start"]  # what was finished before the interruption was not done again


@pytest.mark.slow
def test_what_it_cost_is_the_cost_of_all_runs(asked: Config):
    out = Path(asked.out)
    finetune.main(asked)
    record = read_record(out) or {}
    assert record["epochs"] == 2 * 8 / 4
    assert set(record["result"]) == {"accuracy"}
    assert record["training_step_bytes"] > 0
    result = result_of(asked.out, asked.data)
    assert (result.epochs, result.teacher_epochs, result.seconds) == (4, 0.0, worked_seconds(out))
    assert worked_seconds(out) == pytest.approx(sum(worked_seconds(out / f"run{n}") for n in (0, 1)))


@pytest.mark.slow
def test_as_a_stage_it_leaves_a_bundle_like_any_other(asked: Config, tmp_path: Path):
    stage = Finetune(steps=2, batch_size=16, model_soup=2)
    stage.run(context(asked.model, asked.data, tmp_path / "stage"))
    assert bertjax.load(tmp_path / "stage" / "bundle").predict(["a fine film"]).labels[0] in ("good", "bad")


def test_no_runs_are_refused():
    with pytest.raises(UserError, match="--model_soup=0: expected 1, or more whose weights are averaged"):
        Finetune(model_soup=0)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"config": 5}', "[" * 200_000, '{"config": '])
def test_a_record_that_is_none_is_called_damaged(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged\. Delete it if the settings are the same as before"):
        read_record(tmp_path)
