"""The whole schema of keys: the sections of every room, brought together."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llmemb.config import fields, shared
from recbole_llmemb.config.keys import Settings, Use, declared, keys, sections_of, use_of
from recbole_llmemb.config.known import keys_of_any_model, refuse_keys
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode import settings as encode
from recbole_llmemb.models import settings as models
from recbole_llmemb.models.llmemb.backbones import PREFIX
from recbole_llmemb.scft import settings as scft

#: In the order in which they are shown.
SECTIONS: list[type[Settings]] = [
    shared.RunSettings,
    shared.DataSettings,
    fields.FieldSettings,
    encode.EncodeSettings,
    scft.ScftSettings,
    models.ItemSettings,
    shared.TrainingSettings,
    shared.EvaluationSettings,
    models.BackboneSettings,
    models.LLMSRecSettings,
]
__all__ = ["SECTIONS", "Use", "declared", "keys", "sections_of", "use_of"]

_INDENT: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "      "}
# What a checkpoint may be evaluated with that it was not trained with.
_FREE = Use.PLACE | Use.MACHINE | Use.SPEED | Use.MEASURE


def refuse_values(values: Mapping[str, Any], model_class: type | None = None) -> None:
    """Refuse what keys cannot be, each by itself; keys that nobody declared may be anything."""
    for section in sections_of(model_class):
        for key in section.model_fields.keys() & values.keys():
            section.refuse_value(key, values[key])


def refuse_typed(settings: Mapping[str, Any], model: object) -> None:
    """Refuse what no model takes: known without RecBole, whose import takes seconds."""
    refuse_keys(settings, keys_of_any_model())
    if str(model).startswith(PREFIX):  # what is empty may still be settled: --adapter=none
        refuse_values({key: value for key, value in settings.items() if value is not None})


def refuse_missing(values: Mapping[str, Any]) -> None:
    """Refuse an encoder or an adapter that is not there, also where a ready table needs none.

    A name without a path in it may be one of the Hugging Face hub.
    """
    for key in ("llm_encoder", "llm_adapter"):
        place = str(values.get(key) or "")
        named = place.startswith(("/", ".", "~")) or place.count("/") > 1 or key == "llm_adapter"
        if place and named and not Path(place).expanduser().exists():
            raise UserError(f"{key} is {place!r}, which is not there; check the path.", key=key)


def check_changes(changes: Mapping[str, Any]) -> None:
    """Refuse to change of a checkpoint's settings what would make another model of it."""
    free = keys(_FREE) | set(shared.EvaluationSettings.model_fields) | {"user_sample", "seed"}
    for key in changes:
        if key not in free:
            told = f"{key} says how a model is trained, which a checkpoint was already"
            raise UserError(f"{told}; leave it out, or train another one.", key=key)
    refuse_values({key: value for key, value in changes.items() if value is not None})


def help_text() -> str:
    """Every key with its default and meaning, by section."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"{section.__doc__}:"]
        for name, field in section.model_fields.items():
            text = " ".join((field.description or "").split())
            plain = field.default is None or not str(field.default).strip()
            default = "" if plain else f" (default: {field.default})"
            lines += textwrap.wrap(f"--{name}  {text}{default}", 96, **_INDENT)
    return "\n".join(lines[1:])
