"""Who did what and when, kept as numbers: 24 bytes an interaction, and each token once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_llmemb.apps.convert.report import DropCounter
from recbole_llmemb.apps.convert.times import Clock, numbers
from recbole_llmemb.records.reader import RecordFile
from recbole_llmemb.records.values import one_line, token_of

#: Why a line is left out while it is read, in the order in which it is looked at.
REASONS = ("malformed", "no_user_or_item", "bad_time", "bad_rating", "low_rating")


@dataclass
class Interactions:
    """Interactions, in the order of the files."""

    users: np.ndarray  # users, items: (n,): Numbers of tokens
    items: np.ndarray
    times: np.ndarray  # times, ratings: (n,): Seconds; ratings only where there are any
    ratings: np.ndarray | None
    user_tokens: list[str]  # user_tokens, item_tokens: By number
    item_tokens: list[str]
    read: int  # Lines that were read, those left out included
    dropped: dict[str, DropCounter] = field(default_factory=dict)  # By :data:`REASONS`

    def __len__(self):
        return len(self.users)

    def keep(self, chosen: np.ndarray) -> Interactions:
        """Those chosen by a mask or by their places, with the same numbering."""
        ratings = None if self.ratings is None else self.ratings[chosen]
        return Interactions(
            self.users[chosen], self.items[chosen], self.times[chosen], ratings,
            self.user_tokens, self.item_tokens, self.read, self.dropped,
        )  # fmt: skip

    def sizes(self) -> tuple[int, int, int]:
        """Numbers of interactions, users and items."""
        return len(self), len(np.unique(self.users)), len(np.unique(self.items))


def read_interactions(
    sources: Sequence[RecordFile],
    roles: dict[str, str | None],
    clock: Clock,
    min_rating: float | None = None,
    progress: bool = True,
) -> Interactions:
    """Read files of interactions.

    ``roles``: column of the ``user``, ``item``, ``time`` and ``rating``; None for a time that is
    the order of the lines, and for no rating.
    ``clock``: reads the times.
    ``min_rating``: lower ratings are left out.
    ``progress``: whether to show how far it is.
    """
    dropped = {reason: DropCounter() for reason in REASONS}
    user_numbers: dict[str, int] = {}
    item_numbers: dict[str, int] = {}
    wanted = [column for column in dict.fromkeys(roles.values()) if column]
    parts: list[tuple] = []
    read = 0
    for source in sources:
        where = "line " if len(sources) == 1 else f"{source.path.name} line "
        for lines, columns in source.pieces(wanted, dropped["malformed"].within(where), progress):
            found = dict(zip(wanted, columns))
            users = [one_line(token_of(value)) for value in found[roles["user"]]]
            items = [one_line(token_of(value)) for value in found[roles["item"]]]
            times = np.arange(read, read + len(lines), dtype=np.float64)
            if roles["time"]:
                times = clock.seconds(found[roles["time"]])
            ratings = np.zeros(len(lines))
            if roles["rating"]:
                ratings = numbers(found[roles["rating"]])
            read += len(lines)
            no_id = np.array([not (user and item) for user, item in zip(users, items)])
            bad = {
                "no_user_or_item": no_id,
                "bad_time": np.isnan(times),
                "bad_rating": ~np.isfinite(ratings),
                "low_rating": ratings < (-np.inf if min_rating is None else min_rating),
            }
            good = np.ones(len(lines), dtype=bool)
            for reason, mask in bad.items():
                dropped[reason].add((lines[i] for i in np.flatnonzero(good & mask)), where)
                good &= ~mask
            chosen = np.flatnonzero(good)
            parts.append(
                (
                    _numbered(users, chosen, user_numbers),
                    _numbered(items, chosen, item_numbers),
                    times[chosen],
                    ratings[chosen].astype(np.float32),
                )
            )
    read += dropped["malformed"].count
    columns = [np.concatenate(part) for part in zip(*parts)] if parts else [np.zeros(0)] * 4
    users, items, times, ratings = columns
    return Interactions(
        users.astype(np.int32), items.astype(np.int32), times,
        ratings if roles["rating"] else None,
        list(user_numbers), list(item_numbers), read, dropped,
    )  # fmt: skip


def _numbered(tokens, chosen, numbers):
    """Numbers of the chosen tokens; new ones get the next."""
    found = (numbers.setdefault(tokens[i], len(numbers)) for i in chosen.tolist())
    return np.fromiter(found, dtype=np.int32, count=len(chosen))


# -- what is left out of interactions that are fine in themselves -------------------------


def in_order(interactions: Interactions) -> np.ndarray:
    """Places of the interactions by user, then time; equal times as they were read."""
    return np.lexsort((interactions.times, interactions.users))


def repeated(interactions: Interactions, which: str) -> np.ndarray:
    """Mask of the interactions that repeat others.

    ``interactions``: by user, then time.
    ``which``: ``exact``: the same user, item and time as an earlier one. ``first`` and ``last``:
    the same user and item, where the earliest or the latest is to stay. ``none``: no one repeats.
    """
    users, items, times = interactions.users, interactions.items, interactions.times
    found = np.zeros(len(users), dtype=bool)
    if which == "none" or not len(users):
        return found
    order = np.lexsort((items, users)) if which != "exact" else np.lexsort((items, times, users))
    same = (users[order][1:] == users[order][:-1]) & (items[order][1:] == items[order][:-1])
    if which == "exact":
        same &= times[order][1:] == times[order][:-1]
    # lexsort is stable, so that equals stand in the order of time.
    found[order[:-1] if which == "last" else order[1:]] = same
    return found


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
