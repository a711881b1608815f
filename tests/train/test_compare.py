"""A comparison of methods: every row trained once, reported once, and the same if run alone or started again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bertjax.distill.student import Student
from bertjax.distill.terms import HiddenStates, SoftTargets
from tests.train.tiny import write_model, write_table
from train import compare
from train.common import Data
from train.compare import Config, Published, Row
from train.distill import Distill
from train.finetune import Finetune
from train.optimiser import Optimiser

FAST = Optimiser(learning_rate=0.01)


def learn(name: str, *losses, share: float = 1, **changes) -> Distill:
    return Distill(name=name, losses=losses, epochs=share, optimiser=FAST, **changes)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("compare")
    write_table(folder / "train.tsv", 64)
    write_table(folder / "eval.tsv", 60, seed=1)
    return Config(
        model=str(write_model(folder / "model")),
        data=Data(train=str(folder / "train.tsv"), eval=str(folder / "eval.tsv"), max_length=16, rows=48),
        teacher=(Finetune(steps=9, optimiser=FAST),),
        student=Student(num_hidden_layers=1, intermediate_size=16),
        alone=Finetune(name="alone", optimiser=FAST),
        rows=(
            Row("soft", (learn("student", SoftTargets()),), paper=Published(91.5, "a paper")),
            Row("two_steps", (learn("layers", HiddenStates(), share=2), learn("answers", SoftTargets()))),
            Row("wild", (replace(learn("student", SoftTargets()), optimiser=Optimiser(learning_rate=1e30)),)),
        ),
        seeds=(0, 1),
        epochs=None,
        steps=6,
        batch_size=16,
        out=str(folder / "whole"),
    )


@pytest.fixture(scope="module")
def whole(suite: Config) -> Path:
    compare.main(suite)
    return Path(suite.out)


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_x(whole):
    print((whole / "report.md").read_text())
