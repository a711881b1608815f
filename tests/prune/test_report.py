"""What a model may claim whose weights are zeros in their places: fewer of them, and no time. The times are given."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.measure.latency import Latency, Percentiles, Timing
from bertjax.prune.masks import apply_masks, magnitude_masks
from bertjax.report.build import Entry, measure_bundles
from bertjax.report.models import markdown, model_table, verdicts
from bertjax.text.tasks import Task
from bertjax.verify import Bounds, compare, verdict
from tests.train.tiny import write_model, write_table

TASK = Task("classification", text="sentence", label="label", labels=("bad", "good"), metric="accuracy")
TEXTS, GOLD = ["a fine film", "a dull film", "the music"], np.array([1, 0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and the same with nine of ten weights of its encoder at 0."""
    folder = tmp_path_factory.mktemp("zeros")
    write_model(folder / "whole", labels=TASK.labels, architecture="BertForSequenceClassification")
    whole = bertjax.load(folder / "whole")
    masks = magnitude_masks(whole.params, r"^encoder/.*kernel$", 0.9)
    bertjax.save(dataclasses.replace(whole, params=apply_masks(whole.params, masks)), folder / "zeros")
    write_table(folder / "dev.tsv", 40)
    return folder


def times(**ms: float) -> Any:
    """In place of `measure_latency`: what a clock would have said of those that it was asked for."""

    def timing(one: float) -> Timing:
        both = Percentiles(one, 1.1 * one)
        return Timing("jax", "cpu", 1, {"jax": "1"}, Latency(both, both), 1000 / one, (one, one, one))

    return lambda candidates, *_, **__: {name: timing(ms[name]) for name in candidates}


def test_the_report_of_zeros_in_their_places_says_no_speed_up(folder: Path, monkeypatch):
    monkeypatch.setattr("bertjax.report.build.measure_latency", times(whole=10.0, zeros=9.0))
    entries = [Entry(name, folder / name, GOLD) for name in ("whole", "zeros")]
    report = measure_bundles(entries, GOLD, TEXTS, task=TASK, baseline="whole", source="dev.tsv", max_length=16)
    whole, zeros = report.rows
    assert (zeros.flops_per_example, zeros.parameters) == (whole.flops_per_example, whole.parameters)
    assert zeros.size_bytes == pytest.approx(whole.size_bytes, rel=0.01)
    assert model_table(report).column("speed")[1] == "no speed-up"
    (said,) = verdicts(report)
    assert "**no speed-up (time ratio 1.00)**" in said  # one program, whatever a clock would have said the second time
    assert "faster" not in said
    assert said in markdown(report, "report.png")


def test_a_masked_model_in_a_file_of_its_own_is_timed_and_says_no_speed_up(folder: Path, monkeypatch):
    monkeypatch.setattr("bertjax.report.build.measure_latency", times(whole=10.0, zeros=9.9))
    monkeypatch.setattr("bertjax.report.build.program", lambda entry: entry.name)
    entries = [Entry(name, folder / name, GOLD) for name in ("whole", "zeros")]
    report = measure_bundles(entries, GOLD, TEXTS, task=TASK, baseline="whole", source="dev.tsv", max_length=16)
    (said,) = verdicts(report)
    assert "**no speed-up (time ratio 1.01)**" in said


def test_the_gate_refuses_zeros_in_their_places_as_a_faster_model_and_says_why(folder: Path, monkeypatch):
    monkeypatch.setattr("bertjax.verify.comparison.measure_latency", times(OLD=10.0, NEW=9.9))
    logits = {name: np.eye(2)[np.arange(40) % 2] for name in ("OLD", "NEW")}
    monkeypatch.setattr("bertjax.verify.comparison.measure_outputs", lambda *_, **__: logits)
    measured = compare(folder / "zeros", folder / "whole", str(folder / "dev.tsv"), Task())
    (failure,) = verdict(measured, Bounds(min_speedup=1.5, max_drop=1.0))
    assert failure.what == "NEW is 1.01 times as fast as OLD; the bound is at least 1.5 times"
    assert any("zeros that stay in place save no time; remove heads" in cause for cause in failure.causes)
    (failure,) = verdict(measured, Bounds(max_mb=1e-6 * folder_bytes(folder / "whole") / 2))  # nor bytes of a file
    assert "the bound is at most" in failure.what


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
