"""Searches for the best settings, with Ray Tune.

``from recbole_llmemb.apps.tune import search, trainable`` is all that a script needs.
"""

from __future__ import annotations

import importlib

from recbole_llmemb.apps.tune.options import require_ray

__all__ = ["search", "trainable"]

_WHERE = {"search": "searching", "trainable": "trial"}


def __getattr__(name):
    # Ray and RecBole take seconds to import: only for those who ask for them.
    if name in _WHERE:
        require_ray()
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_WHERE])
