"""Values as an atomic file can hold them: on one line, without tabs."""

from __future__ import annotations

# How tools write that there is nothing to say about an item. Of users and items only the empty
# token is missing.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"]
    + ["<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)
_LONG = 60


def text(value) -> str:
    """One line of a value: lists joined, blanks of any kind made one space.

    Lists of short values are joined by commas, lists of sentences by spaces; of a mapping, names
    and values are kept.
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        pairs = ((str(name), text(item)) for name, item in value.items())
        return ", ".join(f"{name}: {item}" for name, item in pairs if item)
    if isinstance(value, (list, tuple)):
        parts = [part for part in map(text, value) if part]
        return (" " if any(len(part) > _LONG for part in parts) else ", ").join(parts)
    if isinstance(value, float) and value != value:
        return ""
    value = str(value)
    if not value.isprintable():  # control characters, and blanks other than the space
        value = "".join(letter if letter.isprintable() else " " for letter in value)
    return " ".join(value.split())


def token(value) -> str:
    """A user or item as text; empty where there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps becomes one of floats
    return text(value)


def line_of(cells) -> str:
    """A line of an atomic file, in which :func:`text` has left no tab and no line break."""
    return "\t".join(map(str, cells)) + "\n"
