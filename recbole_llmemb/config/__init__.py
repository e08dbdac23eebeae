"""Configuration: what may be said, what is meant, and RecBole's ``Config`` made of it."""

from __future__ import annotations

import importlib

_WHERE = {"check": "checks"} | dict.fromkeys(
    ("make_config", "preset_file", "preset_names", "properties_folder"), "recbole_config"
)


def __getattr__(name):
    # RecBole has to be healed before a part of it is imported.
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
