"""Values of an item's attributes as text."""

from __future__ import annotations

import math
from typing import Any

# How tools write that there is nothing to say: no words for a language model. Of tokens (users,
# items, RecBole's features) only the empty one is missing.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"]
    + ["<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)


def is_vector(value: Any) -> bool:
    """Objects, and lists of anything but text, are no text."""
    if isinstance(value, list):
        return any(not isinstance(part, str | None) for part in value)
    return isinstance(value, dict)


def as_text(value: Any) -> str | None:
    """A value as text on one line, "" where it is missing, None where it cannot be text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        parts = [as_text(part) for part in value]
        return None if None in parts else ", ".join(part for part in parts if part)
    if isinstance(value, dict | bytes):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    return text.encode("utf-8", "replace").decode() if is_broken(text) else text


def is_broken(text: str) -> bool:
    """Whether it holds halves of characters, which JSON can write but no file can."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)
