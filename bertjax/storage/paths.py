"""Local paths and paths in a bucket of Google Cloud Storage, `gs://bucket/...`, with the same functions for both.

A bucket stores whole objects only. Folders cannot be renamed and files cannot be appended to, and libraries that open
files themselves (safetensors, ONNX Runtime, TensorBoard) cannot read it. So small files are read and written in place
(`as_path`), and everything else goes through a local folder. `local` returns a copy for reading, kept in the cache
(bertjax.storage.cache) and renewed if the bucket's content changed. `atomic_folder` and `staged` give a folder to fill,
which is uploaded when it is complete. For a local path nothing is copied: `local` and `staged` return the path itself,
and `atomic_folder` a folder beside it that is renamed (bertjax.storage.atomic).

A folder in a bucket is replaced object by object. Its `config.json` is deleted first and written last, and no folder
without one is opened. So a process that is killed in between leaves neither the old folder nor the new one, and the
same command, run again, writes it from the last checkpoint.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.storage.atomic import put, scratch

BUCKETS = "gs://"
WRITTEN_LAST = "config.json"

PathLike = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    return os.fspath(path).startswith(BUCKETS)


def as_path(path: PathLike) -> Any:
    """A pathlib.Path; for a bucket, an epath.Path of etils, which has the same methods.

    Raises:
      UserError: The bucket cannot be reached.
    """
    if not is_remote(path):
        return Path(path)
    from etils import epath

    _client(_bucket(path))
    return epath.Path(path)


def absolute(path: PathLike) -> str:
    """The canonical name of a path, without `..`."""
    name = os.fspath(path)
    if not is_remote(name):
        return os.path.abspath(name)
    return BUCKETS + posixpath.normpath(name.removeprefix(BUCKETS))


def relative(path: PathLike, folder: PathLike) -> str:
    """The path relative to the folder. The path itself if only one of the two is in a bucket."""
    path, folder = absolute(path), absolute(folder)
    if is_remote(path) != is_remote(folder):
        return path
    return Path(os.path.relpath(path.removeprefix(BUCKETS), folder.removeprefix(BUCKETS))).as_posix()


def joined(folder: PathLike, name: str) -> str:
    """The inverse of `relative`."""
    whole = name if is_remote(name) else os.path.join(folder, name)
    return absolute(whole) if is_remote(whole) else os.path.normpath(whole)


def names(folder: PathLike) -> Iterator[str]:
    """Every file below a folder, as a path relative to it; none if the folder does not exist."""
    if is_remote(folder):
        start = _key(folder) + "/"
        yield from (key.removeprefix(start) for key in sorted(_client(_bucket(folder)).find(start)))
        return
    for place, _, files in os.walk(folder):
        yield from (os.path.relpath(os.path.join(place, file), folder) for file in files)


def local(path: PathLike) -> Path:
    """A local path of a file, or of a folder with everything below it. Copies of earlier contents of a bucket stay in
    the cache until they are deleted by hand.

    Raises:
      UserError: There is nothing at that path of the bucket, or it changes while it is copied.
    """
    if not is_remote(path):
        return Path(path)
    from bertjax.storage.cache import cached_folder

    client, objects = _client(_bucket(path)), _objects(path)
    if not objects:
        raise UserError(f"{absolute(path)}: no such file or folder in the bucket.")

    def make(copy: Path) -> None:
        single = objects[0][0] == _key(path)
        start = len(posixpath.dirname(_key(path)) if single else _key(path)) + 1
        with _plain_errors():
            client.get([name for name, *_ in objects], [str(copy / name[start:]) for name, *_ in objects])
        if _objects(path) != objects:
            raise UserError(f"{absolute(path)} changed while it was read; run again when it is complete.")

    folder = cached_folder(f"buckets/{_key(path)}", objects, make)
    return folder / posixpath.basename(_key(path)) if objects[0][0] == _key(path) else folder


@contextlib.contextmanager
def atomic_folder(target: PathLike) -> Iterator[Path]:
    """A folder to fill. It replaces `target` as a whole when the block ends without an error.

    Raises:
      UserError: The folder cannot be written. The old content is kept.
    """
    try:
        if is_remote(target):
            with scratch(_sending()) as new:
                yield new
                _publish(new, target)
        else:
            place = Path(target).resolve()
            with scratch(place) as new:
                yield new
                put(new, place)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror or error  # of copytree
        raise UserError(f"cannot write {target}: {reason}. Free space or choose another folder.") from error


@contextlib.contextmanager
def staged(folder: PathLike) -> Iterator[Path]:
    """A folder to fill. Its files are added to those in `folder` when the block ends without an error."""
    if not is_remote(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
        return
    with scratch(_sending()) as new:
        yield new
        send(new, folder)


def send(source: Path, folder: PathLike) -> None:
    """Uploads every file below `source` to the same relative path below a folder in a bucket."""
    _send(source, folder, list(names(source)))


def write_text(path: PathLike, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes a file atomically: a killed process leaves either the old or the new content."""
    if is_remote(path):
        with _plain_errors():
            as_path(path).write_bytes(content)
        return
    path = Path(path)
    with scratch(path) as new:
        (new / path.name).write_bytes(content)
        os.replace(new / path.name, path)


def remove(folder: PathLike) -> None:
    """Deletes a folder with everything in it, if it exists."""
    if is_remote(folder):
        as_path(folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _sending() -> Path:
    """The path next to which folders are filled before they are uploaded."""
    return Path(tempfile.gettempdir(), "bertjax")


def _publish(source: Path, target: PathLike) -> None:
    client, new, old = _client(_bucket(target)), set(names(source)), set(names(target))
    # WRITTEN_LAST is deleted first and in a request of its own, because a request has no guaranteed order.
    for gone in ({WRITTEN_LAST} & old, old - new - {WRITTEN_LAST}):
        if gone:
            with _plain_errors():
                client.rm([f"{_key(target)}/{name}" for name in sorted(gone)])
    _send(source, target, sorted(new - {WRITTEN_LAST}))
    _send(source, target, sorted(new & {WRITTEN_LAST}))


def _send(source: Path, folder: PathLike, files: list[str]) -> None:
    if files:
        with _plain_errors():
            there = [f"{_key(folder)}/{Path(name).as_posix()}" for name in files]
            _client(_bucket(folder)).put([str(source / name) for name in files], there)


def _objects(path: PathLike) -> list[tuple[str, int, str]]:
    """Name, size and generation of an object, or of all objects below a folder."""
    with _plain_errors():
        try:
            entries = _client(_bucket(path)).ls(_key(path), detail=True)
        except FileNotFoundError:
            return []
    inner = [e["name"] for e in entries if e["type"] == "directory" and e["name"].strip("/") != _key(path)]
    files = [(e["name"], e["size"], e["generation"]) for e in entries if e["type"] == "file"]
    return files + [one for name in inner for one in _objects(BUCKETS + name)]


def _key(path: PathLike) -> str:
    """`bucket/path`, the form that the client needs."""
    return absolute(path).removeprefix(BUCKETS)


def _bucket(path: PathLike) -> str:
    return _key(path).partition("/")[0]


@functools.cache
def _client(bucket: str) -> Any:
    """A client for a bucket, after one successful request.

    Raises:
      UserError: gcsfs is missing, or the bucket cannot be read: no such bucket, no credentials, no network.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"gs://{bucket} needs the package gcsfs: pip install 'bertjax[tpu]'.")
    import fsspec
    import fsspec.config

    # Other clients write there too (TensorStore in this process), so listings are not cached. etils uses the same
    # options if TensorFlow is disabled, and then shares this client, so that this applies to it as well.
    os.environ.setdefault("EPATH_USE_TF", "false")
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    client = fsspec.filesystem("gcs", finalize_on_close=True)
    try:
        with _plain_errors():
            client.ls(bucket)
    except OSError as error:
        raise UserError(
            f"gs://{bucket} cannot be read: {str(error)[:300]}.\n"
            "Check the bucket's name and your credentials (gcloud auth application-default login; on a TPU VM, those "
            "of its service account)."
        ) from None
    return client


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns the many kinds of errors of a bucket into `OSError`, like those of a disk."""
    try:
        yield
    except OSError:
        raise
    except UserError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, str(error)[:300] or type(error).__name__) from error
