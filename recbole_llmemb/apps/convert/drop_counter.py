"""Counts of what was dropped, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 5


@dataclass
class Tally:
    """How many of something there were, and the lines of the first few."""

    count: int = 0
    # ``line 7``, or ``file.csv, line 7`` where several files are read.
    places: list[str] = field(default_factory=list)

    def add(self, lines: Iterable[int], where: str = "") -> None:
        """Count these lines of a file; ``where`` stands before their numbers."""
        lines = list(lines)
        self.count += len(lines)
        room = _SHOWN - len(self.places)
        self.places += [f"{where}{line}" for line in lines[: max(0, room)]]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.places) else ""
        return ", ".join(self.places) + more if self.places else ""
