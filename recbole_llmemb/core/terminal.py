"""What a terminal has room for: the one place that knows its width."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from tabulate import MIN_PADDING, tabulate
from tqdm import tqdm

#: Columns where output goes into a file.
_ENOUGH = 10_000


def width() -> int:
    """Columns of the terminal: ``COLUMNS`` where it is set, as for argparse."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if not terminal and not os.environ.get("COLUMNS"):
        return _ENOUGH
    return shutil.get_terminal_size((80, 24)).columns


def in_notebook() -> bool:
    """Whether output goes into a notebook, where standard error has a red ground."""
    return "ipykernel" in sys.modules


def progress_bar(*args: Any, **settings: Any) -> Any:
    """tqdm's bar, as wide as the terminal; in a notebook on standard output."""
    if in_notebook():
        settings.setdefault("file", sys.stdout)
    return tqdm(*args, **settings)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def text_table(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str],
    align: Sequence[str] | None = None,
    fixed: int = 1,
) -> str:
    """Rows as a table for people, no wider than the terminal; short ones are filled up.

    Where columns do not fit beside each other they follow in further tables, each of which begins
    with the first ``fixed`` columns.
    ``align``: ``left`` or ``right`` for each column; by default the first one is left.
    """
    align = align or ["left", *["right"] * (len(headers) - 1)]
    cells = [[*map(str, row), *[""] * (len(headers) - len(row))] for row in rows]
    wide = [
        max([len(head) + MIN_PADDING, *(len(row[place]) for row in cells)])
        for place, head in enumerate(headers)
    ]
    room = width() - sum(wide[:fixed]) - 2 * (fixed - 1)
    parts: list[list[int]] = [[]]
    for place in range(fixed, len(headers)):
        if parts[-1] and sum(wide[at] + 2 for at in [*parts[-1], place]) > room:
            parts.append([])
        parts[-1].append(place)
    tables = []
    for part in parts:
        chosen = [*range(min(fixed, len(headers))), *part]
        tables.append(
            tabulate(
                [[row[place] for place in chosen] for row in cells],
                [headers[place] for place in chosen],
                "simple",
                disable_numparse=True,
                preserve_whitespace=True,
                colalign=[align[place] for place in chosen] if cells else None,
            )
        )
    return "\n\n".join(tables)


def printable(text: str) -> str:
    """Text on one line; what moves a terminal's cursor, which names may hold, as escapes."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if text.isprintable() else "".join(shown)
