"""Finished models and exported files side by side."""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
@pytest.mark.skipif(find_spec("openvino") is None, reason="an extra")
@pytest.mark.parametrize("runtime", ["openvino", "auto"])
def test_a_file_is_measured_in_the_given_runtime_or_in_the_faster_one(runtime: Any, tmp_path: Path):
    model, file = write_headed(tmp_path), tmp_path / "file" / "bundle"
    export_once(model, file)
    data = Data(eval=str(write_table(tmp_path / "eval.tsv", 20)), max_length=16)
    main(Config(model, (str(file),), data, str(tmp_path / "report"), runtime=runtime))
    row = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][1]
    text = (tmp_path / "report" / "report.md").read_text()
    assert row["edge"]["load_ms"] > 0
    if runtime == "openvino":
        assert row["runtime"] == "openvino"
        assert "file in openvino predicts otherwise than in onnxruntime for 0 of 20 texts." in text
        assert "ms in onnxruntime" not in text  # which was not timed
    else:
        assert f"it is measured in {row['runtime']}, the faster here." in text
        assert " ms in onnxruntime 1." in text
        assert " ms in openvino 20" in text


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
