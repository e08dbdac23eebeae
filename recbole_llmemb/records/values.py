"""From values to text: one rule for every kind of file and every command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from recbole_llmemb.core.errors import UserError

# How tools write that there is nothing to say: no words for a language model. Of tokens (users,
# items, RecBole's features) only the empty one is missing.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"]
    + ["<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)
# A csv file has no switches; what writes one into it spells them its own way.
_SWITCHES = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
# Halves of characters, which JSON can write but no file can, and what is no character at all.
_HALVES = re.compile("[\ud800-\udfff\ufffe\uffff]")
_LONG = 60


def text_of(value: Any) -> str:
    """What a value says of an item, on one line; empty where it says nothing.

    Lists of short values are joined by commas, lists of sentences by spaces; of a mapping, names
    and values are kept; a switch is ``true`` or ``false``. Bytes must be UTF-8.
    """
    if not isinstance(value, str) and hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if isinstance(value, dict):
        pairs = ((one_line(name), text_of(part)) for name, part in value.items())
        return ", ".join(f"{name}: {part}" for name, part in pairs if part)
    if isinstance(value, (list, tuple)):
        parts = [part for part in map(text_of, value) if part]
        return (" " if any(len(part) > _LONG for part in parts) else ", ").join(parts)
    words = one_line(value)
    return "" if words in MISSING else _SWITCHES.get(words, words)


def token_of(value: Any) -> str:
    """A user or item as text, as it stands; empty where there is none."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float | Decimal):
        if value != value:
            return ""
        if _is_whole(value):
            value = int(value)  # a column of whole numbers with gaps becomes one of floats
    return "" if value is None else str(value)


def is_token(value: Any) -> bool:
    """Whether a value can name a user or item: text, or a whole number.

    Of floats, only those that are sure to be the number that somebody wrote.
    """
    if isinstance(value, float):
        return value != value or (_is_whole(value) and abs(value) < 2**53)
    if isinstance(value, Decimal):
        return value != value or _is_whole(value)
    return not isinstance(value, bool | list | tuple | set | dict)


def _is_whole(value: Any) -> bool:
    return bool(abs(value) < float("inf") and value == int(value))


def wrong_token(token: str) -> str | None:
    """Why a text names no user or item: some file could not hold it."""
    if not token:
        return "is empty"
    if "\n" in token or "\r" in token:
        return f"is {token!r}, which holds a line break"
    return f"is {token!r}, which is no text" if _HALVES.search(token) else None


def kept_token(value: Any) -> str | None:
    """A user or item as a line of a dataset holds it; empty: none is there; None: none can be."""
    try:
        token = token_of(value).strip(" \t\r\n") if is_token(value) else None
    except UnicodeDecodeError:
        return None
    return None if token and (_CONTROL.search(token) or wrong_token(token)) else token


def one_line(value: Any) -> str:
    """A value without line breaks, tabs and other control characters, blanks made one space.

    Letters that are not seen stay: joiners make words of some scripts, and emoji, what they are.
    """
    if isinstance(value, bytes):
        value = value.decode()
    words = "" if value is None else str(value)
    if not words.isprintable():
        words = _HALVES.sub("?", _CONTROL.sub(" ", words))
    elif "  " not in words and words == words.strip():
        return words  # as most are
    return " ".join(words.split())


def is_number(cell: str) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return abs(float(cell)) < float("inf")
    except ValueError:
        return False


def is_vector(value: Any) -> bool:
    """Whether a value is no text by default: objects, and lists of anything but text."""
    if isinstance(value, list):
        return any(not isinstance(part, str | None) for part in value)
    return isinstance(value, dict)


def tokens_in(values: Iterable[Any], told: str, key: str | None = None) -> list[str]:
    """Users or items that somebody gives in Python, as text.

    ``told``: whose they are, for a message that begins with it; ``key``: of that error.
    """
    values = list(values)
    for one in values:
        if not is_token(one) or wrong_token(token_of(one)):
            advice = "give text, or a whole number"
            raise UserError(f"{told}: {one!r:.80} names none; {advice}.", key=key)
    return list(map(token_of, values))


def column_values(column: Any) -> list[Any]:
    """Values of a Parquet column; short floats as they are written, 19.99 and not 19.98999977."""
    if str(column.type) not in ("halffloat", "float"):
        return list(column.to_pylist())
    kind = column.type.to_pandas_dtype()
    return [one if one is None else float(str(kind(one))) for one in column.to_pylist()]
