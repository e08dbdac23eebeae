"""Bring your own data: csv, parquet or json files to a RecBole dataset.

- :mod:`.columns` finds out which column is what, and gathers the text of items;
- :mod:`.interactions` keeps who, what and when as numbers, and drops the rare;
- :mod:`.dataset` does all of it.

What is named here is imported when it is first used, so that options cost nothing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "ConvertJob": "recbole_llmemb.apps.convert.job",
    "convert": "recbole_llmemb.apps.convert.dataset",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
