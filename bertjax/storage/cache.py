"""The cache folder for downloaded and derived files, chosen by one environment variable."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.machine.processor import thread_count
from bertjax.storage.atomic import scratch


def cache_dir() -> Path:
    """`$BERTJAX_CACHE` if set, else `~/.cache/bertjax`. The folder is not created."""
    chosen = os.environ.get("BERTJAX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "bertjax"


def compiled_dir() -> Path:
    """The folder of jax's compilation cache, one for each number of processors.

    XLA's CPU backend compiles for the number of processors it sees, which jax's cache key does not contain. A program
    compiled for one processor is 5 to 13 % slower on two, for a batch of 32.
    """
    return cache_dir() / "compiled" / f"{thread_count()}-processors"


def cached_folder(kind: str, identity: Any, make: Callable[[Path], None]) -> Path:
    """The folder `kind/digest of identity` in the cache; `make(folder)` fills it if it does not exist.

    `identity` is everything that the content depends on, as JSON. The folder is renamed to its name when it is
    complete. If several processes make it at the same time, all use the first one.

    Raises:
      UserError: The folder cannot be written.
    """
    place = cache_dir() / kind / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    if place.is_dir():
        return place
    try:
        with scratch(place) as new:
            make(new)
            try:
                os.replace(new, place)
            except OSError:
                if not place.is_dir():
                    raise
    except OSError as error:
        raise UserError(
            f"cannot write {place}: {error.strerror or error}.\n"
            "Free space, or set BERTJAX_CACHE to a folder that can be written."
        ) from None
    return place
