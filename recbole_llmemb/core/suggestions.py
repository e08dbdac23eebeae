"""Tokens that nobody knows, and the nearest ones that somebody does."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from recbole_llmemb.core.errors import UserError

# difflib looks at some ten thousand spellings a second; of more, only alike ones are shown to it.
_MANY = 20_000


def nearest(token: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known tokens spelt most like this one, best first; none where nothing is alike.

    ``count``: at most so many.
    """
    known = list(known)
    folded = token.casefold().strip()
    same = [one for one in known if one.casefold() == folded]
    if same:
        return same[:count]
    if len(known) > _MANY:
        known = [one for one in known if _alike(one, token)]
    return difflib.get_close_matches(token, known[:_MANY], n=count, cutoff=0.6)


def _alike(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 2:
        return False
    half = max(1, len(other) // 2)
    return one[:half] == other[:half] or one[-half:] == other[-half:]


def refuse_unknown(
    what: str, tokens: Collection[str], known: Iterable[str], where: str, advice: str = ""
) -> None:
    """Refuse unknown tokens, naming some and what they may have been meant to be.

    ``what``: ``user`` or ``item``.
    ``tokens``: unknown ones; nothing happens when there are none.
    ``where``: who does not know them.
    ``advice``: what else to do.
    """
    tokens = list(dict.fromkeys(tokens))
    if not tokens:
        return
    known = list(known)
    shown = []
    for token in tokens[:5]:
        near = nearest(token, known)
        shown.append(f"{token!r} (nearest: {', '.join(near)})" if near else repr(token))
    more = "" if len(tokens) <= 5 else f", … ({len(tokens)} in all)"
    plural = "s" if len(tokens) > 1 else ""
    raise UserError(
        f"{where} knows no {what}{plural} {', '.join(shown)}{more}; "
        f"{advice or 'check the spelling'}."
    )
