"""Paths on this machine and in a bucket, through the same calls."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import bertjax
from bertjax import UserError, checkpoint
from bertjax.params import flatten
from bertjax.storage import paths
from tests.gcs import Storage
from tests.train.tiny import write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["here", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, bucket: Storage) -> str:
    """An empty place of both kinds."""
    return str(tmp_path / "here") if request.param == "here" else f"gs://bucket/{tmp_path.name}"


def content(place: str) -> dict[str, str]:
    return {name: (paths.as_path(place) / name).read_text() for name in paths.names(place)}


@pytest.mark.slow
def test_a_folder_is_replaced_as_a_whole_and_added_to_file_by_file(place: str):
    with paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text("1")
        (folder / "inner").mkdir()
        (folder / "inner" / "old").write_text("1")
    with paths.staged(place) as folder:
        (folder / "more").write_text("1")
    assert content(place) == {"config.json": "1", "inner/old": "1", "more": "1"}
    with paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text("2")
    assert content(place) == {"config.json": "2"}


def test_where_filling_fails_the_folder_before_stays(place: str):
    with paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text("1")
    with pytest.raises(ZeroDivisionError), paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text(str(1 / 0))
    assert content(place) == {"config.json": "1"}


def test_a_file_is_written_as_a_whole_and_removed_with_its_folder(place: str):
    paths.write_text(f"{place}/a/b.txt", "é")
    assert content(place) == {"a/b.txt": "é"}
    paths.remove(place)
    paths.remove(place)
    assert content(place) == {}


def test_a_model_is_read_anew_when_the_bucket_holds_another(place: str, tmp_path: Path):
    model = bertjax.load(write_model(tmp_path / "model"))
    bertjax.save(model, place)
    again = bertjax.load(place)
    for name, array in flatten(model.params).items():
        np.testing.assert_array_equal(array, flatten(again.params)[name])
    flatten(model.params)["embeddings/word/embedding"][:] = 7
    bertjax.save(model, place)
    assert (flatten(bertjax.load(place).params)["embeddings/word/embedding"] == 7).all()


def test_in_a_bucket_what_is_not_wholly_written_is_no_model(tmp_path: Path, bucket: Storage):
    bertjax.save(bertjax.load(write_model(tmp_path / "model")), "gs://bucket/half")
    del bucket.objects["half/config.json"]
    with pytest.raises(UserError, match="still being written"):
        bertjax.load("gs://bucket/half")


def test_the_deciding_file_goes_first_and_comes_last(bucket: Storage):
    seen = []
    with paths.atomic_folder("gs://bucket/order") as folder:
        (folder / "config.json").write_text("1")
        (folder / "weights").write_text("1")
    bucket.heard = seen.append
    with paths.atomic_folder("gs://bucket/order") as folder:
        (folder / "config.json").write_text("2")
        (folder / "weights").write_text("2")
    bucket.heard = lambda line: None
    writes = [line for line in seen if not line.startswith("GET")]
    assert [line.split()[0] for line in writes] == ["DELETE", "POST", "POST"]
    assert "config.json" in writes[0]
    assert bucket.objects["order/weights"].generation < bucket.objects["order/config.json"].generation


def test_a_copy_is_made_once(bucket: Storage, cache: Path):
    bucket.put("text/train.txt", b"one")
    first = paths.local("gs://bucket/text/train.txt")
    assert (first.read_text(), first.name) == ("one", "train.txt")
    asked = []
    bucket.heard = asked.append
    assert paths.local("gs://bucket/text/train.txt") == first
    bucket.heard = lambda line: None
    assert not [line for line in asked if "alt=media" in line]
    bucket.put("text/train.txt", b"two")
    assert paths.local("gs://bucket/text/train.txt").read_text() == "two"


def test_a_copy_of_a_folder_has_the_folders_in_it(place: str):
    with paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text("1")
        (folder / "onnx" / "more").mkdir(parents=True)
        (folder / "onnx" / "model.onnx").write_text("2")
        (folder / "onnx" / "more" / "data").write_text("3")
    copy = paths.local(place)
    assert {name: (copy / name).read_text() for name in paths.names(copy)} == content(place)


def test_paths_are_relative_within_one_world_only():
    assert paths.relative("gs://bucket/run/stages/a", "gs://bucket/run/exported") == "../stages/a"
    assert paths.joined("gs://bucket/run/exported", "../stages/a") == "gs://bucket/run/stages/a"
    assert paths.relative("/models/a", "gs://bucket/run") == "/models/a"
    assert (
        paths.relative("gs://bucket/run", "/models") == paths.joined("/models", "gs://bucket/run") == "gs://bucket/run"
    )


STATE = {"numbers": np.arange(6.0), "more": jnp.ones((3, 3))}


def test_a_step_in_a_bucket_is_there_when_its_last_file_is(bucket: Storage):
    folder = "gs://bucket/steps"
    for step in (1, 2, 3):
        checkpoint.save(folder, step, STATE, extra={"step": step})
    del bucket.objects["steps/3/commit_success.txt"]
    assert checkpoint.steps(folder) == [1, 2]
    restored = checkpoint.restore(folder, STATE)
    assert (restored.step, restored.skipped) == (2, ["step 3: half-written"])
    checkpoint.save(folder, 3, STATE, extra={"step": "again"})
    assert checkpoint.restore(folder, STATE).extra == {"step": "again"}


def test_a_damaged_step_in_a_bucket_is_seen_and_put_aside(bucket: Storage):
    folder = "gs://bucket/damaged"
    for step in (1, 2):
        checkpoint.save(folder, step, STATE)
    for name in bucket.names("damaged/2/state/d/"):
        content = bytearray(bucket.objects[name].content)
        content[len(content) // 2] ^= 1
        bucket.put(name, content)
    with checkpoint.Checkpoints(folder, keep=None) as checkpoints:
        restored = checkpoints.restore_latest(STATE)
        assert restored is not None
        assert restored.step == 1
        assert restored.skipped[0].startswith("step 2: ")
        checkpoints.save(2, STATE)
    assert checkpoint.steps(folder) == [1, 2]
    assert bucket.names("damaged/bad-2/")


def test_a_bucket_that_is_not_there_and_a_missing_package_are_told_plainly(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match="gs://nowhere cannot be read"):
        paths.as_path("gs://nowhere/run")
    with pytest.raises(UserError, match="gs://bucket/nothing: no such file"):
        paths.local("gs://bucket/nothing")
    with pytest.raises(UserError, match="no model folder at gs://bucket/nothing"):
        bertjax.load("gs://bucket/nothing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'bertjax"):
        paths.as_path("gs://another/run")


def test_a_path_of_this_machine_is_its_own_copy(tmp_path: Path):
    assert paths.local(tmp_path) == tmp_path
    assert type(paths.as_path(str(tmp_path))) is type(tmp_path)
    with paths.staged(tmp_path / "new") as folder:
        assert os.fspath(folder) == str(tmp_path / "new")
