"""What is read off a folder: bytes, weights, classes, and what its own papers claim."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertjax import UserError
from bertjax.measure.latency import Latency, Percentiles
from bertjax.measure.onnx import origin_of
from bertjax.report.card import write_card
from bertjax.report.models import BAG_OF_WORDS, ModelRow, Report
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


def row(name: str, folder: Path | None, score: float, size: int, milliseconds: float) -> ModelRow:
    both = Percentiles(milliseconds, milliseconds)
    place = None if folder is None else str(folder)
    return ModelRow(
        name, place, "jax", score, (score - 0.01, score + 0.01), None, 10, size, latency_ms=Latency(both, both)
    )


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
    "itself by a link": ("../alias", "is reached through a link"),
    "a bucket": ("gs://bucket/model", "is not a relative path on this machine"),
    "another machine": ("https://example.org/model", "is not a relative path on this machine"),
    "the hub": ("hf:someone/model", "does not exist"),
    "an absolute path": ("BUNDLE", "is not a relative path on this machine"),
    "a link": ("../link/bundle", "is reached through a link"),
    "its own copy, which is no bundle": ("../copy", "is not a bundle, but a folder with an ONNX file"),
    "a bundle of links": ("../hollow", "is not a bundle"),
    "an empty folder": ("../empty", "is not a bundle"),
    "nothing": ("../gone", "does not exist"),
    "a number": (7, "is not a relative path on this machine"),
    "a list": (["../bundle"], "is not a relative path on this machine"),
    "a nul": ("../bundle\0", "is not a relative path on this machine"),
    "a long name": ("x" * 5000, "does not exist"),
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
    monkeypatch.setattr("bertjax.storage.paths._client", lambda bucket: pytest.fail("the gate calls nobody"))
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
        with pytest.raises(UserError, match=f"{name} is a link to .*, which is outside the folder") as refused:
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
        (export, bundle, "is not a bundle"),
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
    with pytest.raises(UserError, match="has no class names"):
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 5}, "rows is 5; expected a list"),
        ({"rows": [5]}, "rows[0] is 5; expected an object"),
        ({"rows": {}}, "rows is {}; expected a list"),
        ({"rows": [{"name": 5}]}, "rows[0]: name is 5; expected Unicode text"),
        ({"rows": [{"bundle": ["."]}]}, "rows[0]: bundle is ['.']; expected Unicode text"),
        ({"rows": [{"bundle": ".", "score": "0.9"}]}, 'rows[0]: score is "0.9"; expected a number'),
        ({"rows": [{"bundle": ".", "score": True}]}, "rows[0]: score is true; expected a number"),
        (
            {"rows": [{"bundle": ".", "score": 0.9, "score_ci95": [0.8]}]},
            "rows[0]: score_ci95 is [0.8]; expected a list",
        ),
        ({"rows": [{"bundle": ".", "score": 0.9, "score_ci95": 0.8}]}, "rows[0]: score_ci95 is 0.8; expected a list"),
        ({"rows": [{"bundle": ".", "size_bytes": [1]}]}, "rows[0]: size_bytes is [1]; expected a number"),
        ({"rows": [{"bundle": ".", "size_bytes": 10**400}]}, "rows[0]: size_bytes is 1000"),
        ({"rows": [{"bundle": ".", "latency_ms": 3}]}, "rows[0]: latency_ms is 3; expected an object"),
        ({"metric": 5}, "metric is 5; expected Unicode text"),
        ({"accuracy": "high"}, 'accuracy is "high"; expected a number'),
        ({"speed_up": [4]}, "speed_up is [4]; expected a number"),
    ],
)
def test_a_report_that_holds_something_else_is_one_clear_line(bundle: Path, changes, said):
    """What cannot be read is no claim that holds."""
    (bundle / "report.json").write_text(json.dumps(changes))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        claims_of(bundle, bundle, "accuracy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("latency", [{"p50": 0}, {"p50": "8"}, {"p50": None}, {}, 5, None])
def test_times_that_are_none_are_named(bundle: Path, latency):
    rows = [{"name": "t", "bundle": ".", "latency_ms": {"batch_1": latency}}]
    (bundle / "report.json").write_text(json.dumps({"rows": rows, "baseline": "t"}))
    with pytest.raises(UserError, match=r"latency_ms\.batch_1(\.p50)? is .*; expected"):
        claims_of(bundle, bundle, "accuracy")


def test_rows_that_say_little_claim_little(bundle: Path):
    for content in (
        {"rows": []},
        {"rows": [{}]},
        {"rows": None},
        {"rows": [{"bundle": "a\0b"}, {"bundle": "x" * 300}]},
    ):
        (bundle / "report.json").write_text(json.dumps(content))
        assert claims_of(bundle, bundle, "accuracy") == ()


@pytest.mark.parametrize(
    "card", ["---\n: [\n---\n", "---\n\xff\n---\n", "---\nmodel-index: 5\n---\n", "---\n- a\n---\n"]
)
def test_a_card_that_is_none_is_named(bundle: Path, card):
    (bundle / "README.md").write_bytes(card.encode("latin1"))
    with pytest.raises(UserError, match=r"README\.md: the front matter is not that of a model card"):
        claims_of(bundle, bundle, "accuracy")


def test_a_card_whose_score_is_no_number_is_named(bundle: Path):
    result = "{task: {type: x}, dataset: {type: x, name: x}, metrics: [{type: accuracy, value: high}]}"
    card = f"---\nmodel-index:\n- name: m\n  results:\n  - {result}\n---\n"
    (bundle / "README.md").write_text(card)
    with pytest.raises(UserError, match='metric value is "high"; expected a number'):
        claims_of(bundle, bundle, "accuracy")


@pytest.mark.parametrize("names", [["a", "b"], {"a": 0}, {"1": "a", "2": "b"}, 5])
def test_names_of_classes_in_other_forms_are_refused(bundle: Path, names):
    (bundle / "config.json").write_text(json.dumps({"id2label": names}))
    with pytest.raises(UserError, match=r"config\.json: id2label is .*; expected the name of each output"):
        classes_of(bundle)
