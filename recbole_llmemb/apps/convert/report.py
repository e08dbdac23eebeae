"""What a conversion read, dropped and wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llmemb.config.values import RECOMMENDED
from recbole_llmemb.core.terminal import text_table, width
from recbole_llmemb.records.reader import OnBad

_SHOWN = 5


@dataclass
class Count:
    """A row of the report: how many of something, and where the first few are."""

    what: str
    count: int = 0
    note: str = ""
    # ``line 7``, or ``file.csv line 7`` where several files are read.
    places: list[str] = field(default_factory=list)

    def add(self, lines: Iterable[int], where: str = "") -> None:
        """Count these lines of a file; ``where`` stands before their numbers."""
        lines = list(lines)
        self.count += len(lines)
        room = max(0, _SHOWN - len(self.places))
        self.places += [f"{where}{line}" for line in lines[:room]]

    def within(self, where: str) -> OnBad:
        """What counts the bad lines of a file."""
        return lambda line, why: self.add([line], where)

    def __str__(self) -> str:
        more = [self.note] if self.note else ["…"] if self.count > len(self.places) > 0 else []
        return ", ".join([*self.places, *more])


class Report(list):
    """Rows of :class:`Count`."""

    def row(self, what: str, count: int = 0, note: str = "") -> Count:
        """Add a row, which may go on counting."""
        self.append(Count(what, int(count), note))
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
        return (
            f"recbole-llm --model=LLMEmbSASRec --preset={preset} --dataset={self.path.name} "
            f"--data_path={self.path.parent} --config_files={self.settings}"
        )
