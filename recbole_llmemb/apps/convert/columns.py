"""Which column is the user, which the item, the time and the rating."""

from __future__ import annotations

from recbole_llmemb.core.errors import UserError, nearest

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
    Returns "": there is none, and none is needed.
    """
    option = option or f"--{role}"
    if given is not None:
        if given not in columns and given == "none" and role in ("time", "rating"):
            return ""
        return _there(given, columns, where, option)
    found = [name for name in columns if plain(name) in KNOWN[role]]
    keys = {plain(name) for name in found}
    found = [
        name
        for name in found
        if not any(worse == plain(name) and better in keys for better, worse in _BETTER)
    ]
    if len(found) > 1:
        either = f"{', '.join(map(repr, found[:-1]))} and {found[-1]!r} each"
        raise UserError(
            f"{where}: {either} could be the {role}; say which with {option}=COLUMN.",
            key=option[2:],
            where=where,
        )
    if found:
        return found[0]
    if not _NEEDED[role]:
        return ""
    more = ""
    if role == "time":
        more = ", or --time=none where the lines are in the order of time"
    raise UserError(
        f"{where}: no column looks like the {role}, it has {', '.join(columns)}; name it with "
        f"{option}=COLUMN{more}.",
        key=option[2:],
        where=where,
    )


def text_fields(columns: list[str], given: list[str] | None, item: str, where: str) -> list[str]:
    """The columns that make an item's text: those given, those known, or all of them."""
    others = [name for name in columns if name != item]
    if given:
        return list(dict.fromkeys(_there(name, others, where, "--item_fields") for name in given))
    if not others:
        raise UserError(
            f"{where} has nothing but the item's id; give a file that says what the items are."
        )
    known = [name for name in others if plain(name) in TEXT]
    return sorted(known, key=lambda name: TEXT.index(plain(name))) or others


def plain(name: str) -> str:
    """A column's name without case, blanks, underscores and hyphens."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _there(name: str, columns: list[str], where: str, option: str) -> str:
    """A column that somebody named, which must be there."""
    if name not in columns:
        near = nearest(name, columns, 1)
        raise UserError(
            f"{where} has no column {name!r} ({option}), it has {', '.join(columns)}"
            + (f"; did you mean {near[0]}?" if near else "."),
            key=option[2:],
            where=where,
        )
    return name
