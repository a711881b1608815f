"""What version 0.1.0 wrote is read by this one: `tests/data/0.1.0` holds its models, with its logits, and two runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.engine import record
from bertjax.engine.command_line import parse
from bertjax.errors import UserError
from bertjax.predict import runner
from bertjax.recipes import finetune, quantize
from tests.tolerances import SAME_MATHS
from tests.train.tiny import ROOT

OLD = Path("tests/data/0.1.0")
LOGITS = json.loads((ROOT / OLD / "logits.json").read_text())
DATA = (f"--data.train={OLD}/train.tsv", f"--data.eval={OLD}/eval.tsv", "--data.max_length=16")
SETTINGS = (*DATA, "--steps=4", "--batch_size=8")
QUANTIZE = (f"--model={OLD}/finetune_run/bundle", *SETTINGS, "--qat=lsq", "--activation_range=least_squares")
RUNS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "finetune_run": (finetune.Config, (f"--model={OLD}/plain", *SETTINGS, "--optimiser.swa_fraction=0.5")),
    "quantize_run": (quantize.Config, (*QUANTIZE, "--weight_range=min_max", "--calibration_examples=8")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGITS["models"])
def test_a_bundle_of_0_1_0_gives_the_logits_that_it_gave(name: str):
    bundle = bertjax.load(ROOT / OLD / name)
    ids, mask, types = (
        np.array(LOGITS[field], np.int32) for field in ("input_ids", "attention_mask", "token_type_ids")
    )
    answered = next(runner(bundle.model, bundle.params)([(ids, mask, types)]))
    expected = LOGITS["models"][name]
    np.testing.assert_allclose(answered.logits, expected["logits"], **SAME_MATHS)
    assert (answered.depths is None) == ("depths" not in expected)
    if answered.depths is not None:
        np.testing.assert_array_equal(answered.depths, expected["depths"])


@pytest.mark.parametrize("name", LOGITS["models"])
def test_a_bundle_of_0_1_0_saved_by_this_version_is_the_same_model(name: str, tmp_path: Path):
    bundle = bertjax.load(ROOT / OLD / name)
    bertjax.save(bundle, tmp_path / "saved")
    assert bertjax.load(tmp_path / "saved").config == bundle.config


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_of_0_1_0_is_finished_under_the_new_names_of_its_flags(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe, flags = RUNS[name]
    shutil.copytree(OLD / name, tmp_path / name)
    assert record.begin(tmp_path / name, parse(recipe, flags))
    with pytest.raises(UserError, match=r"holds a run with other settings .*steps: 4 -> 5"):
        record.begin(tmp_path / name, parse(recipe, [*flags, "--steps=5"]))


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_of_0_1_0_knows_what_it_began_with(name: str, tmp_path: Path, monkeypatch):
    recipe, flags = RUNS[name]
    shutil.copytree(ROOT / OLD, tmp_path / OLD)
    monkeypatch.chdir(tmp_path)
    other = OLD / "train.tsv"
    other.write_text(other.read_text() + "the music\tgood\n")
    with pytest.raises(
        UserError, match=r"a finished run that started from other inputs:\n.*--data.train has other text"
    ):
        record.begin(OLD / name, parse(recipe, flags))
