"""Folders that take each other's place: old or new whatever happens, and nothing left over."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.errors import UserError
from bertjax.params import flatten
from bertjax.storage import atomic, paths, tensors
from tests.killed import WHOLE, killed_at, refused_from
from tests.train.tiny import write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
WRITING: tuple[tuple[Any, str], ...] = (
    (Path, "write_text"),
    (Path, "mkdir"),
    (os, "rename"),
    (atomic, "acquire"),
    (tensors, "save_file"),
)
WORDS = "embeddings/word/embedding"


@pytest.fixture(params=["one call", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a folder takes the place of another."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "exchanged", lambda one, other: False)


def write(place: Path, value: int) -> None:
    with paths.atomic_folder(place) as folder:
        for name in ("config.json", "weights"):
            (folder / name).write_text(str(value))


def written(place: Path) -> int:
    (value,) = {(place / name).read_text() for name in ("config.json", "weights")}
    return int(value)


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_killed_at_any_line_the_old_folder_or_the_new_one_stands_there(tmp_path: Path):
    place, moment, old, seen = tmp_path / "run" / "bundle", 0, 0, []
    write(place, old)
    while killed_at(moment, tmp_path, write, place, old + 1, module="atomic.py"):
        atomic.recover(place)
        seen.append(written(place) - old)
        assert seen[-1] in (0, 1), moment
        assert os.listdir(place.parent) == ["bundle"], moment
        old, moment = old + 2, moment + 1
        write(place, old)
        assert written(place) == old
    assert len(seen) > 40
    assert seen == sorted(seen)  # first the old one, then the new one


@pytest.mark.slow
@pytest.mark.usefixtures("way")
def test_killed_at_any_line_of_the_first_time_nothing_is_in_the_way_of_the_second(tmp_path: Path):
    place, moment = tmp_path / "run" / "bundle", 0
    while killed_at(moment, tmp_path, write, place, 1, module="atomic.py"):
        assert not place.exists() or written(place) == 1
        write(place, 2)
        assert written(place) == 2
        assert os.listdir(place.parent) == ["bundle"], moment
        paths.remove(place)
        moment += 1
    assert moment > 30


def cut_between_renames(place: Path) -> Path:
    """What is there then: no folder, and both beside its place."""
    debris = place.with_name(f".{place.name}.{'0' * 12}.partial")
    for name, value in (("old", 0), ("new", 1)):
        (debris / name).mkdir(parents=True)
        for file in ("config.json", "weights"):
            (debris / name / file).write_text(str(value))
    (debris / "lock").touch()
    return debris


@pytest.mark.slow
def test_who_puts_the_old_folder_back_may_be_killed_too(tmp_path: Path):
    place, moment, work = tmp_path / "run" / "bundle", 0, True
    while work:
        cut_between_renames(place)
        work = killed_at(moment, tmp_path, atomic.recover, place, module="atomic.py")
        atomic.recover(place)
        assert written(place) == 0
        assert os.listdir(place.parent) == ["bundle"], moment
        paths.remove(place)
        moment += 1
    assert moment > 10


def mark(bundle: bertjax.Bundle, value: int) -> bertjax.Bundle:
    flatten(bundle.params)[WORDS][:] = value
    return bundle


def marked(folder: Path) -> int:
    loaded = bertjax.load(folder)
    assert loaded.tokenizer is not None
    return int(np.unique(flatten(loaded.params)[WORDS]).item())


@pytest.mark.slow
def test_killed_at_any_file_of_a_save_a_model_opens_and_the_next_one_is_saved(tmp_path: Path):
    bundle = bertjax.load(write_model(tmp_path / "model"))
    place, moment, old, seen = tmp_path / "place" / "bundle", 0, 0, []
    bertjax.save(mark(bundle, old), place)
    while killed_at(moment, place.parent, bertjax.save, mark(bundle, old + 1), place):
        seen.append(marked(place) - old)
        assert os.listdir(place.parent) == ["bundle"], moment
        old, moment = old + 2, moment + 1
        bertjax.save(mark(bundle, old), place)
    assert marked(place) == old + 1
    assert set(seen) == {0, 1}
    assert len(seen) > 10


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_file_leaves_the_old_model_and_one_sentence(tmp_path: Path, monkeypatch):
    bundle = bertjax.load(write_model(tmp_path / "model"))
    place, moment, said = tmp_path / "place" / "bundle", 0, "once"
    bertjax.save(mark(bundle, 0), place)
    while said:
        with monkeypatch.context() as patch:
            count = [0]
            for owner, name in WRITING:
                patch.setattr(owner, name, refused_from(moment, getattr(owner, name), count))
            said = mistake_of(lambda: bertjax.save(mark(bundle, 1), place))
        assert said in ("", f"cannot write {place}: No space left on device. Free space or choose another folder.")
        assert os.listdir(place.parent) == ["bundle"], moment
        assert marked(place) == (0 if said else 1)
        moment += 1
    assert moment > 6


def mistake_of(work: Callable[[], object]) -> str:
    try:
        work()
    except UserError as mistake:
        return str(mistake)
    return ""


def test_what_safetensors_says_of_a_full_disk_is_a_full_disk(tmp_path: Path):
    """The kernel refuses: a file may not grow over a limit."""
    bundle = bertjax.load(write_model(tmp_path / "model"))

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        with pytest.raises(UserError, match=r"cannot write .*File too large"):
            bertjax.save(bundle, tmp_path / "large")
        os._exit(9)

    assert killed_at(WHOLE, tmp_path, limited)
    assert sorted(os.listdir(tmp_path)) == ["model", "model-vocabulary"]


def test_the_scratch_of_a_living_process_is_left_alone(tmp_path: Path):
    place = tmp_path / "bundle"
    with paths.atomic_folder(place) as first:
        (first / "config.json").write_text("1")
        atomic.recover(place)
        atomic.recover_all(tmp_path)
        with paths.atomic_folder(place) as second:
            (second / "config.json").write_text("2")
        assert first.is_dir()
    assert (place / "config.json").read_text() == "1"  # the last one stays
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_command_clears_what_lies_anywhere_in_its_folder_and_nothing_else(tmp_path: Path):
    kept = [tmp_path / ".bundle.1.partial" / "x", tmp_path / ".bundle.1.old" / "config.json", tmp_path / ".notes"]
    for file in kept:  # the names of a process with the number 1 among them
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    places = [tmp_path / "bundle", tmp_path / "stages" / "1.a" / "bundle"]
    for place in places:
        assert killed_at(WHOLE, tmp_path, cut_while_filling, place)
        assert len([name for name in os.listdir(place.parent) if atomic.SCRATCH.fullmatch(name)]) == 1
    atomic.recover_all(tmp_path)
    assert not [name for _, folders, _ in os.walk(tmp_path) for name in folders if atomic.SCRATCH.fullmatch(name)]
    assert all(file.read_text() == "mine" for file in kept)
    write(places[0], 3)
    assert written(places[0]) == 3


def cut_while_filling(place: Path) -> None:
    with paths.atomic_folder(place) as folder:
        (folder / "config.json").write_text("half")
        os._exit(9)


def test_what_belongs_to_a_longer_name_is_not_put_under_a_shorter_one(tmp_path: Path):
    debris = cut_between_renames(tmp_path / "a.b")
    atomic.recover(tmp_path / "a")
    assert os.listdir(tmp_path) == [debris.name]
    atomic.recover(tmp_path / "a.b")
    assert os.listdir(tmp_path) == ["a.b"]
    assert written(tmp_path / "a.b") == 0


def test_without_locks_folders_are_replaced_and_no_process_is_taken_for_dead(tmp_path: Path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    assert killed_at(WHOLE, tmp_path, cut_while_filling, tmp_path / "bundle")
    (debris,) = os.listdir(tmp_path)
    write(tmp_path / "bundle", 1)
    assert sorted(os.listdir(tmp_path)) == [debris, "bundle"]


def test_a_link_stays_and_its_destination_is_replaced(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "bundle").symlink_to(tmp_path / "disk" / "there")
    write(tmp_path / "bundle", 1)
    write(tmp_path / "bundle", 2)
    assert (tmp_path / "bundle").is_symlink()
    assert written(tmp_path / "disk" / "there") == 2
    assert os.listdir(tmp_path / "disk") == ["there"]


@pytest.mark.slow
def test_a_file_is_written_by_processes_of_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file = tmp_path / "run.json"
    paths.write_text(file, "0")
    moment = 0
    while killed_at(moment, tmp_path, paths.write_text, file, "1", module="atomic.py"):
        assert file.read_text() in ("0", "1")
        paths.write_text(file, "0")
        assert os.listdir(tmp_path) == ["run.json"]
        moment += 1
