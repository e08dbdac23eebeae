"""Errors a user can cause.

Whatever a user types or feeds that cannot work ends in one :class:`UserError`
whose message is one sentence: what is wrong, where, and what to do. The command
line prints it and exits with status 2; from Python it is an ordinary exception.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from sysconfig import get_path
from traceback import walk_tb

__all__ = ["DamagedError", "TableError", "UserError"]

#: What code may end in, beside what the machine or a file does.
FAILURES = (
    TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, NameError,
    AssertionError,
)  # fmt: skip
# difflib looks at some ten thousand spellings a second; of more, only alike ones are shown to it.
_MANY = 20_000
# Full, too large for what a file may be, or not to be written (or read) at all.
_STORAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
}  # fmt: skip


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


class DamagedError(UserError):
    """A file of ours that is not as it was written, so that work has to start without it."""


class TwiceError(ValueError):
    """Two values for one key of JSON."""


class TableError(UserError):
    """An embedding table that cannot be used: damaged, incomplete or not matching."""


def reason_of(error: BaseException, limit: int = 300) -> str:
    """What an error of a library says, in one line without a full stop."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, KeyError) and error.args:
        key = error.args[0]
        text = f"there is no {str(key) if isinstance(key, str) else key!r}"
    return " ".join(text.split())[:limit].rstrip(".: ")


def place_of(error: BaseException) -> str:
    """Where an error was raised, as ``package.module:line``; empty where that is not known."""
    *_, (frame, line) = [(None, 0), *walk_tb(error.__traceback__)]
    return f"{frame.f_globals.get('__name__')}:{line}" if frame else ""


def own_place(error: BaseException) -> str:
    """Where code failed that is neither this package's nor installed, as :func:`place_of`.

    Empty where this package called it not, or was called by it again.
    """
    installed = re.compile(rf"<|{re.escape(get_path('stdlib'))}|.*[/\\](site|dist)-packages")
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] in ("recbole", "recbole_llmemb"):
            place = ""
        elif not installed.match(frame.f_code.co_filename):
            place = f"{name}:{line}"
    return place


def in_a_sentence(error: BaseException) -> str | None:
    """What to say of an error that is the machine's or a file's, wherever it comes up.

    Returns None for one of a program.
    """
    error = storage_error(error) or error
    reason = reason_of(error)
    if isinstance(error, MemoryError) or re.search("(allocate|out of) memory", reason, re.I):
        advice = "take smaller batches, a smaller model or less data"
        return f"There is not enough memory ({reason or 'it is full'}); {advice}."
    if isinstance(error, RecursionError):
        return "Something that was given is nested too deeply; write it flatter."
    if isinstance(error, UnicodeError):
        return f"Text that was given cannot be read or written ({reason}); write it in UTF-8."
    if not isinstance(error, OSError):
        place = own_place(error)
        told = f"What {place} does fails ({reason or type(error).__name__}); mend that code."
        return told if place else None
    file = f"{error.filename!r:.300}" if error.filename else "A file, or what is printed,"
    advice = "check its place, its permissions and the room there, and give the command again"
    return f"{file} cannot be read or written ({reason}); {advice}."


def storage_error(error: BaseException) -> OSError | None:
    """That of a full or closed disk behind an error, or in its text, as libraries have it."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _STORAGE:
            return cause
        found = re.search(r"\(os error (\d+)\)", str(cause))  # as Rust says it
        if found and int(found[1]) in _STORAGE:
            return OSError(int(found[1]), os.strerror(int(found[1])))
        if "iostream error" in str(cause):  # as C++ says it, which does not know which
            return OSError(errno.EIO, "the disk or a limit on files may be full")
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those behind it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


@contextmanager
def explained(
    sentence: str,
    *errors: type[BaseException],
    kind: type[UserError] = UserError,
    key: str | None = None,
    where: object = None,
) -> Iterator[None]:
    """Turn errors of a library into our sentence, with what they say as its ``{reason}``.

    ``{place}`` in it is where they were raised.

    What is a :class:`UserError` already passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        text = sentence.replace("{reason}", reason_of(error)).replace("{place}", place_of(error))
        raise kind(text, key=key, where=where) from error


def refuse_twice(
    tokens: Iterable[str], where: object, advice: str, kind: type[UserError] = UserError
) -> None:
    """Refuse item tokens of which some occur more than once."""
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:
        told = f"{where}: {len(twice)} item token(s) occur more than once: {name_some(twice)}"
        raise kind(f"{told}; {advice}.", where=where)


def refuse_unknown(
    what: str, tokens: Iterable[str], known: Iterable[str], where: str, advice: str = ""
) -> None:
    """Refuse unknown tokens, if there are any, with what they may have been meant to be.

    ``what``: ``user`` or ``item``.
    ``where``: who does not know them.
    ``advice``: what else to do.
    """
    tokens, known = list(dict.fromkeys(tokens)), list(known)
    if not tokens:
        return
    near = [", ".join(nearest(token, known)) for token in tokens[:5]]
    hints = [f" (nearest: {each})" if each else "" for each in near]
    named = f"{what}{'s' if len(tokens) > 1 else ''} {name_some(tokens, hints=hints)}"
    raise UserError(f"{where} knows no {named}; {advice or 'check the spelling'}.")


def name_some(tokens: Iterable[str], limit: int = 5, hints: Iterable[str] = ()) -> str:
    """Name the first few tokens for an error message: ``'a', 'b', … (12 in all)``.

    ``limit``: how many to spell out.
    ``hints``: what to say behind each.
    """
    tokens = list(tokens)
    shown = zip_longest((repr(str(token)) for token in tokens[:limit]), hints, fillvalue="")
    named = ", ".join(token + hint for token, hint in shown)
    return named if len(tokens) <= limit else f"{named}, … ({len(tokens)} in all)"


def nearest(token: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """At most ``count`` known tokens spelt most like this one, best first."""
    spelt = {one.casefold(): one for one in known}
    folded = token.casefold().strip()
    if folded in spelt:
        return [spelt[folded]]
    alike = [one for one in spelt if len(spelt) <= _MANY or _alike(one, folded)]
    return [spelt[one] for one in difflib.get_close_matches(folded, alike[:_MANY], count, cutoff)]


def _alike(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 2:
        return False
    half = max(1, len(other) // 2)
    return one[:half] == other[:half] or one[-half:] == other[-half:]
