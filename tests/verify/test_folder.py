"""What is read off a folder: bytes, weights, classes, and what its own papers claim."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertjax import UserError
from bertjax.measure.card import write_card
from bertjax.measure.onnx import origin_of
from bertjax.measure.report import BAG_OF_WORDS, Latency, Percentiles, Report, Row
from bertjax.text.tasks import Task
from bertjax.verify.folder import claims_of, classes_of, runtime_of, shipped_bytes, weights_of
from bertjax.verify.measured import Claim


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A folder with weights, half of which are zero."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    kernel = np.ones((4, 8), np.float32)
    kernel[:2] = 0
    save_file({"kernel": kernel, "bias": np.zeros(8, np.float32), "step": np.array(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "bertjax": {"id2label": {"0": "a", "1": "b"}}})
    )
    return folder


def row(name: str, folder: Path | None, score: float, size: int, milliseconds: float) -> Row:
    both = Percentiles(milliseconds, milliseconds)
    place = None if folder is None else str(folder)
    return Row(name, place, "jax", score, (score - 0.01, score + 0.01), None, 10, size, latency_ms=Latency(both, both))


def test_bytes_are_those_of_all_files_but_reports(bundle: Path):
    before = shipped_bytes(bundle)
    assert before == sum((bundle / name).stat().st_size for name in ("model.safetensors", "config.json"))
    for name in ("report.json", "README.md", "report.md", "report.png"):
        (bundle / name).write_text("{}")
    assert shipped_bytes(bundle) == before
    (bundle / "model.onnx.data").write_bytes(b"12345")
    assert shipped_bytes(bundle) == before + 5


def test_zeros_are_counted_in_matrices_alone(bundle: Path):
    found = weights_of(bundle)
    assert (found.bytes, found.shapes, found.zeros) == (4 * 32 + 4 * 8 + 8, ((4, 8),), 0.5)
    assert found.makeup == "95% float32, 5% int64; the largest array is kernel ([4, 8], 76%)"


def test_classes_are_found_under_our_own_key_too(bundle: Path):
    assert classes_of(bundle) == {0: "a", 1: "b"}
    (bundle / "config.json").write_text("{}")
    with pytest.raises(UserError, match="names no classes"):
        classes_of(bundle)


def test_an_onnx_file_goes_before_the_weights_beside_it_and_neither_is_an_error(bundle: Path):
    assert runtime_of(bundle) == "jax"
    (bundle / "model.onnx").write_bytes(b"")
    assert runtime_of(bundle) == "onnx"
    with pytest.raises(UserError, match="no such folder"):
        runtime_of(bundle / "nowhere")
    with pytest.raises(UserError, match=r"expected onnx/model\.onnx or a bundle"):
        runtime_of(bundle.parent)


def test_an_export_says_which_bundle_it_is_from(bundle: Path):
    assert origin_of(bundle) is None
    export = bundle.parent / "export"
    export.mkdir()
    (export / "config.json").write_text(json.dumps({"bertjax": {"bundle": "../bundle"}}))
    assert origin_of(export) == bundle
    (export / "config.json").write_text(json.dumps({"bertjax": {"bundle": "../moved"}}))
    assert origin_of(export) is None


def test_a_report_of_several_models_claims_what_it_says_of_this_one(bundle: Path, tmp_path):
    teacher = tmp_path / "teacher"
    rows = (row("t", teacher, 0.9, 400, 8.0), row("s", bundle, 0.8, 100, 2.0), row("u", tmp_path / "u", 0.7, 50, 1.0))
    report = Report(
        "x", "accuracy", "cpu", 1, Percentiles(5.0, 9.0), "t", (*rows, row(BAG_OF_WORDS, None, 0.6, 1, 0.1))
    )
    (bundle / "report.json").write_text(report.json_text(bundle))
    score, size = Claim("report.json", "score", 0.8, (0.8 - 0.01, 0.8 + 0.01)), Claim("report.json", "bytes", 100.0)
    assert claims_of(bundle, teacher, "accuracy") == (score, size, Claim("report.json", "speed-up", 4.0))
    assert claims_of(bundle, tmp_path / "another", "accuracy") == (score, size)  # four times as fast as the teacher
    assert claims_of(bundle, teacher, "f1")[0].what == "bytes"
    path = bundle / "report.json"
    path.write_text(path.read_text().replace('"."', '"../elsewhere"'))
    assert claims_of(bundle, teacher, "accuracy") == ()  # no row is surely its own


def test_a_plain_report_claims_its_numbers(bundle: Path):
    (bundle / "report.json").write_text(json.dumps({"accuracy": 93.5, "speed_up": 4, "size_bytes": 1000, "note": "x"}))
    claimed = [("score", 0.935), ("bytes", 1000.0), ("speed-up", 4.0)]
    assert [(claim.what, claim.value) for claim in claims_of(bundle, bundle, "accuracy")] == claimed


def test_the_model_card_claims_the_score_it_was_given(bundle: Path):
    report = Report("x", "accuracy", "cpu", 1, Percentiles(5.0, 9.0), "s", (row("s", bundle, 0.81234, 100, 2.0),))
    write_card(bundle, report, "s", task=Task("classification", labels=("a", "b")), source="demo", command="make")
    (claim,) = claims_of(bundle, bundle, "accuracy")
    assert (claim.file, claim.what, claim.value) == ("README.md", "score", 0.8123)
    assert claims_of(bundle, bundle, "f1") == ()
    (bundle / "README.md").write_text("# No front matter, no claim that a program could read")
    assert claims_of(bundle, bundle, "accuracy") == ()
