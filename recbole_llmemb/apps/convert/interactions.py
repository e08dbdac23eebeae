"""Who did what and when, kept as numbers: 24 bytes an interaction, and each token once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pandas as pd

from recbole_llmemb.apps.convert import Report
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.records.reader import RecordFile
from recbole_llmemb.records.values import kept_token

_EXACT = 2**53  # From here on floats leave whole numbers out.
_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9, "number": 1}
_WORDS = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "number": "numbers, taken as they are", "text": "dates in text",
}  # fmt: skip
UNITS = ("auto", *_WORDS)
# Numbers below are no seconds of our time: positions, years, days.
_FIRST_SECOND = 1e8  # March 1973
_LAST_SECOND = 1e11  # Numbers from here on are milliseconds
_FAR = 7_258_118_400  # The year 2200
_NONE = {name: np.zeros(0, dtype=np.int32) for name in ("user", "item", "time", "rating")}


@dataclass
class Interactions:
    """Interactions, in the order of the files, and what was left out."""

    # user, item: numbers of tokens; time: seconds; rating: only where there are any.
    table: pd.DataFrame
    users: list[str]  # users, items: Tokens by number
    items: list[str]
    rows: Report


def read_interactions(
    files: Sequence[RecordFile],
    roles: dict[str, str],
    clock: Clock,
    min_rating: float | None = None,
    progress: bool = True,
) -> Interactions:
    """Read files of interactions.

    ``roles``: column of the ``user``, ``item``, ``time`` and ``rating``; empty for a time that
    is the order of the lines, and for no rating.
    """
    rows = Report()
    read, malformed = rows.row("interactions read"), rows.row("  - malformed lines")
    # Why a line is left out while it is read, in the order in which it is looked at.
    no_id = rows.row("  - without user or item")
    told = "nested values, fractions and line breaks name nobody; check --user and --item"
    odd = rows.row("  - whose user or item is no plain text or whole number", why=told)
    no_time = rows.row("  - without a time that can be read", why="check --time and --time_unit")
    told = "check --rating and the separator; a number is written as 4.5"
    no_rating = rows.row("  - without a rating that can be read", why=told)
    low = None if min_rating is None else rows.row(f"  - rated below {min_rating:g}")
    known: dict[str, dict[str, int]] = {"user": {}, "item": {}}
    wanted = [column for column in dict.fromkeys(roles.values()) if column]
    parts = []
    for file in files:
        clock.begin()
        where = "line " if len(files) == 1 else f"{file.path.name} line "
        for lines, columns in file.pieces(wanted, malformed.within(where), progress):
            given = dict(zip(wanted, columns))
            tokens = {role: _tokens(given[roles[role]], known[role]) for role in known}
            times = np.arange(read.count, read.count + len(lines), dtype=np.float64)
            if roles["time"]:
                whole = [all(pair) for pair in zip(*tokens.values())]  # others have no say in it
                of = zip(whole, given[roles["time"]])
                times = clock.seconds([time if said else None for said, time in of])
            ratings = numbers(given[roles["rating"]]) if roles["rating"] else np.zeros(len(lines))
            read.count += len(lines)
            good = np.ones(len(lines), dtype=bool)
            for reason, mask in (
                (no_id, ["" in pair for pair in zip(*tokens.values())]),
                (odd, [None in pair for pair in zip(*tokens.values())]),
                (no_time, np.isnan(times)),
                (no_rating, ~np.isfinite(ratings)),
                (low, ratings < (-np.inf if min_rating is None else min_rating)),
            ):
                bad = good & mask
                if reason is not None:
                    reason.add((lines[i] for i in np.flatnonzero(bad)), where)
                good &= ~bad
            chosen = np.flatnonzero(good)
            part = {role: _numbered(tokens[role], chosen, known[role]) for role in known}
            part |= {"time": times[chosen], "rating": ratings[chosen]}
            parts.append(pd.DataFrame(part))
    read.count += malformed.count
    if not odd.count:
        rows.remove(odd)  # as nearly always
    table = pd.concat(parts or [pd.DataFrame(_NONE)], ignore_index=True)
    table = table if roles["rating"] else table.drop(columns="rating")
    return Interactions(table, list(known["user"]), list(known["item"]), rows)


def _tokens(values, known):
    return [v if type(v) is str and v in known else kept_token(v) for v in values]


def _numbered(tokens, chosen, known):
    """Numbers of the chosen tokens; new ones get the next."""
    found = (known.setdefault(tokens[i], len(known)) for i in chosen.tolist())
    return np.fromiter(found, dtype=np.int32, count=len(chosen))


def sizes(table: pd.DataFrame) -> tuple[int, int, int]:
    """Numbers of interactions, users and items."""
    return len(table), table["user"].nunique(), table["item"].nunique()


# -- what is left out of interactions that are fine in themselves -------------------------


def repeated(table: pd.DataFrame, which: str) -> np.ndarray:
    """Mask of the interactions that repeat others, of those in the order of time.

    ``which``: ``exact``: the same user, item and time as an earlier one. ``first`` and ``last``:
    the same user and item, where the earliest or the latest is to stay. ``none``: no one repeats.
    """
    if which == "none":
        return np.zeros(len(table), dtype=bool)
    same = ["user", "item", "time"] if which == "exact" else ["user", "item"]
    return table.duplicated(same, keep="last" if which == "last" else "first").to_numpy()


def k_core(users, items, min_user: int, min_item: int) -> tuple[np.ndarray, int]:
    """Drop rare users and items, again and again until none is left.

    ``users``, ``items`` (n,): numbers of each interaction's user and item.
    ``min_user``, ``min_item``: interactions that each user and each item left has at least.
    Returns mask ``(n,)`` of what is left, and how many rounds dropped something.
    """
    left = np.ones(len(users), dtype=bool)
    rounds = 0
    while left.any():
        few_user = np.bincount(users[left], minlength=users.max() + 1) < min_user
        few_item = np.bincount(items[left], minlength=items.max() + 1) < min_item
        drop = left & (few_user[users] | few_item[items])
        if not drop.any():
            break
        left &= ~drop
        rounds += 1
    return left, rounds


# -- times --------------------------------------------------------------------------------


class Clock:
    """Turns a column of times into seconds since 1970.

    ``unit``: one of :data:`UNITS`, or a format of ``strptime`` such as ``%d.%m.%Y``; ``auto`` looks
    at the first piece of each file.
    """

    def __init__(self, unit: str = "auto", column: str = "time"):
        if unit not in UNITS and "%" not in unit:
            told = f"--time_unit is {unit!r}; it must be {', '.join(UNITS)}, or like %d.%m.%Y."
            raise UserError(told, key="time_unit")
        if ("%p" in unit) != ("%I" in unit):
            told = f"--time_unit is {unit!r}, but %I, hours of half a day, and %p go together"
            raise UserError(f"{told}; take %H for those of the whole day.", key="time_unit")
        if "%" in unit and not re.search("%[YyGcxDFs]", unit):
            told = f"--time_unit is {unit!r}, which has no year; add %Y, or order the lines"
            raise UserError(f"{told} and set --time=none.", key="time_unit")
        self.asked, self.unit, self.column = unit, unit, column
        self.seen: dict[str, int] = {}  # Units, and how many times were of another one
        self.first, self.last = np.inf, -np.inf

    def begin(self) -> None:
        """Look at another file."""
        self.unit = self.asked

    def seconds(self, values: list) -> np.ndarray:
        """Times ``(n,)`` in seconds; NaN where there is none to read.

        So are numbers below zero, unless ``unit`` is ``number``, and what can only be of another
        unit.
        """
        if self.unit == "auto":
            self.unit = self._recognized(values)
        self.seen.setdefault(self.unit, 0)
        if "number" in self.seen and len(self.seen) > 1:
            told = f"The times in {self.column!r} are positions in one file and dates in another"
            raise UserError(f"{told}; convert them apart, or set --time_unit.", key="time_unit")
        if self.unit in _PER_SECOND:
            found = numbers(values) / _PER_SECOND[self.unit]
            if self.unit == "number":
                self._refuse_rounded(found)
            else:
                low = 0 if self.unit == "s" else _FIRST_SECOND
                other = np.isfinite(found) & (found >= _LAST_SECOND) | (found >= 0) & (found < low)
                self.seen[self.unit] += int(other.sum())
                found[other] = np.nan
            if self.asked != "number":
                found[found < 0] = np.nan  # as many write that there is none
        else:
            found = _dates(values, None if self.unit == "text" else self.unit)
        found[~np.isfinite(found)] = np.nan
        good = found[~np.isnan(found)]
        if len(good):
            self.first, self.last = min(self.first, good.min()), max(self.last, good.max())
        return found

    def _refuse_rounded(self, found: np.ndarray) -> None:
        """Positions that are not told apart any more would lose order and lines."""
        most = np.abs(found[np.isfinite(found)]).max(initial=0)
        if most >= _EXACT:
            told = f"{self.column!r} holds positions, numbers without a unit, up to {most:.0f}"
            advice = f"those from {_EXACT:,} on are not exact; give --time_unit (ns, say)"
            raise UserError(f"{told}; {advice}, or number the lines.", key="time_unit")

    def _recognized(self, values):
        found = numbers(values)
        found = found[np.isfinite(found)]
        filled = sum(value is not None and str(value).strip() != "" for value in values)
        if len(found) and len(found) * 2 >= filled:
            middle = float(np.median(found))
            if middle < _FIRST_SECOND:
                return "number"
            limits = {"s": 1e11, "ms": 1e14, "us": 1e17}
            return next((unit for unit, limit in limits.items() if middle < limit), "ns")
        dates = _dates(values, None)
        if np.isfinite(dates).sum() * 2 < max(1, filled):
            some = [repr(str(value)) for value in values if value not in (None, "")][:2]
            raise UserError(
                f"The times in {self.column!r} ({', '.join(some) or 'all empty'}) are neither "
                "numbers nor dates as 2024-05-01T12:30:00; say how they are written with "
                "--time_unit=%d.%m.%Y, or name another column with --time.",
                key="time_unit",
            )
        return "text"

    def __str__(self):
        words = " and ".join(_WORDS.get(unit, f"dates like {unit}") for unit in self.seen)
        if "number" not in self.seen and np.isfinite(self.first):
            words += f", {_day(self.first)} to {_day(self.last)}"
            words += ", which is far ahead: check --time_unit" if self.last > _FAR else ""
            words += ", all the same: the order of lines decides" if self.first == self.last else ""
        others = sum(self.seen.values())
        return f"{words}; {others:,} of another unit are left out" if others else words


def numbers(values) -> np.ndarray:
    """Numbers ``(n,)`` of a column; NaN where there is none."""
    if any(isinstance(value, (datetime, np.datetime64)) for value in values[:1000]):
        return np.full(len(values), np.nan)
    # Switches, and whole numbers beyond all floats, are no numbers that count anything.
    odd = (isinstance(v, bool) or isinstance(v, int) and abs(v) > 1e300 for v in values)
    values = [np.nan if wrong else v for wrong, v in zip(odd, values)]
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )


def _dates(values, format):
    column = pd.Series(values, dtype=object)
    told = f"--time_unit is {format or 'text'!r}, by which times cannot be read ({{reason}})."
    with warnings.catch_warnings(), explained(told, ValueError, OverflowError, key="time_unit"):
        warnings.simplefilter("ignore")
        found = pd.to_datetime(column, errors="coerce", utc=True, format=format or "ISO8601")
        since = found - pd.Timestamp("1970-01-01", tz="UTC")
    return (since / pd.Timedelta(seconds=1)).to_numpy(dtype=np.float64, copy=True)


def _day(seconds):
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return "beyond all years"
