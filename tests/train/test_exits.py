"""Exits trained and calibrated as a user does it: real processes, stopped and continued."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.engine.command_line import parse
from bertjax.export import export
from bertjax.export.check import CLOSE
from bertjax.model import ExitRule
from bertjax.params import flatten
from bertjax.report.build import Entry, costs
from tests.train.tiny import run, weights, write_model, write_table
from train import calibrate, distill, finetune, prune, quantize


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    write_model(folder / "model")
    write_model(folder / "one", num_hidden_layers=1)
    for seed, (name, rows) in enumerate({"train": 96, "held-out": 80, "eval": 60}.items()):
        write_table(folder / f"{name}.tsv", rows, seed=seed)
    run("finetune", f"--model={folder / 'model'}", *data(folder), "--steps=20", f"--out={folder / 'tuned'}")
    return folder


def data(work: Path) -> list[str]:
    split = [f"--data.train={work / 'train.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    return [*split, "--optimiser.learning_rate=0.01", "--batch_size=8"]


def flags(work: Path, out: str, *more: str) -> list[str]:
    return [f"--model={work / 'tuned' / 'bundle'}", *data(work), "--save_every=3", f"--out={work / out}", *more]


@pytest.fixture(scope="module")
def straight(work: Path) -> Path:
    run("exits", *flags(work, "straight", "--steps=6"))
    return work / "straight"


@pytest.mark.slow
def test_the_frozen_model_stays_bit_for_bit_and_the_exits_learn(work: Path, straight: Path):
    before, after = (bertjax.load(folder / "bundle") for folder in (work / "tuned", straight))
    assert after.config.exits is not None
    old, new = flatten(before.params), flatten(after.params)
    for path, leaf in old.items():
        np.testing.assert_array_equal(new[path], leaf, err_msg=path)
    assert set(new) - set(old) == {path for path in new if path.startswith("exits/")}
    assert np.abs(new["exits/exit_0/classifier/kernel"] - old["classifier/kernel"]).max() > 0


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(work: Path, straight: Path):
    stopped = flags(work, "stopped", "--steps=6")
    half = work / "stopped" / "checkpoints"
    run("exits", *stopped)
    whole = weights(work / "stopped")
    for step in half.iterdir():
        if step.name == "6":
            import shutil

            shutil.rmtree(step)
    record = json.loads((work / "stopped" / "run.json").read_text())
    record.pop("result")
    (work / "stopped" / "run.json").write_text(json.dumps(record))
    run("exits", *stopped)
    assert weights(work / "stopped") == whole == weights(straight)


@pytest.mark.slow
def test_a_calibrated_model_leaves_early_wherever_it_is_loaded(work: Path, straight: Path):
    out = work / "early"
    run(
        "calibrate",
        f"--model={straight / 'bundle'}",
        f"--held_out={work / 'held-out.tsv'}",
        f"--data.eval={work / 'eval.tsv'}",
        "--data.max_length=16",
        "--bound=1.0",
        "--rule=margin",  # six steps teach next to nothing: to float32, every entropy is ln 2
        "--sample=40",
        f"--out={out}",
    )
    report = json.loads((out / "report.json").read_text())
    last = [row for row in report["rows"] if row["name"].endswith("calibrated")]
    assert last[0]["mean_depth"] < report["rows"][0]["mean_depth"]
    assert {"score", "score_ci95", "mean_depth", "layer_saving", "flops"} <= last[0].keys()
    assert {"ms", "time_saving", "timed_layer_saving"} <= last[0].keys()
    assert "calibrated" in (out / "report.md").read_text()
    early = bertjax.load(out / "bundle")
    assert early.config.exits is not None
    assert early.config.exits.exit_rule is not None
    texts = [line.split("\t")[0] for line in (work / "eval.tsv").read_text().splitlines()[1:]]
    together = early.predict(texts)
    alone = early.predict(texts[:1])
    assert (alone.labels, alone.depths) == (together.labels[:1], together.depths and together.depths[:1])
    assert sum(together.depths or ()) == pytest.approx(60 * last[0]["mean_depth"])
    assert len(together.labels) == 60


@pytest.mark.parametrize(
    ("script", "more", "said"),
    [
        ("exits", ("--after", "7"), "expected layers from 0 to"),
        ("exits", ("--model=MODEL",), "has no trained head"),
        ("exits", ("--model=ONE", "--method=joint"), "one layer has room for an exit on the embeddings alone"),
        ("calibrate", (), "within the same bound: bertjax drop_tokens --bound=0.01"),
    ],
)
def test_mistakes_end_in_one_line(work: Path, script: str, more: tuple[str, ...], said: str):
    if script == "calibrate":
        given = [f"--model={work / 'tuned' / 'bundle'}", f"--held_out={work / 'eval.tsv'}", f"--out={work / 'no'}"]
    else:
        replaced = [flag.replace("MODEL", str(work / "model")).replace("ONE", str(work / "one")) for flag in more]
        given = [*flags(work, "wrong", "--steps=6"), *replaced]
    done = run(script, *given, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 5


@pytest.mark.slow
def test_the_text_that_chose_is_not_reported_on(work: Path, straight: Path):
    same = [f"--held_out={work / 'eval.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    done = run("calibrate", f"--model={straight / 'bundle'}", *same, f"--out={work / 'same'}", check=False)
    assert done.returncode == 2
    assert "must be chosen on one text and measured on another" in done.stderr


@pytest.fixture(scope="module")
def early(work: Path, straight: Path) -> Path:
    bundle = bertjax.load(straight / "bundle")
    assert bundle.config.exits is not None
    leaving = replace(bundle.config.exits, exit_rule=ExitRule("margin", 0.5))
    bertjax.save(replace(bundle, config=bundle.config.replace(exits=leaving)), work / "leaves")
    return work / "leaves"


CHANGES: dict[str, tuple[Any, list[str]]] = {
    "finetune": (finetune, ["--steps=1", "--batch_size=8"]),
    "quantize": (quantize, ["--calibration_examples=32"]),
    "prune": (prune, ["--criterion=magnitude", "--heads=0.5", "--finetune_after=False"]),
    "distil": (
        distill,
        ["--steps=1", "--batch_size=8", "--student.num_hidden_layers=2", "--student.intermediate_size=8"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CHANGES)
def test_whoever_changes_a_model_forgets_when_its_texts_left(how: str, work: Path, early: Path, tmp_path: Path, capsys):
    script, flags = CHANGES[how]
    text = [f"--data.train={work / 'train.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    script.main(parse(script.Config, [f"--model={early}", *text, *flags, f"--out={tmp_path / 'out'}"]))
    exits = bertjax.load(tmp_path / "out" / "bundle").config.exits
    if how == "distil":
        assert exits is None
        return
    assert exits is not None
    assert exits.exit_rule is None
    assert "its threshold is removed" in capsys.readouterr().err


@pytest.mark.slow
def test_arithmetic_of_a_model_that_leaves_early_is_not_that_of_all_its_layers(straight: Path, early: Path):
    whole, leaves = (
        costs(Entry("one", str(folder), np.zeros(1)), np.array([8])) for folder in (straight / "bundle", early)
    )
    assert whole["flops_per_example"] > 0
    assert leaves["flops_per_example"] is None


@pytest.mark.slow
def test_no_program_is_exported_that_could_not_let_a_text_leave(early: Path, tmp_path: Path):
    with pytest.raises(bertjax.UserError, match="exits early, at a layer that depends on the example"):
        export(early, "huggingface", tmp_path / "huggingface")
    for target in ("onnx", "stablehlo"):
        assert export(early, target, tmp_path / target) < CLOSE


@pytest.mark.parametrize("wrong", ["--sample=0", "--sample=-5", "--bound=inf", "--bound=-1"])
def test_impossible_numbers_are_refused_at_the_door(wrong: str):
    with pytest.raises(bertjax.UserError, match=wrong):
        parse(calibrate.Config, [wrong])


@pytest.mark.slow
def test_batches_are_not_timed_where_there_is_none(work: Path, early: Path, tmp_path: Path):
    text = [f"--held_out={work / 'held-out.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    asked = ["--rule=margin", "--bound=1", "--sample=5", f"--out={tmp_path / 'out'}"]
    calibrate.main(parse(calibrate.Config, [f"--model={early}", *text, *asked]))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["timed"] == 5
    assert all(list(row["ms"]) == ["batch_1"] for row in report["rows"] if row["ms"])
    assert (tmp_path / "out" / "report.md").read_text().count("| - | - | - | - |") >= 2
