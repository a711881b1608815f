"""How a folder takes the place of another, so that the old one or the new one stands there at every instant.

The new one is filled in a scratch folder beside its destination, `.NAME.RANDOM.partial/new`, and changes places with
the old one in a single call of the system. Where there is no such call, the old one is first moved into the scratch
folder, and for an instant there is none: who is killed then leaves both there, and `settle` puts the old one back.

A scratch folder is locked while its process lives. Those of others are debris, which `settle` removes: it is called
before something is written or opened under the name, and for all that is in a run's folder when a command begins.
Names are random, because what is named after a process number may be in the way of the next process with that number.
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
    """An empty folder on the file system of `place`, which is gone at the end with all that is still in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    settle(place)
    folder, lock = _make(place)
    try:
        (folder / NEW).mkdir()
        yield folder / NEW
    finally:
        _clear(folder, place, lock)


def put(new: Path, place: Path) -> None:
    """Gives the folder of `scratch` the name `place`, and takes what had that name."""
    if not os.path.lexists(place):
        os.rename(new, place)
    elif not exchanged(new, place):
        old = new.with_name(OLD)
        os.rename(place, old)
        os.rename(new, place)


def settle(place: Path) -> None:
    """Undoes what a killed process left half done of `place`, and removes its debris."""
    with contextlib.suppress(OSError):  # no such folder, or none that may be read
        for found in _destinations(os.listdir(place.parent)):
            if found[1] == place.name:
                _clear_if_dead(place.parent / found[0], place)


def settle_all(root: Path) -> None:
    """`settle` for everything below a folder."""
    for parent, folders, _ in os.walk(root):
        for name, destination in _destinations(folders):
            folders.remove(name)
            _clear_if_dead(Path(parent, name), Path(parent, destination))


def exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have changed places, in one call. False where there is none: not Linux, or an old file
    system."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return bool(call) and call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _destinations(names: Sequence[str]) -> list[tuple[str, str]]:
    """Scratch folders among these names, and what each was to become."""
    return [(name, found[1]) for name in names if (found := SCRATCH.fullmatch(name))]


def _make(place: Path) -> tuple[Path, Lock]:
    while True:
        folder = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.partial")
        folder.mkdir(mode=0o700)
        try:
            return folder, acquire(folder / LOCK)
        except (FileNotFoundError, Held):  # taken for debris before it was locked
            continue
        except OSError:
            folder.rmdir()
            raise


def _clear_if_dead(folder: Path, place: Path) -> None:
    """Nothing happens where its process lives, where that cannot be known, and where this one may not write."""
    with contextlib.suppress(OSError, Held):
        try:
            lock = acquire(folder / LOCK, create=False)
        except FileNotFoundError:
            folder.rmdir()  # killed before the lock was made or after it was deleted: nothing is in it
            return
        if lock.certain:
            _clear(folder, place, lock)
        else:
            lock.close()


def _clear(folder: Path, place: Path, lock: Lock) -> None:
    """Deletes a scratch folder. Two folders in it and none in its place: cut between two renames."""
    new, old = folder / NEW, folder / OLD
    try:
        if new.exists() and old.exists() and not os.path.lexists(place):
            os.rename(old, place)
        for gone in (new, old):  # in this order, so that half of the old one is never put back
            shutil.rmtree(gone, ignore_errors=True)
        if not (new.exists() or old.exists()):  # else the next one tries it again
            lock.delete()
            folder.rmdir()
    finally:
        lock.close()
