"""Text of csv and json files taken apart, so that one bad line takes no other with it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import TwiceError, UserError
from recbole_llmemb.core.files import once

_LONGEST_FIELD = 1 << 20
_LONGEST_LIST = 1 << 30
_MOST_LINES = 10_000  # that a record in quotes takes
_OPEN = "a quote that is never closed may be why: take it out, or write it twice in a quoted field"


JSON = json.JSONDecoder(object_pairs_hook=once)


def json_entries(path: Path) -> list[Any] | None:
    """What a file called .json (or .json.gz) lists, None where it is json lines."""
    packed = path.suffix.lower() == ".gz"
    if not path.name.lower().removesuffix(".gz").endswith(".json"):
        return None
    with gzip.open(path) if packed else open(path, "rb") as file:
        if not file.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
        file.seek(0)
        try:  # a packed one may have no end
            found = JSON.decode(file.read(_LONGEST_LIST if packed else -1).decode("utf-8-sig"))
        except TwiceError:
            raise
        except json.JSONDecodeError as error:
            file.seek(0)
            if _is_json(file.readline(_LONGEST_FIELD)):
                return None
            told = f"{path} line {error.lineno}: its list is no JSON here ({error.msg})"
            raise UserError(f"{told}; mend it, or write one object per line.", where=path) from None
        except (ValueError, RecursionError):
            return None
    return found if all(isinstance(entry, (dict, list)) for entry in found) else None


def _is_json(line: bytes) -> bool:
    with suppress(ValueError, RecursionError):
        JSON.decode(line.decode("utf-8-sig"))
        return True
    return False


def csv_rows(
    given: Iterator[str], delimiter: str
) -> Iterator[tuple[int, list[str] | str, list[str]]]:
    """Rows, or what is wrong with a line, each with its number and the lines that it takes.

    A row takes several lines only if the quote that closes it ends a field. If none does, the
    first of them is bad, and the others are read as lines of their own.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    lines, held, again = map(ended, given), list[str](), list[str]()

    def take() -> str:
        held.append(again.pop() if again else next(lines, ""))
        if len(held) > _MOST_LINES:
            raise csv.Error
        return held[-1]

    rows, number = csv.reader(iter(take, ""), delimiter=delimiter, strict=True), 1
    while True:
        try:
            for row in rows:
                if row:
                    yield number, row, held
                number += len(held)
                held.clear()
            return
        except csv.Error:
            again += [held.pop()] if len(held) > 1 else []
            for line in held:
                if alone := _alone(line, delimiter):
                    yield number, alone, [line]
                number += 1
            held.clear()


def _alone(line: str, delimiter: str) -> list[str] | str:
    """The row that a line of a csv file is, or why it is none."""
    try:
        given = [line.removesuffix("\n") + "\n"]
        row = next(csv.reader(given, delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return f"{error}; {_OPEN}"
    return _OPEN if row and row[-1].endswith("\n") else row


def ended(line: str) -> str:
    """A line of a csv file, in which a carriage return that ends none is a blank."""
    return line.replace("\r\n", "\n").replace("\r", " ") if "\r" in line else line
