"""Make BERT models smaller and faster in JAX, and measure what it cost.

    import bertjax
    bundle = bertjax.load("runs/quickstart/bundle")
    bundle.predict(["a triumph from the first frame to the last"]).labels
    bertjax.compress(bundle, train="train.tsv", eval="dev.tsv", max_drop=1.0, min_speedup=4).report.show()

Importing the package costs nothing: what it offers is imported when it is first asked for (PEP 562). Five functions are
named like packages, which are callable (callable_package.py).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax import checkpoint
    from bertjax.api import (
        add_exits,
        calibrate,
        compare,
        compress,
        distill,
        drop_tokens,
        evaluate,
        export,
        finetune,
        prune,
        quantize,
        verify,
    )
    from bertjax.bundle import Bundle, load, save
    from bertjax.errors import UserError
    from bertjax.student import Student

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "Student",
    "UserError",
    "__version__",
    "add_exits",
    "calibrate",
    "checkpoint",
    "compare",
    "compress",
    "distill",
    "drop_tokens",
    "evaluate",
    "export",
    "finetune",
    "load",
    "prune",
    "quantize",
    "save",
    "verify",
]

_PACKAGES = ("checkpoint", "distill", "export", "prune", "quantize", "verify")
_HOMES = {"Bundle": "bundle", "load": "bundle", "save": "bundle", "Student": "student", "UserError": "errors"}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"bertjax.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bertjax.{_HOMES.get(name, 'api')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
