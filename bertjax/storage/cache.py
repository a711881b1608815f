"""Where downloaded and derived files live: one folder, chosen by one environment variable."""

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
    """The cache folder: `$BERTJAX_CACHE` if set, else `~/.cache/bertjax`. It is not created here."""
    chosen = os.environ.get("BERTJAX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "bertjax"


def compiled_dir() -> Path:
    """Where this process's compiled programs are kept: a folder for each number of processors, since XLA divides a
    program among those it sees while it compiles, and JAX's key for what it keeps does not say how many they were.

    A batch of 32 through a program made for one processor takes 5 to 13 % longer on two.
    """
    return cache_dir() / "compiled" / f"{thread_count()}-processors"


def cached_folder(kind: str, identity: Any, make: Callable[[Path], None]) -> Path:
    """The folder `kind/digest of identity` in the cache; `make(folder)` fills it if it is not there yet.

    `identity` is everything that the content depends on, as JSON. The folder gets its name when it is complete, so one
    that is there is whole, and of several processes that make it at the same time one wins and the others use its.

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
