"""Item text to vectors: attributes → prompts → encoder → embedding table.

What is named here is imported when it is first used, so that options and a cache hit cost
nothing.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "EncodeJob": "recbole_llmemb.encode.options",
    "ItemText": "recbole_llmemb.records.items",
    "Workers": "recbole_llmemb.encode.options",
    "cache_directory": "recbole_llmemb.encode.build_or_load",
    "ensure_table": "recbole_llmemb.encode.build_or_load",
    "item_prompts": "recbole_llmemb.encode.texts",
    "read_items": "recbole_llmemb.records.items",
    "run_job": "recbole_llmemb.encode.job",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
