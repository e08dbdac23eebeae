"""The text of items: from any file to the lines of an ``.item`` file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llmemb.apps.convert.report import Report
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.records.reader import RecordFile
from recbole_llmemb.records.values import is_number, one_line, text_of, token_of

# Names that RecBole uses for the interactions.
_TAKEN = {"user_id", "item_id", "rating", "timestamp"}


@dataclass
class ItemLines:
    """Lines of the items to keep, on disk."""

    path: Path  # One line per item, without a header: number of the item, then its fields
    tokens: list[str]  # Items by number: those of interactions, then any others that are kept
    fields: list[str]  # Names of the fields, as RecBole will know them
    numeric: list[bool]  # Which hold numbers in all lines where they hold anything
    has: np.ndarray  # (n_items,): Items of which there is a line
    empty: np.ndarray  # (n_items,): Of these, the ones with nothing in it
    rows: Report  # What was read and left out


def check_names(columns: Sequence[str]) -> None:
    """Refuse columns that would be one field, as an ``.item`` file names fields."""
    names = [_name(column) for column in columns]
    twice = [column for column, name in zip(columns, names) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"The columns {name_some(twice)} would both be the field {_name(twice[0])}; name those "
            "to keep with --item_fields.",
            key="item_fields",
        )


def gather(
    files: Sequence[tuple[RecordFile, str]],
    fields: Sequence[str],
    item_tokens: Sequence[str],
    path: Path,
    progress: bool = True,
    others: bool = False,
) -> ItemLines:
    """Read files of items once; keep on disk what is said of those with interactions.

    ``files`` (RecordFile, str): each with its column of the item.
    ``fields``: columns to keep.
    ``item_tokens``: the items to keep.
    ``path``: where to write.
    ``progress``: whether to show how far it is.
    ``others``: keep the items without interactions, too.
    """
    numbers = {name: number for number, name in enumerate(item_tokens)}
    has, empty = set(), set()
    rows = Report()
    read, malformed = rows.row("item lines read"), rows.row("  - malformed lines")
    no_item = rows.row("  - without item")
    repeated = rows.row("  - of an item that was there already")
    unmet = rows.row("  - of items without interactions")
    kinds: list[set[bool]] = [set() for _ in fields]  # Whether what a field holds are numbers
    with open(path, "w", encoding="utf-8", newline="") as output:
        for file, column in files:
            where = "line " if len(files) == 1 else f"{file.path.name} line "
            # A file may lack a column that another one has.
            own = [name for name in fields if name in file.columns]
            for lines, columns in file.pieces([column, *own], malformed.within(where), progress):
                read.count += len(lines)
                for line, (given, *values) in zip(lines, zip(*columns)):
                    item = one_line(token_of(given))
                    if item and others:
                        numbers.setdefault(item, len(numbers))
                    number = numbers.get(item)
                    if not item:
                        no_item.add([line], where)
                    elif number is None:
                        unmet.count += 1
                    elif number in has:
                        repeated.add([line], where)
                    else:
                        said = dict(zip(own, map(text_of, values)))
                        cells = [said.get(name, "") for name in fields]
                        has.add(number)
                        if not any(cells):
                            empty.add(number)
                        for kind, cell in zip(kinds, cells):
                            if cell:
                                kind.add(is_number(cell))
                        output.write(line_of([number, *cells]))
    read.count += malformed.count
    numeric = [kind == {True} for kind in kinds]
    has_line, bare = (np.isin(np.arange(len(numbers)), list(some)) for some in (has, empty))
    names = [_name(field) for field in fields]
    return ItemLines(path, list(numbers), names, numeric, has_line, bare, rows)


def _name(column):
    name = "_".join(column.replace(":", " ").split())
    return f"item_{name}" if name in _TAKEN else name


def line_of(cells) -> str:
    """A line of an atomic file; the cells hold neither tabs nor line breaks."""
    return "\t".join(map(str, cells)) + "\n"
