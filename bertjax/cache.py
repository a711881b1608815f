"""Where downloaded and derived files live: one folder, chosen by one environment variable."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: `$BERTJAX_CACHE` if set, else `~/.cache/bertjax`. It is not created here."""
    chosen = os.environ.get("BERTJAX_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "bertjax"
