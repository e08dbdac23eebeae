"""What a conversion read, dropped and wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.records.reader import OnBad

_SHOWN = 5


@dataclass
class DropCounter:
    """How many of something were dropped, and the lines of the first few."""

    count: int = 0
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
        more = ", …" if self.count > len(self.places) else ""
        return ", ".join(self.places) + more if self.places else ""


@dataclass
class Converted:
    """What came out: where, how much, and the rows of the report."""

    path: Path  # path, settings: The dataset's folder and its property file
    settings: Path
    interactions: int
    users: int
    items: int
    has_text: bool  # Whether there is an ``.item`` file
    # What, how many interactions or lines, and where the first of them are.
    rows: list[tuple] = field(default_factory=list)

    def table(self) -> str:
        """The report for people."""
        rows = [
            [what, f"{count:,}" if isinstance(count, int) else count, str(places)]
            for what, count, places in self.rows
        ]
        return tabulate(
            rows,
            headers=["", "count", "first lines"],
            tablefmt="simple",
            disable_numparse=True,
            colalign=("left", "right", "left"),
            preserve_whitespace=True,
        )

    def command(self) -> str:
        """What to type next."""
        more = "" if self.has_text else " --item_embedding=id"
        return (
            f"recbole-llm --model=LLMEmbSASRec --dataset={self.path.name} "
            f"--data_path={self.path.parent} --config_files={self.settings}{more}"
        )


def rows_of(job, found, lines, steps, present, sizes) -> list[tuple]:
    """The report: what was read, what was dropped and why, what was written.

    ``found``: as read.
    ``steps``: what was dropped after reading.
    ``present`` (n_items,): items that are written.
    ``sizes``: interactions, users and items written.
    """
    dropped = found.dropped
    rows: list[tuple] = [("interactions read", found.read, "")]
    reasons = {
        "malformed": "malformed lines",
        "no_user_or_item": "without user or item",
        "bad_time": "without a time that can be read",
        "bad_rating": "without a rating that can be read",
        "low_rating": f"rated below {job.min_rating or 0:g}",
    }
    if job.min_rating is None:
        del reasons["low_rating"]
    rows += [(f"  - {words}", dropped[key].count, dropped[key]) for key, words in reasons.items()]
    same = {"exact": "user, item and time", "none": "-"}.get(job.dedupe, "user and item")
    rows.append((f"  - repeated (same {same})", steps["repeated"], ""))
    if "without_metadata" in steps:
        rows.append(("  - of items without metadata", steps["without_metadata"], ""))
    rounds = f"in {steps['rounds']} round{'s' * (steps['rounds'] != 1)}; "
    rounds += f"{steps['k_core_users']:,} users"
    rounds += f" and {steps['k_core_items']:,} items went with them"
    few = f"  - fewer than {job.min_user} per user or {job.min_item} per item"
    rows.append((few, steps["k_core"], rounds))
    rows.append(("interactions written", sizes[0], ""))
    rows += [("  users", sizes[1], ""), ("  items", sizes[2], "")]
    if lines is None:
        return rows
    rows.append(("item lines read", lines.read, ""))
    words = {
        "malformed": "malformed lines",
        "no_item": "without item",
        "repeated": "of an item that was there already",
    }
    rows += [
        (f"  - {text}", lines.dropped[key].count, lines.dropped[key]) for key, text in words.items()
    ]
    rows.append(("  - of items without interactions", lines.unmet, ""))
    gone = int((lines.has & ~present).sum())
    rows.append(("  - of items whose interactions were dropped", gone, ""))
    rows.append(("item lines written", int((lines.has & present).sum()), ""))
    rows.append(("  with nothing in them", int((lines.empty & present).sum()), ""))
    rows.append(("items without metadata", int((~lines.has).sum()), ""))
    return rows
