"""Histories of users that nobody knows, from files."""

from __future__ import annotations

import math
import os
from typing import Any

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.text import split_tokens
from recbole_llmemb.records.reader import open_records
from recbole_llmemb.records.values import token_of


def read_histories(
    path: str | os.PathLike[str],
) -> tuple[list[list[str]], list[str], list[list[float] | None], list[str]]:
    """Histories from a file with a record per history: json lines, or any other that is known.

    A record has ``history`` (a list of item tokens, oldest first, or one string with spaces
    between them) and perhaps ``user`` (what to call it) and ``times`` (a number per item); a line
    of json may be such a list alone.

    Returns lists of histories, names, times (each a list or None) and places (file and line).
    """
    histories: list[list[str]] = []
    times: list[list[float] | None] = []
    names, places = [], []
    file = open_records(path, otherwise="json", peek=0)
    rows = ((number, dict(zip(file.columns, row))) for number, row in file.rows(file.columns))
    for number, value in file.values() if file.kind == "json" else rows:
        place = f"{file.noun} {number}"
        where = f"{path}, {place}"
        value = {"history": value} if isinstance(value, list) else value
        history = value.get("history") if isinstance(value, dict) else None
        if isinstance(history, str):
            history = split_tokens(history, " ", where)
        if not isinstance(history, list) or any(isinstance(t, (list, dict)) for t in history):
            raise UserError(
                f'{where} has no history; write {{"user": "anna", "history": ["item", "item"]}} '
                "or a list of item tokens.",
                where=path,
            )
        times.append(_times(value.get("times"), len(history), where))
        histories.append([token_of(token) for token in history])
        names.append(token_of(value.get("user")) or place)
        places.append(where)
    if not histories:
        raise UserError(f"{path} is empty; give one history per line.", where=path)
    return histories, names, times, places


def _times(given: Any, count: int, where: str) -> list[float] | None:
    if given is None or given == "":
        return None
    given = given.split() if isinstance(given, str) else given
    if not (isinstance(given, list) and len(given) == count):
        raise UserError(f"{where} has times that are not a list with one number per item.")
    wrong = f"{where} has times that are not all numbers."
    with explained(wrong, TypeError, ValueError, OverflowError):
        found = [float(time) for time in given]
    if not all(map(math.isfinite, found)):
        raise UserError(wrong)
    return found
