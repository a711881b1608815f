"""File locks (`flock`), which the operating system releases when a process ends, even if it is killed.

Process numbers cannot tell whether a process is alive: in each container they start at 1, and every host has its own.
`flock` works among the processes of one host and its containers, and over NFS among hosts. On a file system without
locks (some FUSE mounts, Lustre without the option) every caller gets the lock, and no process counts as dead.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Held(Exception):
    """Another process holds the lock. The message is what that process wrote into the file."""


class Lock(NamedTuple):
    """A file that is locked until `close`, or until this process ends."""

    path: Path
    descriptor: int
    certain: bool
    """False if the file system has no locks, so that other processes may hold it too."""

    @property
    def exists(self) -> bool:
        """Whether the file still exists under its name."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except OSError:
            return False

    def delete(self) -> None:
        """Deletes the file; the lock itself is kept."""
        if self.exists:
            os.unlink(self.path)

    def close(self) -> None:
        os.close(self.descriptor)


def acquire(path: Path, owner: str = "", create: bool = True) -> Lock:
    """Locks a file and writes `owner` into it.

    Raises:
      Held: Another live process holds it, or this one does.
      OSError: The file cannot be created; or it does not exist, and `create` is False.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT * create, 0o666)
        try:
            lock = Lock(path, descriptor, _locked(descriptor))
            if not lock.exists:  # deleted by its holder in the meantime
                os.close(descriptor)
                continue
            if owner:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, owner.encode("utf-8", "replace"))
            return lock
        except BlockingIOError:
            holder = os.read(descriptor, 4096).decode("utf-8", "replace")
            os.close(descriptor)
            raise Held(holder) from None
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _locked(descriptor: int) -> bool:
    """Takes the lock. Returns False if the file system has none; raises `BlockingIOError` if another process holds
    it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
