"""Errors a user can cause.

Whatever a user types or feeds that cannot work ends in one :class:`UserError`
whose message is one sentence: what is wrong, where, and what to do. The command
line prints it and exits with status 2; from Python it is an ordinary exception.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one sentence (what is wrong, where, what to do)."""


class TableError(UserError):
    """An embedding table that cannot be used: damaged, incomplete or not matching."""


def name_some(tokens: Iterable[str], limit: int = 5) -> str:
    """Name the first few tokens for an error message: ``'a', 'b', … (12 in all)``.

    Parameters
    ----------
    tokens : iterable of str
        What to name, in order.
    limit : int
        How many to spell out.
    """
    tokens = list(tokens)
    shown = ", ".join(repr(str(token)) for token in tokens[:limit])
    return shown if len(tokens) <= limit else f"{shown}, … ({len(tokens)} in all)"
