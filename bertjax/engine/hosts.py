"""Training in several processes (multi-host): joining, agreement, and detection of failed or hanging processes.

On the hosts of a TPU slice the same command on every host is enough; elsewhere three flags are needed:

    bertjax finetune ... --processes.coordinator=HOST:PORT --processes.count=4 --processes.index=0   # and 1, 2, 3

Each process reads its shard of every batch, so the batches are the same for any number of processes. The main process
(index 0) prints and writes everything but checkpoints. If one process fails, the devices of the others would wait for
it forever. So each process publishes a heartbeat every few seconds; when one is missing, the others print its index and
exit with code 75. The same command in all processes then resumes from the newest checkpoint. If the main process dies,
jax aborts the others with its own message, because the heartbeats go through the main process.
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
"""Exit code when another process failed: run the same command again. EX_TEMPFAIL of sysexits.h."""
HEARTBEAT_PERIOD = 3.0
"""Seconds between two heartbeats."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a heartbeat after which a process counts as dead. jax aborts after 100."""
BARRIER_TIMEOUT = 7 * 24 * 3600.0
"""Seconds at a barrier: effectively unlimited, because dead and hanging processes are detected by their heartbeats."""


@dataclass(frozen=True)
class Processes:
    """Processes that train one model. Not needed on one machine, nor on the hosts of a TPU slice."""

    coordinator: str | None = None
    """Address (HOST:PORT) of process 0; the same in every process."""
    count: int | None = None
    """Number of processes."""
    index: int | None = None
    """Index of this process, from 0."""
    step_timeout: float = 900.0
    """Seconds without a finished step after which all processes exit, because one of them hangs."""

    def __post_init__(self) -> None:
        values = (self.coordinator, self.count, self.index)
        if None in values:
            if values != (None, None, None):
                raise UserError(
                    "--processes.coordinator, --processes.count and --processes.index belong together: give all three, "
                    "or none on the hosts of a TPU slice"
                )
        elif not 0 <= self.index < self.count:  # type: ignore[operator]
            raise UserError(f"--processes.index={self.index} of {self.count}: expected 0 to {self.count - 1}")  # type: ignore[operator]
        elif ":" not in self.coordinator:  # type: ignore[operator]
            raise UserError(f"--processes.coordinator={self.coordinator}: expected HOST:PORT")
        if not self.step_timeout > 0:
            raise UserError(f"--processes.step_timeout={self.step_timeout}: expected seconds above 0")


class LostProcess(Exception):
    """Another process died or hangs. The message names it."""


class Cluster:
    """This process among the others: heartbeats, barriers, and exchange of short messages.

    All of them use the key-value store that jax keeps in the main process, and need no device.
    """

    def __init__(self, client: Any, index: int, count: int, step_timeout: float):
        self.client, self.index, self.count, self.step_timeout = client, index, count, step_timeout
        self.activity, self.since, self.barriers, self.steps = "", time.monotonic(), 0, 0
        self.seen: dict[int, tuple[str, float]] = {}
        self.heartbeats = 0
        self.finished = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()

    def heartbeat(self, activity: str) -> None:
        self.activity, self.since = activity, time.monotonic()

    def watch(self) -> None:
        """Publishes heartbeats and checks those of the others, until `finished` is set."""
        while not self.finished.wait(HEARTBEAT_PERIOD):
            try:
                self.publish()
                self.check_others(time.monotonic())
            except LostProcess as loss:
                self.exit_retry(str(loss))
            except Exception as error:  # the store died with the main process
                self.exit_retry(f"the main process cannot be reached ({first_line(error)})")

    def publish(self, ended: str = "", lost: str = "") -> None:
        """Publishes a heartbeat. `ended`: why this process exits by itself; `lost`: why another one makes it exit."""
        self.heartbeats += 1
        seconds = round(time.monotonic() - self.since)
        status = {"activity": self.activity, "seconds": seconds, "ended": ended, "lost": lost}
        text = json.dumps({"number": self.heartbeats, **status})
        self.client.key_value_set(f"bertjax/alive/{self.index}", text, allow_overwrite=True)

    def check_others(self, now: float) -> None:
        """Raises `LostProcess` if another process ended or is silent, or if no process finishes a step."""
        texts = {int(key.rsplit("/", 1)[1]): text for key, text in self.client.key_value_dir_get("bertjax/alive/")}
        status = {index: json.loads(text) for index, text in texts.items()}
        for index in range(self.count):
            before = self.seen.get(index, ("", now))
            self.seen[index] = before if before[0] == texts.get(index, "") else (texts[index], now)
            if index != self.index and status.get(index, {}).get("ended"):
                raise LostProcess(f"process {index} of {self.count} stopped: {status[index]['ended']}")
            if index != self.index and status.get(index, {}).get("lost"):
                raise LostProcess(status[index]["lost"])
            if now - self.seen[index][1] > (silence := min(HEARTBEAT_TIMEOUT, self.step_timeout / 2)):
                raise LostProcess(f"process {index} of {self.count} sent no heartbeat for {silence:.0f} s")
        if self.activity and now - self.since > self.step_timeout:
            each = "; ".join(
                f"process {i} {one['activity']} for {one['seconds']} s" for i, one in sorted(status.items())
            )
            raise LostProcess(f"no step finished for {self.step_timeout:.0f} s. {each}")

    def exit_retry(self, reason: str) -> NoReturn:
        """Ends this process at once, from any thread: the main thread may be waiting for a device forever."""
        hint = "Run the same command again, in every process: it resumes from the newest checkpoint."
        print(f"{reason}.\n{hint}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            self.publish(lost=reason)
            self.await_others()
        os._exit(EXIT_RETRY)

    def await_others(self) -> None:
        """Keeps the main process alive until the others have read the last heartbeats from its store."""
        before: Any = None
        for _ in range(10 if self.index == 0 else 0):
            heartbeats = self.client.key_value_dir_get("bertjax/alive/")
            if heartbeats == before:
                break
            before = heartbeats
            time.sleep(2 * HEARTBEAT_PERIOD)

    def barrier(self, seconds: float = BARRIER_TIMEOUT) -> None:
        """Returns when every process has reached it."""
        self.barriers += 1
        self.client.wait_at_barrier(f"bertjax/{self.barriers}", int(1000 * seconds))

    def gather(self, message: str) -> list[str]:
        """The message of every process, by index."""
        self.client.key_value_set(f"bertjax/messages/{self.barriers + 1}/{self.index}", message)
        self.barrier()
        path = f"bertjax/messages/{self.barriers}/"
        return [self.client.blocking_key_value_get(f"{path}{index}", 60_000) for index in range(self.count)]


_cluster: Cluster | None = None


def join(processes: Processes) -> None:
    """Connects to the other processes, if there are any. Must be called before any other function of jax.

    Raises:
      UserError: They could not be reached.
    """
    global _cluster
    automatic = None if processes.count else tpu_cluster()
    if not (processes.count or automatic):
        return
    import jax
    from jax._src import distributed  # jax has no public API for its key-value store; Orbax uses the same module
    from jax.experimental import multihost_utils

    try:
        jax.distributed.initialize(
            processes.coordinator, processes.count, processes.index, cluster_detection_method=automatic or "deactivate"
        )
    except ValueError:  # a TPU machine without other hosts
        if processes.count:
            raise
        return
    except (RuntimeError, OSError) as error:
        hint = "" if processes.count else "\nOn a TPU machine without other hosts set TPU_SKIP_MDS_QUERY=1."
        raise UserError(f"could not connect to the other processes: {first_line(error)}{hint}") from error
    # jax's first look at the devices and the first collective need all processes at the same time (between CPUs within
    # 30 s), so both happen now.
    multihost_utils.sync_global_devices("bertjax")
    if distributed.global_state.num_processes > 1:
        state = distributed.global_state
        _cluster = Cluster(state.client, state.process_id, state.num_processes, processes.step_timeout)


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def tpu_cluster() -> str | None:
    """jax's method to find the other hosts of a TPU slice; None where this is no TPU machine."""
    import jax  # noqa: F401  (its import detects the TPU)
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return None
    return "gketpu" if {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"} & os.environ.keys() else "gcetpu"


def has_other_processes() -> bool:
    return _cluster is not None


def is_main_process() -> bool:
    """Whether this is the process that prints and writes."""
    return _cluster is None or _cluster.index == 0


def process_shard() -> dict[str, int]:
    """The part of every batch that this process reads, as arguments of `batches`."""
    if _cluster is None:
        return {"process_index": 0, "process_count": 1}
    return {"process_index": _cluster.index, "process_count": _cluster.count}


def heartbeat(activity: str = "") -> None:
    """Repeated calls prove progress; an empty message switches the hang detector off, for example during
    compilation."""
    if _cluster is not None:
        _cluster.heartbeat(activity)


def should_preempt() -> bool:
    """Whether all processes stop after this step, because one of them got SIGTERM (maintenance of a TPU host).

    jax handles the signal and agrees on a step that no process has finished yet. Steps are counted over all runs of a
    process: every run starts at 0, and processes may be in different runs when the signal arrives.
    """
    from jax.experimental import multihost_utils

    assert _cluster is not None
    _cluster.steps += 1
    return multihost_utils.reached_preemption_sync_point(_cluster.steps)


def barrier() -> None:
    """Returns when every process has reached it."""
    if _cluster is not None:
        _cluster.barrier()


def on_main_process(function: Callable[[], Any]) -> None:
    """Calls the function in the main process while the others wait. If it exits with a code, all processes do."""
    global _cluster
    cluster, code = _cluster, None
    if cluster is None:
        return function()
    if cluster.index == 0:
        _cluster = None  # so that no barrier inside waits for the others
        try:
            function()
        except SystemExit as stop:
            code = stop.code
        finally:
            _cluster = cluster
    if code := json.loads(cluster.gather(json.dumps(code))[0]):
        sys.exit(code)


def broadcast_from_main(function: Callable[[], Any]) -> Any:
    """The result of the function in the main process, as JSON; all processes call it, the main process first.

    Raises:
      UserError: The function raised one in any process; then it is raised in all.
    """
    if _cluster is None:
        return function()
    result: Any = None
    for turn in (_cluster.index == 0, _cluster.index > 0):
        mistake = ""
        try:
            result = function() if turn else result
        except UserError as error:
            mistake = str(error)
        if mistakes := [message for message in _cluster.gather(mistake) if message]:
            raise UserError(mistakes[0])
    return json.loads(_cluster.gather(json.dumps(result))[0])


def exit_process(code: Any, reason: str = "") -> NoReturn:
    """Ends this process: together with the others, or at once if it fails, for this reason."""
    sys.stdout.flush()
    if _cluster is None or not reason:
        barrier()
        if _cluster is not None:
            _cluster.finished.set()
            _cluster.watcher.join()
        sys.exit(code)
    _cluster.heartbeat("")
    with contextlib.suppress(Exception):  # the others may have exited already
        _cluster.finished.set()
        _cluster.watcher.join()
        _cluster.publish(ended=reason)
        with contextlib.suppress(Exception):
            _cluster.barrier(4 * HEARTBEAT_PERIOD)  # the others may fail for the same reason, and print it
        _cluster.await_others()
    sys.stderr.flush()
    os._exit(code)
