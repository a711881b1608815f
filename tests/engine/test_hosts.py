"""Several processes as one run: real scripts that meet, train, lose one, are stopped, and go on in other numbers."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bertjax.checkpoint import steps as stored_steps
from bertjax.engine.command_line import take_group
from bertjax.engine.hosts import EXIT_RETRY, Cluster, LostProcess, Processes
from bertjax.engine.sharding import mesh_over
from bertjax.errors import UserError
from tests.train.tiny import ROOT, metrics, script, weights, write_model, write_table


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_model(folder / "model", hidden_size=32)
    write_table(folder / "train.tsv", 96)
    write_table(folder / "eval.tsv", 60, seed=1)
    return folder


def flags(work: Path, out: str, *more: str) -> list[str]:
    data = [f"--data.train={work / 'train.tsv'}", f"--data.eval={work / 'eval.tsv'}", "--data.max_length=16"]
    recipe = [
        "--batch_size=16",
        "--steps=24",
        "--save_every=4",
        "--optimiser.learning_rate=0.01",
        "--sharding.parameters=2",
    ]
    return [f"--model={work / 'model'}", *data, *recipe, f"--out={work / out}", *more]


class Group:
    """Processes with so many simulated devices each, which run one script together, each with flags of its own."""

    def __init__(self, devices: int, *given: list[str]):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": str(devices)}
        self.members = []
        for index, flags in enumerate(given):
            who = [f"coordinator=localhost:{port}", f"count={len(given)}", f"index={index}"] if len(given) > 1 else []
            command = script("finetune", *flags, *(f"--processes.{one}" for one in who))
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.members.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))

    def until_saved(self, out: Path, step: int) -> None:
        while not (found := stored_steps(out / "checkpoints")) or found[-1] < step:
            assert all(member.poll() is None for member in self.members), self.end(5)
            time.sleep(0.02)

    def end(self, seconds: float = 300) -> list[tuple[int, str]]:
        """Code and last words of each."""
        said = []
        for member in self.members:
            try:
                _, err = member.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                member.kill()
                _, err = member.communicate()
            said.append((member.returncode, err))
        return said


@pytest.fixture(scope="module")
def straight(work: Path) -> Path:
    """Four processes of two devices each, undisturbed."""
    ended = Group(2, *[flags(work, "straight")] * 4).end()
    assert [code for code, _ in ended] == [0] * 4, ended
    assert ["accuracy" in said for _, said in ended] == [True, False, False, False]  # one voice
    return work / "straight"


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(out) if "loss" in line}


def restarts(out: Path) -> list[int]:
    return [line["step"] for line in metrics(out) if line.get("event") == "restart"]


@pytest.mark.slow
def test_one_of_four_is_killed_and_all_begin_again_to_the_same_bits(work: Path, straight: Path):
    group = Group(2, *[flags(work, "killed", "--processes.step_timeout=20")] * 4)
    group.until_saved(work / "killed", 8)
    group.members[2].kill()
    ended = group.end()
    assert [code for code, _ in ended] == [EXIT_RETRY, EXIT_RETRY, -signal.SIGKILL, EXIT_RETRY], ended
    for index in (0, 1, 3):
        assert "process 2 of 4 sent no heartbeat" in ended[index][1]
        assert "Traceback" not in ended[index][1]
    newest = stored_steps(work / "killed" / "checkpoints")[-1]
    assert [code for code, _ in Group(2, *[flags(work, "killed")] * 4).end()] == [0] * 4
    assert restarts(work / "killed") == [newest]
    assert weights(work / "killed") == weights(straight)


@pytest.fixture(scope="module")
def stopped(work: Path) -> Path:
    """Four processes, of which one is told to go: all save at one step, and leave."""
    group = Group(2, *[flags(work, "stopped")] * 4)
    group.until_saved(work / "stopped", 8)
    group.members[3].send_signal(signal.SIGTERM)
    ended = group.end()
    assert [code for code, _ in ended] == [128 + signal.SIGTERM] * 4, ended
    return work / "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_of_four_goes_on_in_fewer(count: int, work: Path, straight: Path, stopped: Path):
    out = shutil.copytree(stopped, work / f"fewer-{count}")
    left = [line["step"] for line in metrics(out) if line.get("event") == "stopped"]
    assert left == [stored_steps(out / "checkpoints")[-1]]
    ended = Group(2, *[flags(work, out.name)] * count).end()
    assert [code for code, _ in ended] == [0] * count, ended
    assert restarts(out) == left
    # Losses and not parameters: the gradient of a key's bias is 0 but for rounding, which Adam makes steps of.
    ours, theirs = losses(out), losses(straight)
    np.testing.assert_allclose([ours[step] for step in theirs], list(theirs.values()), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_by_the_others(work: Path):
    group = Group(1, *[flags(work, "hung", "--steps=4000", "--processes.step_timeout=20")] * 2)
    group.until_saved(work / "hung", 8)
    group.members[1].send_signal(signal.SIGSTOP)
    said, code = group.members[0].communicate(timeout=120)[1], group.members[0].returncode
    group.members[1].kill()
    group.members[1].communicate()
    assert code == EXIT_RETRY, said
    assert "process 1 of 2 sent no heartbeat" in said


class Store:
    """The key-value store of jax, in one process."""

    def __init__(self):
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.values[key] = value

    def key_value_dir_get(self, path: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.values.items() if key.startswith(path)]


def test_who_holds_the_others_up_is_told():
    """All are alive, and no step is made: what each is doing says where to look."""
    store = Store()
    first, second = (Cluster(store, index, 2, step_timeout=30) for index in (0, 1))
    for cluster, doing in ((first, "waits for its devices in step 7"), (second, "reads the batch of step 7")):
        cluster.finished.set()
        cluster.heartbeat(doing)
        cluster.since -= 40
        cluster.publish()
    with pytest.raises(LostProcess, match=r"no step finished for 30 s.*process 1 reads the batch of step 7 for 40 s"):
        first.check_others(time.monotonic())
    second.heartbeat("reads the batch of step 8")
    second.publish()
    first.heartbeat("reads the batch of step 8")
    first.check_others(time.monotonic())
    second.publish(ended="the loss was not finite")
    with pytest.raises(LostProcess, match="process 1 of 2 stopped: the loss was not finite"):
        first.check_others(time.monotonic())
    second.publish(lost="process 2 of 3 sent no heartbeat for 60 s")
    with pytest.raises(LostProcess, match=r"^process 2 of 3 sent no heartbeat for 60 s$"):
        first.check_others(time.monotonic())


@pytest.mark.slow
def test_folders_that_are_not_one_are_refused_by_all(work: Path):
    (work / "elsewhere").mkdir()
    for code, said in Group(1, flags(work, "here"), flags(work, "elsewhere/there")).end():
        assert code == 2, said
        assert "is not the folder of the main process" in said


@pytest.mark.slow
def test_hosts_of_a_slice_find_each_other(work: Path):
    """By what Google's clusters tell them, read by jax as on a TPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    cluster = {"JAX_FORCE_TPU_INIT": "1", "TPU_WORKER_HOSTNAMES": "localhost,localhost", "JAX_COORDINATOR_PORT": port}
    slices = {"MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}
    own = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1", **cluster, **slices}
    command = script("finetune", *flags(work, "found", "--steps=2"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hosts = [subprocess.Popen(command, cwd=ROOT, env={**own, "TPU_WORKER_ID": str(i)}, **pipes) for i in (0, 1)]
    said = [host.communicate(timeout=200)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "2 x cpu" in (work / "found" / "run.json").read_text()


def test_flags_of_processes_belong_to_every_script():
    given = ["--processes.count", "4", "--steps=3", "--processes.index=1", "--processes.coordinator=a:1"]
    assert take_group("processes", Processes(), given) == (Processes("a:1", 4, 1), ["--steps=3"])
    mistakes = {
        "belong together": ["--processes.count=4"],
        "expected 0 to 1": ["--processes.coordinator=a:1", "--processes.count=2", "--processes.index=2"],
        "expected HOST:PORT": ["--processes.coordinator=a", "--processes.count=2", "--processes.index=1"],
        "did you mean --processes.count": ["--processes.counts=4"],
    }
    for words, wrong in mistakes.items():
        with pytest.raises(UserError, match=words):
            take_group("processes", Processes(), wrong)


@dataclass(frozen=True)
class Chip:
    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "a chip"


def test_parameters_are_divided_inside_slices():
    """Sixteen chips in two slices: neighbours along `parameters` share a slice, and `data` crosses."""
    chips = [Chip(number, number // 8, number // 4) for number in range(16)]
    grid = np.vectorize(lambda chip: chip.slice_index, otypes=[int])(mesh_over(chips, 4, 4).devices)
    assert (grid == grid[:, :1]).all()
    assert sorted(grid[:, 0].tolist()) == [0, 0, 1, 1]
    with pytest.raises(UserError, match="multiple of the number of slices, 2"):
        mesh_over(chips, 1, 16)
