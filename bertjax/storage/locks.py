"""Locks on files that the operating system holds, so that a process which is killed gives its own up at once.

Process numbers cannot say who lives: in a container each is 1, and every host counts for itself. `flock` can, among the
processes of one host and its containers, and over NFS among hosts. On a file system without locks (some of FUSE, Lustre
mounted without them) everybody is let in, and nobody is taken for dead.
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
    """Another holder lives. The message is what it wrote into the file."""


class Lock(NamedTuple):
    """A file that is locked until `close`, or until this process ends, however it does."""

    path: Path
    descriptor: int
    certain: bool
    """Whether nobody else can hold it. False where the file system has no locks."""

    @property
    def stands(self) -> bool:
        """Whether the file is still there under its name."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except OSError:
            return False

    def delete(self) -> None:
        """Deletes the file; what is locked stays locked."""
        if self.stands:
            os.unlink(self.path)

    def close(self) -> None:
        """Gives the lock up."""
        os.close(self.descriptor)


def acquire(path: Path, said: str = "", create: bool = True) -> Lock:
    """Locks a file, which says who did.

    Raises:
      Held: Another process that lives holds it, or this one does.
      OSError: The file cannot be made; or there is none, and it is not to be created.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT * create, 0o666)
        try:
            lock = Lock(path, descriptor, _locked(descriptor))
            if not lock.stands:  # its holder deleted it meanwhile
                os.close(descriptor)
                continue
            if said:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, said.encode("utf-8", "replace"))
            return lock
        except BlockingIOError:
            words = os.read(descriptor, 4096).decode("utf-8", "replace")
            os.close(descriptor)
            raise Held(words) from None
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _locked(descriptor: int) -> bool:
    """Takes the lock; False where there are none. Raises `BlockingIOError` where somebody else has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
