"""Text that is read: files as they are, and lists such as ``--users=u1,u2``."""

from __future__ import annotations

import os
import re

from recbole_llmemb.core.errors import UserError, reason_of

AnyPath = str | os.PathLike[str]
_QUOTED = r'"((?:[^"]|"")*)"'
_ENTRY = {
    ",": re.compile(rf'\s*(?:{_QUOTED}|([^",\s][^,]*)?)\s*(?:,|$)'),
    " ": re.compile(rf'\s*(?:{_QUOTED}|([^"\s]\S*)?)(?:\s+|$)'),
}


def text_encoding(encoding: str | None) -> str:
    """The encoding to read a text file with: UTF-8 may begin with a byte order mark."""
    encoding = encoding or "utf-8"
    plain = encoding.lower().replace("_", "-")
    return "utf-8-sig" if plain in ("utf-8", "utf8") else encoding


def lines_of(path: AnyPath, encoding: str | None = None) -> list[str]:
    """Lines of a text file without their ends; a lone carriage return is none."""
    with open(path, encoding=text_encoding(encoding), newline="\n") as file:
        return [line.removesuffix("\r") for line in file.read().split("\n")]


def first_line(path: AnyPath, encoding: str | None) -> str:
    """The first line of a text file, as :func:`lines_of` has it."""
    try:
        with open(path, encoding=text_encoding(encoding), newline="\n") as file:
            return file.readline().removesuffix("\n").removesuffix("\r")
    except (ValueError, LookupError) as error:
        raise UserError(wrong_encoding(path, encoding, error)) from None


def wrong_encoding(path: AnyPath, encoding: str | None, error: Exception) -> str:
    """A sentence for a file that cannot be decoded."""
    return (
        f"{path} cannot be read as {encoding or 'utf-8'} ({reason_of(error)}); set encoding to "
        "that of the file, as in --encoding=latin-1."
    )


def split_tokens(text: str, separator: str = ",", where: str = "the list") -> list[str]:
    """The entries of a list, which may hold any character.

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
