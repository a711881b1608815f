"""The scripts on `gs://` paths: real processes and real clients, and a Cloud Storage on this machine (tests/gcs.py)."""

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bertjax
from bertjax import checkpoint
from tests.gcs import Storage
from tests.train.tiny import ROOT, metrics, run, script, weights, write_model, write_table


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bucket: Storage) -> Iterator[Path]:
    """A model and its texts, on this machine and in the bucket."""
    folder = tmp_path_factory.mktemp("storage")
    write_model(folder / "model")
    write_table(folder / "train.tsv", 96, filler=(10, 12))
    write_table(folder / "eval.tsv", 60, seed=1, filler=(10, 12))
    bertjax.save(bertjax.load(folder / "model"), "gs://bucket/model")
    for name in ("train.tsv", "eval.tsv"):
        bucket.put(name, (folder / name).read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTJAX_CACHE", str(folder / "cache"))
        yield folder


def flags(place: str | Path, out: str, *more: str) -> list[str]:
    data = [f"--data.train={place}/train.tsv", f"--data.eval={place}/eval.tsv", "--data.max_length=16"]
    recipe = ["--batch_size=8", "--steps=40", "--save_every=4", "--optimiser.learning_rate=0.01"]
    return [f"--model={place}/model", *data, *recipe, f"--out={place}/{out}", *more]


@pytest.fixture(scope="module")
def uncut(work: Path) -> Path:
    """The run on this machine, in one go."""
    run("finetune", *flags(work, "uncut"))
    return work / "uncut"


@pytest.fixture(scope="module")
def resumed(work: Path, bucket: Storage) -> Storage:
    """The same run in the bucket, killed and started again; meanwhile its newest step is damaged, one half there."""
    with subprocess.Popen(script("finetune", *flags("gs://bucket", "run")), cwd=ROOT, stderr=subprocess.PIPE) as first:
        while first.poll() is None and "run/checkpoints/8/commit_success.txt" not in bucket.names():
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert "run/run.json" in bucket.names()
    assert not bucket.names("run/bundle")
    newest = max(checkpoint.steps("gs://bucket/run/checkpoints"))
    for name in bucket.names(f"run/checkpoints/{newest}/state/d/"):
        bucket.put(name, bucket.objects[name].content[:-1] + b"?")
    bucket.put("run/checkpoints/36/_CHECKPOINT_METADATA", b"{}")
    run("finetune", *flags("gs://bucket", "run"))
    return bucket


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_ends_with_the_bits_of_an_uncut_one_on_this_machine(resumed: Storage, uncut: Path):
    assert resumed.objects["run/bundle/model.safetensors"].content == weights(uncut)
    record, local = json.loads(resumed.objects["run/run.json"].content), json.loads((uncut / "run.json").read_text())
    assert record["result"] == local["result"]


def lines_of(bucket: Storage, out: str) -> list[dict]:
    return [json.loads(line) for line in bucket.objects[f"{out}/metrics.jsonl"].content.splitlines()]


@pytest.mark.slow
def test_its_metrics_show_the_restart_and_lack_nothing_that_a_checkpoint_promised(resumed: Storage, uncut: Path):
    lines = lines_of(resumed, "run")
    start, restart = [line for line in lines if line.get("event") in ("start", "restart")]
    assert (start["event"], restart["event"]) == ("start", "restart")
    assert restart["step"] >= 4
    damaged, half = restart["skipped"][0], restart["skipped"][-1]
    assert damaged.startswith(f"step {restart['step'] + 4}: ")
    assert half == "step 36: half-written"
    assert resumed.names(f"run/checkpoints/bad-{restart['step'] + 4}/")
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses == {line["step"]: line["loss"] for line in metrics(uncut) if "loss" in line}
    boards = [name for name in resumed.names("run/tensorboard/") if "tfevents" in name]
    assert len(boards) == 2


@pytest.mark.slow
def test_the_finished_command_again_does_nothing(resumed: Storage):
    before = {name: stored.generation for name, stored in resumed.objects.items()}
    done = run("finetune", *flags("gs://bucket", "run"))
    assert "gs://bucket/run: finished already" in done.stderr
    assert before == {name: stored.generation for name, stored in resumed.objects.items()}


@pytest.mark.slow
def test_another_command_on_the_same_place_is_refused(resumed: Storage):
    done = run("finetune", *flags("gs://bucket", "run", "--seed=1"), check=False)
    assert done.returncode == 2
    assert "seed: 0 -> 1" in done.stderr


@pytest.mark.slow
def test_a_compression_in_a_bucket_leaves_stages_a_report_and_what_ships(work: Path, bucket: Storage):
    config = work / "trial.py"
    config.write_text(TRIAL)
    flags_of = [flag for flag in flags("gs://bucket", "small") if "steps" not in flag and "every" not in flag]
    done = run("compress", f"--config={config}", *[flag for flag in flags_of if "learning_rate" not in flag])
    assert "the report: gs://bucket/small/report.md" in done.stderr
    report = json.loads(bucket.objects["small/report.json"].content)
    folders = {row["name"]: row["bundle"] for row in report["rows"]}
    assert folders["teacher"] == "stages/1-teacher/bundle"
    assert folders["onnx"] == "stages/4-onnx/bundle"
    assert bucket.objects["small/report.png"].content.startswith(b"\x89PNG")
    assert b"bertjax.load" in bucket.objects["small/stages/3-pruned/bundle/README.md"].content
    assert len(bucket.objects["small/stages/2-augmented/augmented.jsonl"].content.splitlines()) > 96
    assert not bucket.names("small/stages/2-augmented/parts/")
    for name in ("bundle/model.safetensors", "exported/onnx/model.onnx"):
        assert f"small/{name}" in bucket.names()
    for folder in ("small/stages/3-pruned/bundle", "small/bundle", "small/exported"):
        listed = json.loads(bucket.objects[f"{folder}/digests.json"].content)["files"]
        assert "README.md" in listed
        for name, digest in listed.items():
            assert hashlib.sha256(bucket.objects[f"{folder}/{name}"].content).hexdigest() == digest, name
    shipped = json.loads(bucket.objects["small/exported/report.json"].content)
    assert "." in {row["bundle"] for row in shipped["rows"]}
    assert json.loads(bucket.objects["small/exported/config.json"].content)["bertjax"]["bundle"] == "../bundle"


TRIAL = """
from bertjax.student import Student
from bertjax.recipes.augment import Augment
from bertjax.recipes.compress import Config
from bertjax.recipes.distill import Distill
from bertjax.recipes.export import Export
from bertjax.recipes.finetune import Finetune
from bertjax.recipes.optimiser import Optimiser
from bertjax.recipes.prune import Prune

fast = Optimiser(learning_rate=0.01)
config = Config(stages=(
    Finetune(steps=8, save_every=4, optimiser=fast),
    Augment(substitutes="neighbours", copies=2),
    Prune(steps=8, save_every=4, optimiser=fast, heads=0.5),
    Export(),
))
"""


@pytest.mark.slow
def test_a_model_in_a_bucket_is_measured_and_asked(resumed: Storage, work: Path):
    place = "gs://bucket/run/bundle"
    data = ["--data.train=gs://bucket/train.tsv", "--data.eval=gs://bucket/eval.tsv", "--data.max_length=16"]
    run("evaluate", f"--model={place}", "--against", "gs://bucket/run/bundle", *data, "--out=gs://bucket/compared")
    assert "compared/report.md" in resumed.names()
    resumed.put("texts.txt", b"the lovely film\na dull story\n")
    run("predict", f"--model={place}", "--input=gs://bucket/texts.txt", "--out=gs://bucket/answers.jsonl")
    answers = [json.loads(line) for line in resumed.objects["answers.jsonl"].content.splitlines()]
    assert [answer["text"] for answer in answers] == ["the lovely film", "a dull story"]


MISTAKES = {
    "no such bucket": (["--out=gs://nowhere/run"], "gs://nowhere cannot be read"),
    "no permission": (["--out=gs://bucket/forbidden/run"], "cannot write to gs://bucket/forbidden/run: Forbidden"),
    "no such model": (["--model=gs://bucket/nowhere"], "no model folder at gs://bucket/nowhere"),
    "no such file": (["--data.train=gs://bucket/nowhere.tsv"], "gs://bucket/nowhere.tsv: no such file"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_about_a_bucket_ends_in_a_few_clear_lines(case: str, work: Path):
    more, expected = MISTAKES[case]
    done = run("finetune", *flags("gs://bucket", "mistake"), *more, check=False)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 5
