"""Which column is the user, which the item, the time and the rating."""

from __future__ import annotations

import difflib

from recbole_llmemb.core.errors import UserError

#: Names by which a column is known, without case, blanks and underscores.
KNOWN = {
    "user": (
        "userid", "user", "uid", "reviewerid", "customerid", "visitorid", "memberid",
        "authorid", "accountid",
    ),
    "item": (
        "itemid", "item", "iid", "parentasin", "asin", "productid", "product", "movieid",
        "bookid", "isbn", "sku", "businessid", "trackid", "songid", "articleid", "newsid",
        "gmapid", "appid",
    ),
    "time": (
        "timestamp", "time", "unixreviewtime", "reviewtime", "datetime", "date", "eventtime",
        "createdat", "ts", "unixtime",
    ),
    "rating": ("rating", "overall", "stars", "starrating", "score", "reviewrating"),
}  # fmt: skip
# Of each pair both may be there, and the first one is meant.
_BETTER = {("parentasin", "asin"), ("unixreviewtime", "reviewtime"), ("itemid", "item"),
           ("userid", "user"), ("timestamp", "date"), ("timestamp", "datetime")}  # fmt: skip
_NEEDED = {"user": True, "item": True, "time": True, "rating": False}
AMAZON = {"user": "user_id", "item": "parent_asin", "time": "timestamp", "rating": "rating"}

#: Columns that say something of an item, in the order in which an item's text has them.
TEXT = (
    "title", "name", "producttitle", "productname", "movietitle", "booktitle", "itemname",
    "brand", "store", "author", "authors", "artist", "director", "publisher", "maincategory",
    "category", "categories", "genre", "genres", "class", "tags", "keywords", "releaseyear",
    "year", "price", "features", "description", "abstract", "summary",
)  # fmt: skip


def find(role: str, columns: list[str], given: str | None, where: str, option: str | None = None):
    """The column of a role.

    ``columns``: those there are.
    ``given``: the name that somebody gave; ``none`` where there is to be none.
    ``where``: the file, for messages.
    ``option``: what to say it with, by default ``--`` and the role.
    Returns None: there is none, and none is needed.
    """
    option = option or f"--{role}"
    there = f"it has {', '.join(columns)}"
    if given is not None:
        if given in columns:
            return given
        if given == "none" and role in ("time", "rating"):
            return None
        near = difflib.get_close_matches(given, columns, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"{where} has no column {given!r} ({option}), {there}{hint}")
    found = [name for name in columns if plain(name) in KNOWN[role]]
    keys = {plain(name) for name in found}
    found = [
        name
        for name in found
        if not any(worse == plain(name) and better in keys for better, worse in _BETTER)
    ]
    if len(found) > 1:
        raise UserError(
            f"{where}: {_either(found)} could be the {role}; say which with {option}=COLUMN."
        )
    if found:
        return found[0]
    if not _NEEDED[role]:
        return None
    more = ""
    if role == "time":
        more = ", or --time=none where the lines are in the order of time"
    raise UserError(
        f"{where}: no column looks like the {role}, {there}; name it with {option}=COLUMN{more}."
    )


def text_fields(columns: list[str], given: list[str] | None, item: str, where: str) -> list[str]:
    """The columns that make an item's text: those given, those known, or all of them."""
    others = [name for name in columns if name != item]
    if given:
        for name in given:
            if name not in others:
                near = difflib.get_close_matches(name, others, n=1)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise UserError(
                    f"{where} has no column {name!r} (--item_fields), it has "
                    f"{', '.join(others)}{hint}"
                )
        return list(dict.fromkeys(given))
    if not others:
        raise UserError(
            f"{where} has nothing but the item's id; give a file that says what the items are."
        )
    known = [name for name in others if plain(name) in TEXT]
    return sorted(known, key=lambda name: TEXT.index(plain(name))) or others


def plain(name: str) -> str:
    """A column's name without case, blanks, underscores and hyphens."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _either(names):
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r} each"
