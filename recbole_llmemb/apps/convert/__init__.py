"""Bring your own data: csv, parquet or json files to a RecBole dataset.

Here is what to convert, and how, of which command options are made, and what came of it.

- :mod:`.columns` finds out which column is what, and gathers the text of items;
- :mod:`.interactions` keeps who, what and when as numbers, and drops the rare;
- :mod:`.dataset` does all of it.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recbole_llmemb.config.values import RECOMMENDED
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.imports import lazy
from recbole_llmemb.core.terminal import text_table, width
from recbole_llmemb.records.reader import OnBad

__all__ = ["ConvertJob", "convert"]

__getattr__ = lazy(__name__, dataset="convert")  # imported when it is used: options cost nothing

_COLUMNS = "columns, found by their names where not given"
_COLUMN = {"group": _COLUMNS, "metavar": "COL"}
_KEEP, _CSV = "what to keep", "csv files"
_SHOWN = 5


class ConvertJob(Checked):
    """What to convert, and how."""

    interactions: Sequence[str | Path] = option(
        ..., "who did what and when; may be given several times", metavar="FILE", repeat=True
    )
    items: Sequence[str | Path] = option(
        (), "what the items are; may be given several times", metavar="FILE", repeat=True
    )
    out: str | Path = option(..., "folder to make, dataset/NAME")
    overwrite: bool = option(False, "replace a converted dataset")
    format: Literal["auto", "csv", "parquet", "json", "amazon2023"] = option(
        "auto", "by the name's ending, or what it is; .gz may follow"
    )
    progress: bool = option(True, "tell how far it is", name="show_progress")

    user: str | None = option(None, "who", **_COLUMN)
    item: str | None = option(None, "what", **_COLUMN)
    time: str | None = option(None, "when; none: lines are in the order of time", **_COLUMN)
    rating: str | None = option(None, "how much it was liked; none: do without", **_COLUMN)
    items_id: str | None = option(None, "the item in --items", **_COLUMN)
    item_fields: Sequence[str] | None = option(None, "what makes an item's text", group=_COLUMNS)
    time_unit: str = option(
        "auto", "auto, s, ms, us, ns, number, text, or like %d.%m.%Y", group=_COLUMNS
    )

    min_user: int = option(5, "interactions per user", ge=1, group=_KEEP)
    min_item: int = option(5, "interactions per item", ge=1, group=_KEEP)
    min_rating: float | None = option(None, "drop lower ratings", group=_KEEP)
    dedupe: Literal["exact", "first", "last", "none"] = option(
        "exact",
        "exact: same user, item and time count once; first (or --dedupe alone), last: same user "
        "and item do, and that one stays",
        group=_KEEP,
    )
    without_metadata: Literal["drop", "keep"] = option(
        "drop", "what to do with items that --items do not have", group=_KEEP
    )
    keep_items: Literal["bought", "all"] = option(
        "bought",
        "all: items of --items stay in the .item file whose interactions are not there or were "
        "dropped; they are no part of training, and recommend --new_items ranks them",
        group=_KEEP,
    )

    delimiter: str | None = option(
        None, "one character, or tab (default: what the first line has)", group=_CSV
    )
    columns: Sequence[str] | None = option(
        None, "names, where the first line has none; one with a comma in double quotes", group=_CSV
    )
    encoding: str = option("utf-8", "of the files", group=_CSV)


@dataclass
class Count:
    """A row of the report: how many of something, and where the first few are."""

    what: str
    count: int = 0
    note: str = ""
    # ``line 7``, or ``file.csv line 7`` where several files are read.
    places: list[str] = field(default_factory=list)
    why: str = ""  # What is wrong with the first one, or what to do

    def add(self, lines: Iterable[int], where: str = "") -> None:
        """Count these lines of a file; ``where`` stands before their numbers."""
        lines = list(lines)
        self.count += len(lines)
        room = max(0, _SHOWN - len(self.places))
        self.places += [f"{where}{line}" for line in lines[:room]]

    def within(self, where: str) -> OnBad:
        """What counts the bad lines of a file."""

        def add(line: int, why: str) -> None:
            self.why = self.why or why
            self.add([line], where)

        return add

    def __str__(self) -> str:
        more = [self.note] if self.note else ["…"] if self.count > len(self.places) > 0 else []
        return ", ".join([*self.places, *more])


class Report(list):
    """Rows of :class:`Count`."""

    def row(self, what: str, count: int = 0, note: str = "", **more) -> Count:
        """Add a row, which may go on counting."""
        self.append(Count(what, int(count), note, **more))
        return self[-1]


@dataclass
class Converted:
    """What came out: where, how much, and the report."""

    path: Path  # path, settings: The dataset's folder and its property file
    settings: Path
    interactions: int
    users: int
    items: int
    has_text: bool  # Whether there is an ``.item`` file
    rows: Report

    def table(self) -> str:
        """The report for people."""
        rows = [[row.what, f"{row.count:,}", str(row)] for row in self.rows]
        table = text_table(rows, ["", "count", "first lines"], ["left", "right", "left"])
        if "\n\n" not in table:
            return table
        # The terminal is too narrow for all of it beside each other.
        notes = [
            textwrap.fill(f"{what.strip(' -')}: {note}", width()) for what, _, note in rows if note
        ]
        table = text_table([row[:2] for row in rows], ["", "count"])
        return "\n".join([table, "", "first lines", *notes])

    def command(self) -> str:
        """What to type next."""
        preset = RECOMMENDED if self.has_text else "id_only"
        given: dict = {"model": "LLMEmbSASRec", "preset": preset, "dataset": self.path.name}
        given |= {"data_path": self.path.parent, "config_files": self.settings}
        return shlex.join(["recbole-llm", *(f"--{key}={value}" for key, value in given.items())])
