"""What is read off a folder: bytes, weights, classes, and what its own papers claim."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertjax import UserError
from bertjax.measure.card import write_card
from bertjax.measure.onnx import origin_of
from bertjax.measure.report import BAG_OF_WORDS, Latency, Percentiles, Report, Row
from bertjax.text.tasks import Task
from bertjax.verify.folder import (
    check_files,
    claims_of,
    classes_of,
    given_bundle,
    named_bundle,
    runtime_of,
    shipped_bytes,
    weights_of,
)
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


def test_bytes_are_those_of_all_files_whatever_they_are_called(bundle: Path):
    """Weights may lie in a file called report.png, or below a folder called README.md."""
    before = shipped_bytes(bundle)
    assert before == sum((bundle / name).stat().st_size for name in ("model.safetensors", "config.json"))
    for number, name in enumerate(("report.json", "README.md", "report.md", ".hidden", "model.onnx.data")):
        (bundle / name).write_bytes(b"12345")
        assert shipped_bytes(bundle) == before + 5 * (number + 1)
    (bundle / "inner").mkdir()
    (bundle / "inner" / "report.png").write_bytes(b"1234567")
    assert shipped_bytes(bundle) == before + 32


NAMED: dict[str, tuple[Any, str]] = {
    "itself": (".", "is that folder itself"),
    "itself by its name": ("../export", "is that folder itself"),
    "itself by a detour": ("inner/..//../export/./", "is that folder itself"),
    "itself by a link": ("../alias", "leads through a link"),
    "a bucket": ("gs://bucket/model", "is no path from there"),
    "another machine": ("https://example.org/model", "is no path from there"),
    "the hub": ("hf:someone/model", "is not there"),
    "an absolute path": ("BUNDLE", "is no path from there"),
    "a link": ("../link/bundle", "leads through a link"),
    "its own copy, which is no bundle": ("../copy", "is no bundle, but a folder with an ONNX file"),
    "a bundle of links": ("../hollow", "is no bundle"),
    "an empty folder": ("../empty", "is no bundle"),
    "nothing": ("../gone", "is not there"),
    "a number": (7, "is no path from there"),
    "a list": (["../bundle"], "is no path from there"),
    "a nul": ("../bundle\0", "is no path from there"),
    "a long name": ("x" * 5000, "is not there"),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_folder_of_anybody_names_no_bundle_but_one_beside_it(bundle: Path, case: str, monkeypatch):
    named, why = NAMED[case]
    export, copy, hollow = (bundle.parent / name for name in ("export", "copy", "hollow"))
    for folder in (export, copy, hollow, bundle.parent / "empty"):
        folder.mkdir()
    for folder in (export, copy):
        (folder / "model.onnx").touch()
    (bundle.parent / "alias").symlink_to(export)
    (bundle.parent / "link").symlink_to(bundle.parent)
    (hollow / "model.safetensors").symlink_to(bundle / "model.safetensors")
    text = json.dumps({"bertjax": {"bundle": str(bundle) if named == "BUNDLE" else named}})
    (export / "config.json").write_text(text)
    monkeypatch.setattr("bertjax.paths._client", lambda bucket: pytest.fail("the gate calls nobody"))
    found, said = named_bundle(export)
    assert found is None
    assert why in said
    assert "\n" not in said
    assert len(said) < 600


def test_a_bundle_beside_it_is_found_from_wherever_a_folder_is_called(bundle: Path, monkeypatch):
    export = bundle.parent / "export"
    export.mkdir()
    (export / "config.json").write_text(json.dumps({"bertjax": {"bundle": "../bundle"}}))
    alias = bundle.parent / "somewhere" / "alias"
    alias.parent.mkdir()
    alias.symlink_to(export)  # by whom the gate is called, not what was shipped
    monkeypatch.chdir(bundle.parent)
    assert [named_bundle(Path(name)) for name in ("export", str(export), str(alias))] == [(bundle, "")] * 3


@pytest.mark.parametrize("wrong", [{"bertjax": None}, {"bertjax": ["bundle"]}, {"bertjax": {"bundle": ""}}, {}])
def test_a_folder_that_names_no_bundle_names_none(bundle: Path, wrong: dict[str, Any]):
    (bundle / "config.json").write_text(json.dumps(wrong))
    assert named_bundle(bundle) == (None, "")


def test_nothing_is_followed_out_of_what_ships(bundle: Path):
    check_files(bundle)
    (bundle / "same.safetensors").symlink_to("model.safetensors")
    check_files(bundle)  # it leads nowhere else, and is counted as what it holds
    outside = bundle.parent / "outside"
    outside.mkdir()
    for name, target in {"weights.bin": outside / "x", "data": outside, "up": Path(".."), "passwd": Path("/")}.items():
        (bundle / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name} is a link to .*, outside of the folder") as refused:
            check_files(bundle)
        assert len(str(refused.value).splitlines()) <= 5
        (bundle / name).unlink()
    os.mkfifo(bundle / "pipe")
    with pytest.raises(UserError, match="pipe is neither a file nor a folder"):
        check_files(bundle)


def test_what_new_is_held_against_is_a_bundle_and_not_new(bundle: Path):
    export = bundle.parent / "export"
    export.mkdir()
    (export / "model.onnx").touch()
    assert given_bundle(bundle, export) == bundle
    for parity, new, why in (
        (export, export, "is NEW itself"),
        (export, bundle, "is no bundle"),
        (bundle, bundle, "is NEW"),
    ):
        with pytest.raises(UserError, match=why):
            given_bundle(parity, new)


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
    write_card(
        bundle,
        report,
        "s",
        task=Task("classification", labels=("a", "b")),
        source="demo",
        command="make",
        max_length=64,
    )
    (claim,) = claims_of(bundle, bundle, "accuracy")
    assert (claim.file, claim.what, claim.value) == ("README.md", "score", 0.8123)
    assert claims_of(bundle, bundle, "f1") == ()
    (bundle / "README.md").write_text("# No front matter, no claim that a program could read")
    assert claims_of(bundle, bundle, "accuracy") == ()
