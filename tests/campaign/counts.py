"""What came of the cases of a campaign, counted, with a line for each that fell."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# How a case may end; the first two are as it should be.
GOOD = {
    "whole": "as if undisturbed",
    "refused": "one sentence and exit 2",
}
BAD = {
    "traceback": "traceback",
    "believed": "believed",  # a wrong result, in silence
    "lost": "lost",  # something whole is gone
    "ran": "ran",  # code that came with a file
    "hung": "hung",
    "odd": "another exit code, or a sentence that names nothing",
}


@dataclass
class Counts:
    """Of one part."""

    ends: Counter = field(default_factory=Counter)
    fell: list[str] = field(default_factory=list)

    def note(self, end: str, case: str) -> None:
        """Count a case that ended so; one that fell is told at once."""
        assert end in GOOD or end in BAD, end
        self.ends[end] += 1
        if end in BAD:
            self.fell.append(f"{BAD[end]}: {case}")
            print(self.fell[-1], file=sys.stderr, flush=True)

    @property
    def tried(self) -> int:
        """How many cases there were."""
        return self.ends.total()

    def __str__(self) -> str:
        names = GOOD | BAD
        told = [f"{self.ends[end]:,} {names[end]}" for end in names if end != "odd"]
        odd = [f"{self.ends['odd']:,} {BAD['odd']}"] if self.ends["odd"] else []
        return ", ".join([f"{self.tried:,} tried", *told, *odd])


def end_of(status: int | None, told: str) -> str:
    """How a command ended: ``status`` (None: it was stopped), and all that it printed."""
    if status is None:
        return "hung"
    if "Traceback (most recent call last)" in told:
        return "traceback"
    if status == 2:
        sentences = [line for line in told.splitlines() if line.startswith("error: ")]
        return "refused" if len(sentences) == 1 else "odd"
    return "whole" if status == 0 else "odd"


def command(argv, folder, limit: float = 60, **more) -> tuple[int | None, str]:
    """Run a command of ours in a process of its own; its status (None: too slow), what it said."""
    words = [sys.executable, str(ROOT / "run_recbole_llm.py"), *map(str, argv)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **more}
    try:
        done = subprocess.run(words, cwd=folder, timeout=limit, **given)
    except subprocess.TimeoutExpired as late:
        told = late.stdout or ""
        return None, told if isinstance(told, str) else told.decode(errors="replace")
    return done.returncode, done.stdout or ""


def within(minutes: float):
    """Numbers from 0 until the time is over; 0 at least."""
    ends, number = time.monotonic() + 60 * minutes, 0
    while number == 0 or time.monotonic() < ends:
        yield number
        number += 1
