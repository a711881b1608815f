"""The folder that holds the steps: listing, renaming damaged steps, and readable errors.

An intact step is named `<step>`, a damaged one that was found and renamed `bad-<step>`. While Orbax writes a step, it
has a temporary name, which stays if the process is killed. In a bucket (`gs://`) nothing can be renamed, so a step has
its final name from the start and lacks the file that Orbax writes last.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence

import jax
from etils import epath
from jax.experimental import multihost_utils

from bertjax.errors import UserError
from bertjax.storage.paths import as_path, is_remote

Folder = str | os.PathLike[str]

_HALF_WRITTEN = ".orbax-checkpoint-tmp"
_WRITTEN_LAST = "commit_success.txt"


def absolute(folder: Folder) -> epath.Path:
    """The folder as an absolute path, as Orbax needs it."""
    return as_path(folder) if is_remote(folder) else epath.Path(folder).expanduser().resolve()


def steps(folder: Folder) -> list[int]:
    """The steps stored in `folder`, ascending, including damaged but not half-written ones."""
    path = absolute(folder)
    entries = path.iterdir() if path.is_dir() else []
    return sorted(int(entry.name) for entry in entries if _is_step(entry) and not _is_half_written(entry))


def half_written(folder: epath.Path) -> list[epath.Path]:
    """Steps that are being written, or were when a process was killed."""
    return sorted(path for path in folder.iterdir() if _is_half_written(path)) if folder.is_dir() else []


def _is_step(path: epath.Path) -> bool:
    return bool(re.fullmatch("0|[1-9][0-9]*", path.name)) and path.is_dir()


def _is_half_written(path: epath.Path) -> bool:
    if is_remote(path):
        return _is_step(path) and not (path / _WRITTEN_LAST).exists()
    return _HALF_WRITTEN in path.name


def delete_half_written(folder: epath.Path) -> None:
    """Frees the disk space of half-written steps. Only the run that writes to this folder may call it, and not during a
    write."""
    if jax.process_index() == 0:
        for path in half_written(folder):
            with contextlib.suppress(OSError):
                path.rmtree()


def clear(path: epath.Path) -> None:
    """Deletes what a killed process left under a step's final name, which happens in a bucket only."""
    if not is_remote(path):
        return
    if jax.process_index() == 0:
        path.rmtree(missing_ok=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("bertjax.checkpoint: half-written step is deleted")


def rename_damaged(folder: epath.Path, damaged: Sequence[int]) -> None:
    """Renames damaged steps, so that their numbers can be saved again and they do not count among the steps to keep."""
    if jax.process_index() == 0:
        for step in damaged:
            names = itertools.chain([f"bad-{step}"], (f"bad-{step}-{i}" for i in itertools.count(2)))
            (folder / str(step)).rename(next(folder / name for name in names if not (folder / name).exists()))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("bertjax.checkpoint: damaged steps are renamed")


def try_writing(folder: epath.Path) -> None:
    """Creates the folder and fails if it cannot be written, so that the error comes before training and not at the
    first save."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable-{jax.process_index()}"
    probe.write_text("")
    probe.unlink()


@contextlib.contextmanager
def readable_errors(folder: epath.Path) -> Iterator[None]:
    """Turns errors of the file system into a `UserError` of one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (reason := _reason(error, is_remote(folder))) is None:
            raise
        hint = "Existing checkpoints are unchanged. Free disk space or choose another folder, and run again."
        raise UserError(f"cannot write checkpoints to {folder}: {reason}.\n{hint}") from error


def _reason(error: BaseException | None, remote: bool) -> str | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        if isinstance(error, OSError) and remote:  # errors of a bucket are text without a number
            return str(error)[:200]
        if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's ValueError
            return os.strerror(int(code[1]))
        error = error.__cause__ or error.__context__
    return None
