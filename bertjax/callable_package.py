"""Packages that are named like a command: `bertjax.prune` is a package, and `bertjax.prune(...)` does what
`bertjax prune` does.

Importing any module of a package sets its name on `bertjax`, so a function of that name would be there only until then.
Python's way around it is a class of its own for the module. The price: `help(bertjax.prune)` is that of the package;
`help(bertjax.api.prune)` explains the call.
"""

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose call is that of the function with its name in `bertjax.api`."""

    def __call__(self, *arguments: Any, **fields: Any) -> Any:
        return self._function(*arguments, **fields)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(import_module("bertjax.api"), self.__name__.rpartition(".")[2])


def make_callable(package: str) -> None:
    """Gives an imported package of this name its call."""
    sys.modules[package].__class__ = CallablePackage
