"""Errors a user can cause.

Whatever a user types or feeds that cannot work ends in one :class:`UserError`
whose message is one sentence: what is wrong, where, and what to do. The command
line prints it and exits with status 2; from Python it is an ordinary exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["TableError", "UserError"]


class UserError(ValueError):
    """Bad input, told in one sentence (what is wrong, where, what to do).

    Attributes
    ----------
    key : str or None
        The configuration key or option that is at fault, if it is one.
    where : str or None
        The file or folder that is at fault, if it is one.
    """

    def __init__(self, message: str = "", *, key: str | None = None, where: object = None):
        super().__init__(message)
        self.key = key
        self.where = None if where is None else str(where)


class TableError(UserError):
    """An embedding table that cannot be used: damaged, incomplete or not matching."""


def reason_of(error: BaseException, limit: int = 300) -> str:
    """What an error of a library says, in one line without a full stop."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:limit].rstrip(".: ")


@contextmanager
def explained(
    sentence: str,
    *errors: type[BaseException],
    kind: type[UserError] = UserError,
    key: str | None = None,
    where: object = None,
) -> Iterator[None]:
    """Turn errors of a library into our sentence, in which ``{reason}`` is what they say.

    What is a :class:`UserError` already passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        text = sentence.replace("{reason}", reason_of(error))
        raise kind(text, key=key, where=where) from error


def refuse_twice(
    tokens: Iterable[str], where: object, advice: str, kind: type[UserError] = UserError
) -> None:
    """Refuse item tokens of which some occur more than once."""
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        raise kind(
            f"{where}: {len(twice)} item token(s) occur more than once: {name_some(twice)}; "
            f"{advice}.",
            where=where,
        )


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
