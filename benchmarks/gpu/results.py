"""The results file: written after every line, so that a run that is cut off has told what it could.

Beside it lies the same as Markdown, which the documentation shows.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

#: Why a line that there was no time for has no figures.
NO_TIME = "no time was left"
_SHARES = ("of peak", "padding")
# What only other steps read.
_HIDDEN = ("what", "peak")


class Results:
    """What was found, by step, and what the file has of the same machine and versions.

    Parameters
    ----------
    path : Path or None
        The file, which ends in ``.json``; None keeps nothing.
    facts : dict
        Of the machine and the run. Minutes are those of all runs that the file is of.
    steps : dict of str to str
        Titles of the steps that are to come.
    """

    def __init__(self, path: Path | None, facts: dict, steps: dict[str, str]):
        self.path = path
        empty = {"status": "not measured", "seconds": None, "rows": []}
        before = json.loads(path.read_text()) if path is not None and path.is_file() else {}
        if any(before.get(name) != value for name, value in facts.items() if name != "minutes"):
            before = {"steps": {}}
        self.found = {
            **facts,
            "minutes": facts["minutes"] + before.get("minutes", 0),
            "steps": {
                name: before["steps"].get(name) or {"title": title, **empty, "rows": []}
                for name, title in steps.items()
            },
        }
        self.write()

    def measured(self, step: str) -> dict[str, dict]:
        """The lines of a step that need not be measured again, by what they are of."""
        rows = self.found["steps"][step]["rows"]
        return {row["what"]: row for row in rows if "failed" not in row}

    def complete(self, step: str) -> bool:
        """Whether a step has come to its end and measured all that it has lines for."""
        here = self.found["steps"][step]
        return here["status"] == "done" and len(self.measured(step)) == len(here["rows"])

    def add(self, step: str, row: dict) -> None:
        """A line of a step, in place of the one that it had of the same."""
        rows = self.found["steps"][step]["rows"]
        names = [one["what"] for one in rows]
        if row["what"] in names:
            rows[names.index(row["what"])] = row
        else:
            rows.append(row)
        self.write()

    def end(self, step: str, status: str, seconds: float) -> None:
        """How a step ended."""
        self.found["steps"][step] |= {"status": status, "seconds": round(seconds, 1)}
        self.write()

    def value(self, name: str):
        """The first value of that name that was found."""
        rows = (row for step in self.found["steps"].values() for row in step["rows"])
        return next((row[name] for row in rows if name in row), None)

    def write(self) -> None:
        """Both files, each whole or as it was."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.path, json.dumps(self.found, indent=1) + "\n")
        _replace(self.path.with_suffix(".md"), markdown(self.found))


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def markdown(found: dict) -> str:
    """Results as the documentation shows them: a table for each step."""
    machine = f"{found['device']}, PyTorch {found['torch']}, Python {found['python']}"
    size = ", at toy size" if found["toy"] else ""
    lines = [f"{machine}; {found['minutes']:g} minutes{size}.", ""]
    for step in found["steps"].values():
        lines += [f"**{step['title']}**", ""]
        late = [row["what"] for row in step["rows"] if row.get("failed") == NO_TIME]
        rows = [row for row in step["rows"] if row["what"] not in late]
        if rows:
            lines += [*_table(rows), ""]
        if late:
            named = "; ".join(late) if len(late) < 5 else f"{len(late)} lines from {late[0]} on"
            lines += [f"Not measured, as no time was left: {named}.", ""]
        if step["status"] != "done":
            lines += [f"{step['status'].capitalize()}.", ""]
    return "\n".join(lines)


def _table(rows: list[dict]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in _HIDDEN))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in rows:
        cells = [text(name, row.get(name)).replace("|", r"\|") for name in columns]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return lines


def text(name: str, value) -> str:
    """A value in a table."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if name in _SHARES:
        return f"{value:.1%}"
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
