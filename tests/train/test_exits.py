"""Exits trained and calibrated as a user does it: real processes, stopped and continued."""

import json
from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax.params import flatten
from tests.train.tiny import run, weights, write_model, write_table


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    write_model(folder / "model")
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


def test_the_frozen_model_stays_bit_for_bit_and_the_exits_learn(work: Path, straight: Path):
    before, after = (bertjax.load(folder / "bundle") for folder in (work / "tuned", straight))
    assert after.config.exits is not None
    old, new = flatten(before.params), flatten(after.params)
    for path, leaf in old.items():
        np.testing.assert_array_equal(new[path], leaf, err_msg=path)
    assert set(new) - set(old) == {path for path in new if path.startswith("exits/")}
    assert np.abs(new["exits/exit_0/classifier/kernel"] - old["classifier/kernel"]).max() > 0


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
    assert early.config.exits.leaving is not None
    texts = [line.split("\t")[0] for line in (work / "eval.tsv").read_text().splitlines()[1:]]
    together = early.predict(texts)
    alone = early.predict(texts[:1])
    assert (alone.labels, alone.depths) == (together.labels[:1], together.depths and together.depths[:1])
    assert sum(together.depths or ()) == pytest.approx(60 * last[0]["mean_depth"])
    assert len(together.labels) == 60


@pytest.mark.parametrize(
    ("script", "more", "said"),
    [
        ("exits", ("--after", "7"), "expected steps from 0 to"),
        ("exits", ("--model=MODEL",), "has no trained head"),
        ("calibrate", (), "has no exits"),
    ],
)
def test_mistakes_end_in_one_line(work: Path, script: str, more: tuple[str, ...], said: str):
    if script == "calibrate":
        given = [f"--model={work / 'tuned' / 'bundle'}", f"--held_out={work / 'eval.tsv'}", f"--out={work / 'no'}"]
    else:
        replaced = [flag.replace("MODEL", str(work / "model")) for flag in more]
        given = [*flags(work, "wrong", "--steps=6"), *replaced]
    done = run(script, *given, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 5


def test_the_text_that_chose_is_not_reported_on(work: Path, straight: Path):
    same = [f"--held_out={work / 'eval.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    done = run("calibrate", f"--model={straight / 'bundle'}", *same, f"--out={work / 'same'}", check=False)
    assert done.returncode == 2
    assert "what chose is no proof" in done.stderr
