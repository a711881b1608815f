"""Work that is killed at its n-th moment, or whose disk is full from then on."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

WHOLE = 10**6
"""A moment that never comes: work that kills itself."""
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
"""What Python tells before the system is asked for it."""


def killed_at(moment: int, below: Path, work: Callable[..., object], *given: Any, module: str = "") -> bool:
    """Calls `work` with what is given in a child that ends, without any clearing up, before its n-th operation on files
    below a folder, or line of a module. False if it was done before that."""
    left = moment

    def tick() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(9)

    def heard(event: str, about: tuple[Any, ...]) -> None:
        if event in OPERATIONS and str(about[0]).startswith(str(below)):
            tick()

    def traced(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(module):
            return None
        if event == "line":
            tick()
        return traced

    child = os.fork()
    if not child:
        try:
            sys.addaudithook(heard)
            if module:
                sys.settrace(traced)
            work(*given)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def refused_from(moment: int, function: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    """The function on a disk that is full from the n-th of all calls on that share `count`."""

    def refusing(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] > moment:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments, **options)

    return refusing
