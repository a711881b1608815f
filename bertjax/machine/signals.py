"""Handling of SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is closed).

    with listening():                      # a command: a signal raises `Stopped`, so that every `finally` runs
        with deferred() as received:       # a loop that can save: the signal is only stored
            while work:
                if number := received():   # read after each step
                    save(); raise Stopped(number)

A stored signal that the loop did not handle raises `Stopped` at the end of `deferred`. An ignored signal (SIGHUP under
nohup) stays ignored. A second signal kills the process at once, unless it comes within a second of the first: some
senders, such as `timeout`, send the same signal twice.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
GRACE = 1.0
"""Seconds after the first signal during which repeated signals are ignored."""


class Stopped(SystemExit):
    """A signal ends this process, with the exit code of shells: 128 + its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


_received = _deferring = 0
_listening = False


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, a signal raises `Stopped`. Does nothing when nested, and in other threads than the main thread."""
    global _received, _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    _received, _listening = 0, True
    with _second_signal_kills():
        before = {number: signal.signal(number, _handle) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _received, _listening = 0, False


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Inside, a signal is only stored. Gives a function that returns its number, or 0 if none has arrived."""
    global _deferring
    with listening():
        _deferring += 1
        try:
            raise_if_stopped()
            yield lambda: _received
        finally:
            _deferring -= 1
        raise_if_stopped()


def raise_if_stopped() -> None:
    """Raises `Stopped` if a signal has arrived, also if its exception was swallowed (in a callback or `__del__`)."""
    if _received:
        raise Stopped(_received)


def _handle(number: int, _: Any) -> None:
    global _received
    if not _received:
        _received = number
        if not _deferring:
            raise Stopped(number)


@contextlib.contextmanager
def _second_signal_kills() -> Iterator[None]:
    """In a thread, because Python runs no signal handler while the main thread is inside the compiler."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    thread = threading.Thread(target=_watch, args=(read,), daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        thread.join()
        os.close(read)


def _watch(pipe: int) -> None:
    first = None
    while byte := os.read(pipe, 1):
        if byte[0] in SIGNALS:
            first = first or time.monotonic()
            if time.monotonic() - first >= GRACE:
                os._exit(128 + byte[0])
