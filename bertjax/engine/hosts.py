"""Several processes that train one model: how they meet, speak with one voice, and notice who is gone.

On the hosts of a TPU slice the same command finds its neighbours by itself; elsewhere three flags say who is who:

    bertjax finetune ... --processes.coordinator=HOST:PORT --processes.count=4 --processes.index=0   # and 1, 2, 3

Each process reads its own share of every batch, so the batches are the same for any number of them. The first one
writes what is no checkpoint, and speaks. Where one fails, is killed or hangs, devices would wait for it forever: so
every process tells the others every few seconds that it is alive and which step it has reached, and those who see one
missing say so and leave with code 75. The same command again, in all of them, then goes on from the newest checkpoint.
If the first one dies, jax ends the others at once with words of its own, because it holds what they speak through.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from bertjax.errors import UserError

EXIT_RETRY = 75
"""Exit code of who was left alone: nothing is wrong here, run it again. EX_TEMPFAIL of sysexits.h."""
HEARTBEAT_PERIOD = 3.0
"""Seconds between two signs of life."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a sign of life after which a process is taken for dead. jax takes 100, and then aborts."""
BARRIER_TIMEOUT = 7 * 24 * 3600.0
"""Seconds to wait for a process that works: as long as it is alive."""


@dataclass(frozen=True)
class Processes:
    """Who trains together. Nothing needs to be said on one machine, nor on the hosts of a TPU slice."""

    coordinator: str | None = None
    """HOST:PORT of the first process, the same for all."""
    count: int | None = None
    """How many there are."""
    index: int | None = None
    """Which one this is, from 0."""
    patience: float = 900.0
    """Seconds for one step, after which a run of several processes is taken for hung."""

    def __post_init__(self) -> None:
        given = (self.coordinator, self.count, self.index)
        if None in given:
            if given != (None, None, None):
                raise UserError(
                    "--processes.coordinator, --processes.count and --processes.index belong together: give all three, "
                    "or none on the hosts of a TPU slice"
                )
        elif not 0 <= self.index < self.count:  # type: ignore[operator]
            raise UserError(f"--processes.index={self.index} of {self.count}: expected 0 to {self.count - 1}")  # type: ignore[operator]
        elif ":" not in self.coordinator:  # type: ignore[operator]
            raise UserError(f"--processes.coordinator={self.coordinator}: expected HOST:PORT")
        if not self.patience > 0:
            raise UserError(f"--processes.patience={self.patience}: expected seconds above 0")


class LostProcess(Exception):
    """Another process is gone, or hangs. The message says which."""


class Cluster:
    """This process among the others: signs of life, and what they have to agree on.

    The signs go through the key-value store that the first process holds for jax, and need no device.
    """

    def __init__(self, client: Any, index: int, count: int, patience: float):
        self.client, self.index, self.count, self.patience = client, index, count, patience
        self.doing, self.since, self.met, self.steps = "", time.monotonic(), 0, 0
        self.seen: dict[int, tuple[str, float]] = {}
        self.signs = 0
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def heartbeat(self, doing: str) -> None:
        self.doing, self.since = doing, time.monotonic()

    def watch(self) -> None:
        """Gives signs of life and reads those of the others, until all is over."""
        while not self.over.wait(HEARTBEAT_PERIOD):
            try:
                self.give_sign()
                self.look_around(time.monotonic())
            except LostProcess as loss:
                self.leave(str(loss))
            except Exception as error:  # the store is gone, and the first process with it
                self.leave(f"the first process cannot be reached ({first_line(error)})")

    def give_sign(self, ended: str = "", lost: str = "") -> None:
        """`ended`: why this process stops by itself; `lost`: why it has to."""
        self.signs += 1
        told = {"doing": self.doing, "seconds": round(time.monotonic() - self.since), "ended": ended, "lost": lost}
        sign = json.dumps({"sign": self.signs, **told})
        self.client.key_value_set(f"bertjax/alive/{self.index}", sign, allow_overwrite=True)

    def look_around(self, now: float) -> None:
        """Raises `LostProcess` where another process ended or is silent, or where nobody gets any further."""
        signs = {int(key.rsplit("/", 1)[1]): sign for key, sign in self.client.key_value_dir_get("bertjax/alive/")}
        told = {index: json.loads(sign) for index, sign in signs.items()}
        for index in range(self.count):
            before = self.seen.get(index, ("", now))
            self.seen[index] = before if before[0] == signs.get(index, "") else (signs[index], now)
            if index != self.index and told.get(index, {}).get("ended"):
                raise LostProcess(f"process {index} of {self.count} stopped: {told[index]['ended']}")
            if index != self.index and told.get(index, {}).get("lost"):
                raise LostProcess(told[index]["lost"])
            if now - self.seen[index][1] > (silence := min(HEARTBEAT_TIMEOUT, self.patience / 2)):
                raise LostProcess(f"process {index} of {self.count} gave no sign of life for {silence:.0f} s")
        if self.doing and now - self.since > self.patience:
            each = "; ".join(f"process {i} {told[i]['doing']} for {told[i]['seconds']} s" for i in sorted(told))
            raise LostProcess(f"no step was finished for {self.patience:.0f} s. {each}")

    def leave(self, reason: str) -> NoReturn:
        """Ends this process from any thread, whatever the others are doing: they may wait for a device forever."""
        again = "Nothing that was saved is lost: the same command again, in every process, goes on from there."
        print(f"{reason}.\n{again}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            self.give_sign(lost=reason)
            self.outlast()
        os._exit(EXIT_RETRY)

    def outlast(self) -> None:
        """With the first process goes the store, in which the others still have to look: it goes last."""
        before: Any = None
        for _ in range(10 if self.index == 0 else 0):
            signs = self.client.key_value_dir_get("bertjax/alive/")
            if signs == before:
                break
            before = signs
            time.sleep(2 * HEARTBEAT_PERIOD)

    def barrier(self, seconds: float = BARRIER_TIMEOUT) -> None:
        """Returns when every process has called it as often."""
        self.met += 1
        self.client.wait_at_barrier(f"bertjax/{self.met}", int(1000 * seconds))

    def gather(self, said: str) -> list[str]:
        """What every process says, in their order."""
        self.client.key_value_set(f"bertjax/said/{self.met + 1}/{self.index}", said)
        self.barrier()
        path = f"bertjax/said/{self.met}/"
        return [self.client.blocking_key_value_get(f"{path}{index}", 60_000) for index in range(self.count)]


_cluster: Cluster | None = None


def join(given: Processes) -> None:
    """Meets the others, if there are any. Before anything else is asked of jax.

    Raises:
      UserError: They could not be reached.
    """
    global _cluster
    automatic = None if given.count else tpu_cluster()
    if not (given.count or automatic):
        return
    import jax
    from jax._src import distributed  # jax has no public door to its key-value store; Orbax goes the same way
    from jax.experimental import multihost_utils

    try:
        jax.distributed.initialize(
            given.coordinator, given.count, given.index, cluster_detection_method=automatic or "deactivate"
        )
    except ValueError:  # a TPU machine that knows of no others
        if given.count:
            raise
        return
    except (RuntimeError, OSError) as error:
        hint = "" if given.count else "\nA TPU machine without neighbours is told so by TPU_SKIP_MDS_QUERY=1."
        raise UserError(f"could not meet the other processes: {first_line(error)}{hint}") from error
    # All have to be there when jax first looks for devices, and when they first speak with each other, where CPUs wait
    # for 30 s at most. So both happen now.
    multihost_utils.sync_global_devices("bertjax")
    if distributed.global_state.num_processes > 1:
        state = distributed.global_state
        _cluster = Cluster(state.client, state.process_id, state.num_processes, given.patience)


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def tpu_cluster() -> str | None:
    """The way in which jax finds the other hosts of a TPU slice; None where this is no TPU machine."""
    import jax  # noqa: F401  (looks for the chips when it is imported)
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return None
    return "gketpu" if {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & os.environ.keys() else "gcetpu"


def has_other_processes() -> bool:
    """Whether there are other processes."""
    return _cluster is not None


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks."""
    return _cluster is None or _cluster.index == 0


def process_shard() -> dict[str, int]:
    """Which part of every batch this process reads."""
    if _cluster is None:
        return {"process_index": 0, "process_count": 1}
    return {"process_index": _cluster.index, "process_count": _cluster.count}


def heartbeat(doing: str = "") -> None:
    """Tells the others what this process is about to do. Said again and again, it shows that steps are made; nothing
    said, that something else takes as long as it takes."""
    if _cluster is not None:
        _cluster.heartbeat(doing)


def should_preempt() -> bool:
    """Whether this is the step after which all leave, because one of them got SIGTERM: a TPU host is to be maintained.

    jax listens to the signal from the moment the processes meet, and finds a step that none has finished. Steps are
    counted over all runs of a process, because each run begins at 0 and one process may be done with the one before
    while the signal comes.
    """
    from jax.experimental import multihost_utils

    assert _cluster is not None
    _cluster.steps += 1
    return multihost_utils.reached_preemption_sync_point(_cluster.steps)


def barrier() -> None:
    """Returns when every process has come as far."""
    if _cluster is not None:
        _cluster.barrier()


def on_main_process(function: Callable[[], Any]) -> None:
    """What the first process does while the others wait; where it leaves with a code, all do."""
    global _cluster
    company, code = _cluster, None
    if company is None:
        return function()
    if company.index == 0:
        _cluster = None  # nothing inside waits for the others
        try:
            function()
        except SystemExit as leaving:
            code = leaving.code
        finally:
            _cluster = company
    if code := json.loads(company.gather(json.dumps(code))[0]):
        sys.exit(code)


def broadcast_from_main(function: Callable[[], Any]) -> Any:
    """What the function answers to the first process, which calls it before the others do.

    Raises:
      UserError: It did so in one of them: then in all.
    """
    if _cluster is None:
        return function()
    answer: Any = None
    for turn in (_cluster.index == 0, _cluster.index > 0):
        mistake = ""
        try:
            answer = function() if turn else answer
        except UserError as error:
            mistake = str(error)
        if mistakes := [said for said in _cluster.gather(mistake) if said]:
            raise UserError(mistakes[0])
    return json.loads(_cluster.gather(json.dumps(answer))[0])


def leave(code: Any, reason: str = "") -> NoReturn:
    """Ends this process: with the others if all is well, and without waiting for them if not."""
    sys.stdout.flush()
    if _cluster is None or not reason:
        barrier()
        if _cluster is not None:
            _cluster.over.set()
            _cluster.watcher.join()
        sys.exit(code)
    _cluster.heartbeat("")
    with contextlib.suppress(Exception):  # whoever is not there has left already
        _cluster.over.set()
        _cluster.watcher.join()
        _cluster.give_sign(ended=reason)
        with contextlib.suppress(Exception):
            _cluster.barrier(4 * HEARTBEAT_PERIOD)  # they may have the same to say
        _cluster.outlast()
    sys.stderr.flush()
    os._exit(code)
