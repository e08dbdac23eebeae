"""Lists in text, such as ``--users=u1,u2``, whose entries may hold any character."""

from __future__ import annotations

import re

from recbole_llmemb.core.errors import UserError

_QUOTED = r'"((?:[^"]|"")*)"'
_ENTRY = {
    ",": re.compile(rf'\s*(?:{_QUOTED}|([^",\s][^,]*)?)\s*(?:,|$)'),
    " ": re.compile(rf'\s*(?:{_QUOTED}|([^"\s]\S*)?)(?:\s+|$)'),
}


def split_tokens(text: str, separator: str = ",", where: str = "the list") -> list[str]:
    """The entries of a list.

    As in a csv file: an entry that holds the separator, or begins with a quote, stands in double
    quotes, in which a quote is written twice.

    ``separator``: A blank stands for any run of white space.
    ``where``: what to call the text in a message.
    Returns without empty ones, and without the blanks around entries that have no quotes.
    """
    found, at = [], 0
    while at < len(text):
        entry = _ENTRY[separator].match(text, at)
        if entry is None:
            after = "a comma" if separator == "," else "a blank"
            raise UserError(
                f"In {where}, the quote that begins {text[at:].strip()[:40]} has no end with "
                f"{after} after it; write quotes inside an entry twice."
            )
        quoted, plain = entry.groups()
        token = (plain or "").strip() if quoted is None else quoted.replace('""', '"')
        found += [token] if token else []
        at = entry.end()
    return found
