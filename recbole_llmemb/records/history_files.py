"""Histories of people that nobody knows, from files."""

from __future__ import annotations

import json
import math
from pathlib import Path

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import lines_of
from recbole_llmemb.core.token_lists import split_tokens


def read_histories(path):
    """Histories from a jsonl file.

    Each line is an object with ``history`` (a list of item tokens, oldest first, or one string
    with spaces between them) and perhaps ``user`` (what to call it) and ``times`` (a number per
    item); or such a list alone.

    Returns lists of histories, names, times (each a list or None) and places (file and line).
    """
    path = Path(path)
    histories, names, times, places = [], [], [], []
    for number, value in read_jsonl(path):
        where = f"{path}, line {number}"
        value = {"history": value} if isinstance(value, list) else value
        history = value.get("history") if isinstance(value, dict) else None
        if isinstance(history, str):
            history = split_tokens(history, " ", where)
        if not isinstance(history, list) or any(isinstance(t, (list, dict)) for t in history):
            raise UserError(
                f'{where} has no history; write {{"user": "anna", "history": ["item", "item"]}} '
                "or a list of item tokens."
            )
        when = value.get("times")
        if when is not None and not (isinstance(when, list) and len(when) == len(history)):
            raise UserError(f"{where} has times that are not a list with one number per item.")
        try:
            times.append(None if when is None else [_finite(one) for one in when])
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where} has times that are not all numbers.") from None
        histories.append([str(token) for token in history])
        names.append(str(value.get("user", f"line {number}")))
        places.append(where)
    return histories, names, times, places


def _finite(value):
    if not math.isfinite(float(value)):
        raise ValueError(value)
    return float(value)


def read_jsonl(path):
    """Numbers and values of the lines of a jsonl file; empty lines are passed over."""
    path, found = Path(path), []
    try:
        lines = lines_of(path)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; check the path.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append((number, json.loads(line)))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is not JSON ({error}).") from None
    if not found:
        raise UserError(f"{path} is empty; give one JSON value per line.")
    return found
