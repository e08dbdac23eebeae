"""What is left out of interactions that are fine in themselves."""

from __future__ import annotations

import numpy as np

DEDUPE = ("exact", "first", "last", "none")


def in_order(interactions):
    """Places of the interactions by user, then time; equal times as they were read."""
    return np.lexsort((interactions.times, interactions.users))


def repeated(interactions, which: str) -> np.ndarray:
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
