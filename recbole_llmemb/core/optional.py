"""Modules that only some commands need: of other libraries, and of our own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from recbole_llmemb.core.errors import UserError


def optional(module: str, extra: str, who: str) -> ModuleType:
    """A module of a library that is not always installed, such as ``pyarrow.parquet``.

    ``extra``: the extra of this package that brings it.
    ``who``: what needs it, for the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        why = "which is not installed" if missing else f"which cannot be imported ({error})"
        raise UserError(
            f"{who} needs {library}, {why}; run `pip install 'recbole-llmemb[{extra}]'`."
        ) from None


def lazy(package: str, **modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, some names of which are imported when they are used.

    ``modules``: by module of the package, the names that lie in it.
    """
    where = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name in where:
            return getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
