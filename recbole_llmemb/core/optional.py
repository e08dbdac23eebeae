"""Libraries that only some commands need."""

from __future__ import annotations

import importlib
from types import ModuleType

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
