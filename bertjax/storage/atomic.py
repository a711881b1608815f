"""Atomic replacement of a folder: at every instant either the old or the new one exists under its name.

The new folder is filled in a scratch folder next to its destination, `.NAME.RANDOM.partial/new`, and exchanged with the
old one by one system call (renameat2). Without that call the old folder is first moved into the scratch folder. If the
process is killed between the two renames, both are in the scratch folder, and `recover` restores the old one.

A scratch folder is locked while its process is alive. Unlocked ones are left over from killed processes. `recover`
deletes them before the name is written or opened, and `recover_all` does so in the whole folder of a run when a command
starts. The names are random, because process numbers are reused.
"""

import contextlib
import ctypes
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertjax.storage.locks import Held, Lock, acquire

SCRATCH = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")
LOCK, NEW, OLD = "lock", "new", "old"
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """An empty folder on the file system of `place`. It is deleted at the end, with everything that is still in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    recover(place)
    folder, lock = _make(place)
    try:
        (folder / NEW).mkdir()
        yield folder / NEW
    finally:
        _clear(folder, place, lock)


def put(new: Path, place: Path) -> None:
    """Renames the folder of `scratch` to `place`. An old folder of that name is moved to the scratch folder."""
    if not os.path.lexists(place):
        os.rename(new, place)
    elif not exchanged(new, place):
        old = new.with_name(OLD)
        os.rename(place, old)
        os.rename(new, place)


def recover(place: Path) -> None:
    """Completes or undoes a replacement of `place` by a killed process, and deletes its scratch folder."""
    with contextlib.suppress(OSError):  # the folder is missing or unreadable
        for name, destination in _destinations(os.listdir(place.parent)):
            if destination == place.name:
                _clear_if_dead(place.parent / name, place)


def recover_all(root: Path) -> None:
    """`recover` for everything below a folder."""
    for parent, folders, _ in os.walk(root):
        for name, destination in _destinations(folders):
            folders.remove(name)
            _clear_if_dead(Path(parent, name), Path(parent, destination))


def exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one system call. False if it is not available: not Linux, or an old file system."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return bool(call) and call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _destinations(names: Sequence[str]) -> list[tuple[str, str]]:
    """The scratch folders among these names, each with the name of its destination."""
    return [(name, match[1]) for name in names if (match := SCRATCH.fullmatch(name))]


def _make(place: Path) -> tuple[Path, Lock]:
    while True:
        folder = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.partial")
        folder.mkdir(mode=0o700)
        try:
            return folder, acquire(folder / LOCK)
        except (FileNotFoundError, Held):  # another process deleted it before it was locked
            continue
        except OSError:
            folder.rmdir()
            raise


def _clear_if_dead(folder: Path, place: Path) -> None:
    """Clears a scratch folder whose process is dead. Does nothing if the process is or may be alive, or if the folder
    may not be written."""
    with contextlib.suppress(OSError, Held):
        try:
            lock = acquire(folder / LOCK, create=False)
        except FileNotFoundError:
            folder.rmdir()  # no lock yet, or deleted already: the folder is empty
            return
        if lock.certain:
            _clear(folder, place, lock)
        else:
            lock.close()


def _clear(folder: Path, place: Path, lock: Lock) -> None:
    """Deletes a scratch folder. If both folders are in it and none is at its destination, the old one is restored
    first."""
    new, old = folder / NEW, folder / OLD
    try:
        if new.exists() and old.exists() and not os.path.lexists(place):
            os.rename(old, place)
        for content in (new, old):  # in this order, so that a partly deleted old folder is never restored
            shutil.rmtree(content, ignore_errors=True)
        if not (new.exists() or old.exists()):  # else the next `recover` tries again
            lock.delete()
            folder.rmdir()
    finally:
        lock.close()
