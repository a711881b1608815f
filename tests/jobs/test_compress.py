"""One compression: its text is read once, whatever the number of stages and models."""

import sys
from pathlib import Path

import pytest

from bertjax.recipes.compress import Config
from bertjax.recipes.data import Data
from bertjax.recipes.distill import Distill
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.quantize import Quantize
from bertjax.student import Student
from tests.train.tiny import write_model, write_table
from train import compress


@pytest.mark.slow
def test_each_file_of_text_is_opened_once(tmp_path: Path):
    train, held_out = write_table(tmp_path / "train.tsv", 32), write_table(tmp_path / "eval.tsv", 32, seed=1)
    opened, counting = [], True

    def count(event: str, arguments: tuple) -> None:
        if counting and event == "open" and str(arguments[0]) in (str(train), str(held_out)):
            opened.append(Path(arguments[0]).name)

    sys.addaudithook(count)  # of the whole process, and for its whole life
    stages = (
        Finetune(steps=1, batch_size=8),
        Distill(steps=1, batch_size=8, student=Student(num_hidden_layers=1)),
        Quantize(calibration_examples=8),
    )
    data = Data(train=str(train), eval=str(held_out), max_length=8)
    model = str(write_model(tmp_path / "model"))
    compress.main(Config(model=model, data=data, stages=stages, out=str(tmp_path / "out")))
    counting = False
    assert sorted(opened) == ["eval.tsv", "train.tsv"]
    assert (tmp_path / "out" / "report.md").is_file()
