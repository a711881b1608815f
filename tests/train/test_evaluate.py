"""Finished models and exported files side by side."""

import dataclasses
import json
from pathlib import Path

import pytest

import bertjax
from bertjax.bundle import load
from bertjax.errors import UserError
from bertjax.jobs.export import export_once
from bertjax.recipes.data import Data
from bertjax.recipes.evaluate import Config
from tests.train.tiny import write_model, write_table
from train.evaluate import main


def write_headed(folder: Path) -> str:
    labels = ("bad", "good")
    headed = load(write_model(folder / "bare"), architecture="BertForSequenceClassification", labels=labels, seed=0)
    bertjax.save(dataclasses.replace(headed, newly_initialized=()), folder / "model" / "bundle")
    return str(folder / "model" / "bundle")


@pytest.mark.slow
def test_text_to_score_on_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture):
    """No training text, and so no bag of words; the demo, which is the default, has other labels."""
    data = Data(eval=str(write_table(tmp_path / "eval.tsv", 20)), max_length=16)
    main(Config(write_headed(tmp_path), (), data, str(tmp_path / "report")))
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["model"]
    assert "without --data.train, no bag of words is fitted" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_file_and_bfloat16_stand_beside_a_model_and_the_file_is_no_baseline(tmp_path: Path):
    model = write_headed(tmp_path)
    export_once(model, tmp_path / "file" / "bundle")
    data = Data(
        train=str(write_table(tmp_path / "train.tsv", 20)),
        eval=str(write_table(tmp_path / "eval.tsv", 20)),
        max_length=16,
    )
    file = str(tmp_path / "file" / "bundle")
    main(Config(model, (file,), data, str(tmp_path / "report"), bfloat16=True))
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["file"]["runtime"].startswith("onnx")
    assert rows["file"]["score"] == rows["model"]["score"]
    halves = rows["model-bfloat16"]
    assert halves["runtime"] == "jax, bfloat16"
    assert (halves["bundle"], halves["parameters"]) == (rows["model"]["bundle"], rows["model"]["parameters"])
    with pytest.raises(UserError, match="is an exported folder, but --model must be a bundle"):
        main(Config(file, (model,), data, str(tmp_path / "other")))
