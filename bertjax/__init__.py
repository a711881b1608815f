"""Make BERT models smaller and faster in JAX, and measure what it cost.

    import bertjax
    bundle = bertjax.load("runs/quickstart/bundle")
    bundle.predict(["a triumph from the first frame to the last"]).labels

Importing the package costs nothing: what it offers is imported when it is first asked for (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax import checkpoint
    from bertjax.bundle import Bundle, load, save
    from bertjax.errors import UserError

__version__ = "0.1.0"
__all__ = ["Bundle", "UserError", "__version__", "checkpoint", "load", "save"]

_HOMES = {"Bundle": "bertjax.bundle", "load": "bertjax.bundle", "save": "bertjax.bundle", "UserError": "bertjax.errors"}


def __getattr__(name: str) -> Any:
    if name == "checkpoint":
        return import_module("bertjax.checkpoint")
    if name not in _HOMES:
        raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
