"""Who did what and when, kept as numbers: 20 bytes an interaction, and each token once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_llmemb.apps.convert.report import Report
from recbole_llmemb.apps.convert.times import Clock, numbers
from recbole_llmemb.records.reader import RecordFile
from recbole_llmemb.records.values import one_line, token_of


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
    ``clock``: reads the times.
    ``min_rating``: lower ratings are left out.
    ``progress``: whether to show how far it is.
    """
    rows = Report()
    read, malformed = rows.row("interactions read"), rows.row("  - malformed lines")
    # Why a line is left out while it is read, in the order in which it is looked at.
    no_id, no_time, no_rating = (
        rows.row(f"  - without {what}")
        for what in ("user or item", "a time that can be read", "a rating that can be read")
    )
    low = None if min_rating is None else rows.row(f"  - rated below {min_rating:g}")
    known: dict[str, dict[str, int]] = {"user": {}, "item": {}}
    wanted = [column for column in dict.fromkeys(roles.values()) if column]
    parts = []
    for file in files:
        where = "line " if len(files) == 1 else f"{file.path.name} line "
        for lines, columns in file.pieces(wanted, malformed.within(where), progress):
            given = dict(zip(wanted, columns))
            tokens = {role: _tokens(given[roles[role]], known[role]) for role in known}
            times = np.arange(read.count, read.count + len(lines), dtype=np.float64)
            if roles["time"]:
                times = clock.seconds(given[roles["time"]])
            ratings = numbers(given[roles["rating"]]) if roles["rating"] else np.zeros(len(lines))
            read.count += len(lines)
            good = np.ones(len(lines), dtype=bool)
            for reason, mask in (
                (no_id, [not (user and item) for user, item in zip(*tokens.values())]),
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
            part |= {"time": times[chosen], "rating": ratings[chosen].astype(np.float32)}
            parts.append(pd.DataFrame(part))
    read.count += malformed.count
    table = pd.concat(parts, ignore_index=True) if parts else _NONE
    table = table if roles["rating"] else table.drop(columns="rating")
    return Interactions(table, list(known["user"]), list(known["item"]), rows)


_NONE = pd.DataFrame({"user": [], "item": [], "time": [], "rating": []})


def _tokens(values, known):
    return [v if type(v) is str and v in known else one_line(token_of(v)) for v in values]


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
