"""The text of items: from any file to the lines of an ``.item`` file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_llmemb.apps.convert.report import DropCounter
from recbole_llmemb.apps.convert.writing import line_of
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.records.reader import RecordFile, is_number
from recbole_llmemb.records.values import one_line, text_of, token_of

# Names that RecBole uses for the interactions.
_TAKEN = {"user_id", "item_id", "rating", "timestamp"}


@dataclass
class ItemLines:
    """Lines of the items that somebody interacted with, on disk."""

    path: Path  # One line per item, without a header: number of the item, then its fields
    fields: list[str]  # Names of the fields, as RecBole will know them
    numeric: list[bool]  # Which hold numbers in all lines where they hold anything
    has: np.ndarray  # (n_items,): Items of which there is a line
    empty: np.ndarray  # (n_items,): Of these, the ones with nothing in it
    read: int = 0  # read, unmet: Lines read; those of items without interactions
    unmet: int = 0
    # ``malformed``, ``no_item``, ``repeated``.
    dropped: dict[str, DropCounter] = field(default_factory=dict)


def check_names(columns: Sequence[str]) -> None:
    """Refuse columns that would be one field, as an ``.item`` file names fields."""
    names = [_name(column) for column in columns]
    twice = [column for column, name in zip(columns, names) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"The columns {name_some(twice)} would both be the field {_name(twice[0])}; name those "
            "to keep with --item_fields."
        )


def gather(
    sources: Sequence[tuple[RecordFile, str]],
    fields: Sequence[str],
    item_tokens: Sequence[str],
    path: Path,
    progress: bool = True,
) -> ItemLines:
    """Read files of items once; keep on disk what is said of those with interactions.

    ``sources`` (RecordFile, str): each with its column of the item.
    ``fields``: columns to keep.
    ``item_tokens``: the items to keep.
    ``path``: where to write.
    ``progress``: whether to show how far it is.
    """
    numbers = {name: number for number, name in enumerate(item_tokens)}
    names = [_name(field) for field in fields]
    found = ItemLines(
        path, names, [True] * len(fields),
        np.zeros(len(numbers), dtype=bool), np.zeros(len(numbers), dtype=bool),
        dropped={reason: DropCounter() for reason in ("malformed", "no_item", "repeated")},
    )  # fmt: skip
    filled = [False] * len(fields)
    with open(path, "w", encoding="utf-8", newline="") as file:
        for source, column in sources:
            where = "line " if len(sources) == 1 else f"{source.path.name} line "
            # A file may lack a column that another one has.
            own = [name for name in fields if name in source.columns]
            wanted = [column, *own]
            for lines, columns in source.pieces(
                wanted, found.dropped["malformed"].within(where), progress
            ):
                found.read += len(lines)
                for line, values in zip(lines, zip(*columns)):
                    item = one_line(token_of(values[0]))
                    if not item:
                        found.dropped["no_item"].add([line], where)
                        continue
                    number = numbers.get(item)
                    if number is None:
                        found.unmet += 1
                        continue
                    if found.has[number]:
                        found.dropped["repeated"].add([line], where)
                        continue
                    said = dict(zip(own, map(text_of, values[1:])))
                    cells = [said.get(f, "") for f in fields]
                    found.has[number], found.empty[number] = True, not any(cells)
                    for place, cell in enumerate(cells):
                        if cell:
                            filled[place] = True
                            found.numeric[place] = found.numeric[place] and is_number(cell)
                    file.write(line_of([number, *cells]))
    found.read += found.dropped["malformed"].count
    found.numeric = [number and some for number, some in zip(found.numeric, filled)]
    return found


def _name(column):
    name = "_".join(column.replace(":", " ").split())
    return f"item_{name}" if name in _TAKEN else name
