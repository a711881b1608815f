"""The scripts on `gs://` paths: real processes and real clients, and a Cloud Storage on this machine (tests/gcs.py)."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bertjax
from tests.gcs import Storage
from tests.train.tiny import ROOT, metrics, run, script, weights, write_model, write_table


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, bucket: Storage) -> Iterator[Path]:
    """A model and its texts, on this machine and in the bucket."""
    folder = tmp_path_factory.mktemp("storage")
    write_model(folder / "model")
    write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
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
    """The same run in the bucket, killed after a checkpoint and started again."""
    with subprocess.Popen(script("finetune", *flags("gs://bucket", "run")), cwd=ROOT, stderr=subprocess.PIPE) as first:
        while first.poll() is None and "run/checkpoints/8/commit_success.txt" not in bucket.names():
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert "run/run.json" in bucket.names()
    assert not bucket.names("run/bundle")
    run("finetune", *flags("gs://bucket", "run"))
    return bucket


def test_a_run_killed_in_a_bucket_ends_with_the_bits_of_an_uncut_one_on_this_machine(resumed: Storage, uncut: Path):
    assert resumed.objects["run/bundle/model.safetensors"].content == weights(uncut)
    record, local = json.loads(resumed.objects["run/run.json"].content), json.loads((uncut / "run.json").read_text())
    assert record["result"] == local["result"]


def lines_of(bucket: Storage, out: str) -> list[dict]:
    return [json.loads(line) for line in bucket.objects[f"{out}/metrics.jsonl"].content.splitlines()]


def test_its_metrics_show_the_restart_and_lack_nothing_that_a_checkpoint_promised(resumed: Storage, uncut: Path):
    lines = lines_of(resumed, "run")
    events = [(line["event"], line["step"]) for line in lines if line.get("event") in ("start", "restart")]
    assert [event for event, _ in events] == ["start", "restart"]
    assert events[1][1] >= 8
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses == {line["step"]: line["loss"] for line in metrics(uncut) if "loss" in line}
    boards = [name for name in resumed.names("run/tensorboard/") if "tfevents" in name]
    assert len(boards) == 2


def test_the_finished_command_again_does_nothing(resumed: Storage):
    before = {name: stored.generation for name, stored in resumed.objects.items()}
    done = run("finetune", *flags("gs://bucket", "run"))
    assert "gs://bucket/run: finished already" in done.stderr
    assert before == {name: stored.generation for name, stored in resumed.objects.items()}


def test_another_command_on_the_same_place_is_refused(resumed: Storage):
    done = run("finetune", *flags("gs://bucket", "run", "--seed=1"), check=False)
    assert done.returncode == 2
    assert "seed: 0 -> 1" in done.stderr
