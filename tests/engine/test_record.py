"""A run's folder: one command at a time, whoever was killed before."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bertjax.distill.terms import SoftTargets
from bertjax.engine import record
from bertjax.engine.command_line import parse
from bertjax.errors import UserError
from bertjax.storage import atomic, locks
from tests.killed import WHOLE, killed_at
from tests.train.tiny import ROOT, write_model

HOLDER = """
    import sys, time
    from pathlib import Path
    from bertjax.engine.record import acquire_lock
    acquire_lock(Path(sys.argv[1]))
    print("works", flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Asked:
    words: int = 3
    out: str = "runs"


@dataclass(frozen=True)
class Nested:
    stages: tuple[Asked, ...] = (Asked(), Asked())
    out: str = "runs"


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    yield
    record.release_locks()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that works on OUT."""
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        yield process
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_second_command_is_refused_before_it_touches_anything_and_told_who_works(tmp_path: Path, other):
    out = tmp_path / "out"
    half = out / "checkpoints" / "4.orbax-checkpoint-tmp-1"
    half.mkdir(parents=True)
    (half / "d").write_text("half a step")
    before = contents(out)
    with pytest.raises(UserError) as refused:
        record.begin_here(out, Asked())
    host = re.escape(os.uname().nodename)
    said = (
        rf"another command works on .*out: process {other.pid} on {host}, since \d{{4}}-\d\d-\d\d [\d:]{{8}} \w+: -c "
    )
    assert re.match(said, str(refused.value))
    assert str(refused.value).endswith("Wait until it ends, or give another --out.")
    assert contents(out) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_blocks_no_other(number: int, tmp_path: Path, other):
    other.send_signal(number)
    other.wait()
    assert record.begin_here(tmp_path / "out", Asked()) is False
    assert str(os.getpid()) in (tmp_path / "out" / ".lock").read_text()


def test_a_command_puts_back_what_was_cut_before_it_begins(tmp_path: Path):
    out = tmp_path / "out"
    model = write_model(out / "stages" / "1-teacher" / "bundle")
    debris = model.with_name(f".bundle.{'a' * 12}.partial")
    (debris / "new").mkdir(parents=True)
    (debris / "lock").touch()
    os.rename(model, debris / "old")
    record.begin_here(out, Asked())
    assert (model / "config.json").is_file()
    assert not debris.exists()


def test_a_finished_run_lets_others_in(tmp_path: Path):
    record.begin_here(tmp_path, Asked())
    with pytest.raises(locks.Held):
        locks.acquire(tmp_path / ".lock")
    record.finish(tmp_path, {})
    assert not (tmp_path / ".lock").exists()
    assert record.begin_here(tmp_path, Asked()) is True
    assert not (tmp_path / ".lock").exists()


def test_a_finished_run_whose_model_is_gone_makes_it_again(tmp_path: Path, capsys):
    record.begin_here(tmp_path, Asked())
    write_model(tmp_path / "bundle", num_hidden_layers=1)
    record.finish(tmp_path, {})
    assert record.begin_here(tmp_path, Asked()) is True
    (tmp_path / "bundle" / "model.safetensors").unlink()
    assert record.begin_here(tmp_path, Asked()) is False
    assert "its model is missing; the run is repeated" in capsys.readouterr().err


def test_a_field_that_an_older_run_did_not_know_had_its_default(tmp_path: Path):
    """What it did is what the default does; another value is another run, in stages inside as well."""
    record.begin_here(tmp_path, Nested())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / "state").touch()
    stored = record.read_record(tmp_path)
    assert stored is not None
    for asked in (stored["config"], *stored["config"]["stages"]):
        asked.pop("words", None)
    record.write_record(tmp_path, stored)
    assert record.begin_here(tmp_path, Nested()) is False
    with pytest.raises(UserError, match=r"other settings \(stored -> given\): stages\.1\.words: 3 -> 4\."):
        record.begin_here(tmp_path, Nested(stages=(Asked(), Asked(words=4))))


def test_another_spelling_of_a_path_is_no_other_setting(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "other"):
        (tmp_path / name).mkdir()
    stored = {"model": "teacher", "rows": 3}
    assert record.differences(stored, {"model": str(tmp_path / "teacher"), "rows": 3}) == []
    assert record.differences(stored, {"model": "other", "rows": 3}) == ["model: teacher -> other"]
    assert record.differences(stored, {"model": "missing", "rows": 3}) == ["model: teacher -> missing"]


@dataclass(frozen=True)
class Holder:
    part: object = Asked()
    out: str = "runs"


def own_part(tmp_path: Path, file: str) -> Holder:
    """A config file with a part of its own, always of the same name and fields."""
    path = tmp_path / f"{file}.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from tests.engine.test_record import Holder\n"
        "@dataclass(frozen=True)\nclass Asked:\n    words: int = 3\n    out: str = 'runs'\n"
        "config = Holder(Asked())\n"
    )
    return parse(Holder, [f"--config={path}"])


def begun(out: Path, config: Holder) -> None:
    """A run that was stopped after its first checkpoint."""
    record.begin_here(out, config)
    (out / "checkpoints" / "3").mkdir(parents=True)
    (out / "checkpoints" / "3" / "state").touch()


def test_a_part_of_another_file_is_another_part_though_it_has_the_same_name(tmp_path: Path):
    one, other = (own_part(tmp_path, file) for file in ("one", "other"))
    begun(tmp_path / "out", one)
    assert record.begin_here(tmp_path / "out", own_part(tmp_path, "one")) is False
    said = r"\(stored -> given\): part\._type: config_file_one\.Asked -> config_file_other\.Asked\."
    with pytest.raises(UserError, match=said):
        record.begin_here(tmp_path / "out", other)
    with pytest.raises(UserError, match=r"config_file_one\.Asked -> tests\.engine\.test_record\.Asked"):
        record.begin_here(tmp_path / "out", Holder())


def test_an_older_run_knew_the_names_of_classes_alone(tmp_path: Path):
    begun(tmp_path / "out", own_part(tmp_path, "one"))
    stored = record.read_record(tmp_path / "out")
    assert stored is not None
    stored["config"]["part"]["_type"] = "Asked"
    record.write_record(tmp_path / "out", stored)
    assert record.begin_here(tmp_path / "out", own_part(tmp_path, "one")) is False
    stored["config"]["part"]["_type"] = "Ask"
    record.write_record(tmp_path / "out", stored)
    with pytest.raises(UserError, match=r"part\._type: Ask -> config_file_one\.Asked"):
        record.begin_here(tmp_path / "out", own_part(tmp_path, "one"))


def test_a_class_of_this_package_may_move_between_its_modules(tmp_path: Path):
    record.begin_here(tmp_path / "out", Holder(SoftTargets()))
    stored = record.read_record(tmp_path / "out")
    assert stored is not None
    assert stored["config"]["part"]["_type"] == "bertjax.SoftTargets"


def test_the_same_process_goes_on_where_it_failed(tmp_path: Path):
    record.begin_here(tmp_path, Asked())
    assert record.begin_here(tmp_path, Asked()) is False


def test_processes_that_all_have_the_number_1_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    (tmp_path / ".bundle.1.old").mkdir()
    (tmp_path / ".bundle.1.old" / "config.json").touch()

    def first() -> None:
        record.begin_here(tmp_path, Asked())
        with atomic.scratch(tmp_path / "bundle"):
            os._exit(9)

    assert killed_at(WHOLE, tmp_path, first)
    assert record.begin_here(tmp_path, Asked()) is False
    write_model(tmp_path / "bundle")
    assert not [name for name in os.listdir(tmp_path) if atomic.SCRATCH.fullmatch(name)]


def test_only_the_first_of_several_processes_locks(tmp_path: Path, other, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record, "is_main_process", lambda: False)
    record.acquire_lock(tmp_path / "out")


def test_settings_that_are_no_unicode_are_refused_before_anything_is_done(tmp_path: Path):
    @dataclass(frozen=True)
    class Named(Asked):
        labels: tuple[str, ...] = ("good", "\ud800")

    with pytest.raises(UserError, match="which is not valid Unicode"):
        record.begin_here(tmp_path, Named())


pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
