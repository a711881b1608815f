"""Signals: obeyed at once or at a good moment, never lost."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax.machine.signals import SIGNALS, Stopped, deferred, listening, raise_if_stopped

ROOT = Path(__file__).resolve().parents[2]
CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_from_where_it_comes_with_the_code_of_shells(number: int):
    cleared, before = [], signal.getsignal(number)

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleared.append(True)

    with pytest.raises(Stopped) as left, listening():
        work()
    assert left.value.code == CODES[number]
    assert str(left.value) == f"stopped by {signal.Signals(number).name}"
    assert cleared
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_where_it_is_deferred_it_is_told_and_obeyed_at_the_latest_at_the_end(number: int):
    heard = []

    def work(told: Callable[[], int]) -> None:
        heard.append(told())
        os.kill(os.getpid(), number)
        heard.append(told())

    with pytest.raises(Stopped) as left, deferred() as told:
        work(told)
    assert heard == [0, number]
    assert left.value.code == CODES[number]


def test_one_whose_exception_was_lost_is_obeyed_at_the_next_occasion():
    class Careless:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def lose() -> None:
        Careless()

    with listening():
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            lose()
        finally:
            sys.unraisablehook = hook
        with pytest.raises(Stopped), deferred():
            pytest.fail("work went on")
        with pytest.raises(Stopped):
            raise_if_stopped()


def test_the_same_signal_sent_twice_at_once_is_one():
    def send() -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

    with pytest.raises(Stopped), deferred():
        send()


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred() as told:
            os.kill(os.getpid(), signal.SIGHUP)
            assert told() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_ends_at_once_what_does_not_listen():
    program = textwrap.dedent("""
        import hashlib
        from bertjax.machine.signals import deferred
        with deferred():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # as inside a compiler: no line of Python runs
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            time.sleep(1.5)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()
