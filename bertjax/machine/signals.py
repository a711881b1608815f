"""How a process is told to leave: by SIGTERM, SIGINT (Ctrl-C) or SIGHUP (its terminal is gone).

    with listening():                  # a command: a signal leaves from wherever it is, through every `finally`
        with deferred() as told:       # a loop that can save: the signal is remembered
            while work:
                if number := told():   # looked at after each step
                    save(); raise Stopped(number)

What was remembered and not obeyed is obeyed at the end of `deferred`. A signal that is ignored (SIGHUP under nohup)
stays so. A second one ends the process at once, whatever it is doing, if it comes a second or more after the first:
some senders, `timeout` for one, send the same one twice.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
PATIENCE = 1.0
"""Seconds after the first signal from which another one counts as the second."""


class Stopped(SystemExit):
    """A signal ends this process, with the code that shells give it: 128 and its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


_told = _deferring = 0
_listening = False


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, a signal raises `Stopped`. In the main thread alone; in any other, and where somebody listens already,
    nothing changes."""
    global _told, _listening
    if _listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    _told, _listening = 0, True
    with _second_one_kills():
        before = {number: signal.signal(number, _hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _told, _listening = 0, False


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Inside, a signal is remembered. Gives what says its number, or 0 while there was none."""
    global _deferring
    with listening():
        _deferring += 1
        try:
            obey()
            yield lambda: _told
        finally:
            _deferring -= 1
        obey()


def obey() -> None:
    """Raises `Stopped` if there was a signal: also one whose exception was lost in a place that lets none through."""
    if _told:
        raise Stopped(_told)


def _hear(number: int, _: Any) -> None:
    global _told
    if not _told:
        _told = number
        if not _deferring:
            raise Stopped(number)


@contextlib.contextmanager
def _second_one_kills() -> Iterator[None]:
    """By a thread, because the main one may be inside a compiler, where Python does not hear a signal."""
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
            if time.monotonic() - first >= PATIENCE:
                os._exit(128 + byte[0])
