"""Which column is the user, which the item, the time and the rating."""

from __future__ import annotations

from recbole_llmemb.core.errors import UserError, nearest

#: Names by which a column is known, without case, blanks and underscores.
KNOWN = {
    "user": (
        "userid", "user", "uid", "reviewerid", "customerid", "customer", "customernumber",
        "clientid", "client", "buyerid", "buyer", "shopperid", "shopper", "visitorid", "visitor",
        "memberid", "member", "personid", "person", "authorid", "accountid", "account",
    ),
    "item": (
        "itemid", "item", "iid", "parentasin", "asin", "productid", "product", "productcode",
        "movieid", "bookid", "isbn", "sku", "ean", "gtin", "businessid", "trackid", "songid",
        "articleid", "article", "articlenumber", "newsid", "gmapid", "appid",
    ),
    "time": (
        "timestamp", "time", "unixreviewtime", "reviewtime", "datetime", "date", "eventtime",
        "eventdate", "createdat", "orderedat", "orderdate", "ordertime", "purchasedat",
        "purchasedate", "boughtat", "clickedat", "viewedat", "playedat", "watchedat", "ts",
        "unixtime",
    ),
    "rating": ("rating", "overall", "stars", "starrating", "score", "reviewrating"),
}  # fmt: skip
# Of each pair both may be there, and the first one is meant; so it is of ``customer_id`` and
# ``customer``. Where a file says what the items are, its ``id`` is theirs if nothing else is.
_BETTER = {("parentasin", "asin"), ("unixreviewtime", "reviewtime"), ("timestamp", "date"),
           ("timestamp", "datetime")}  # fmt: skip
_OF_ITEMS = ("id", "code")
_NEEDED = {"user": True, "item": True, "time": True, "rating": False}
AMAZON = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}

#: Columns that say something of an item, in the order in which an item's text has them.
TEXT = (
    "title", "name", "producttitle", "productname", "movietitle", "booktitle", "itemname",
    "brand", "store", "author", "authors", "artist", "director", "publisher", "maincategory",
    "category", "categories", "genre", "genres", "class", "tags", "keywords", "releaseyear",
    "year", "price", "features", "description", "abstract", "summary",
)  # fmt: skip


def find(given: dict[str, str | None], columns: list[str], where: str) -> dict[str, str]:
    """The columns of an interaction file by role; "" for one that is not needed.

    ``given``: the name that somebody gave for each role, if any; ``none``: there is to be none.
    ``columns``: those there are.
    ``where``: the file, for messages.
    """
    found, missing = {}, []
    for role, name in given.items():
        if name == "none" and name not in columns and role in ("time", "rating"):
            found[role] = ""
        elif name is not None:
            found[role] = _there(name, columns, where, f"--{role}")
        else:
            found[role] = _known(role, columns, where, f"--{role}")
            if not found[role] and _NEEDED[role]:
                missing.append(role)
    if missing:
        # All at once, so that one more try is enough.
        more = ", or --time=none where the lines are in the order of time"
        raise UserError(
            f"{where}: no column looks like the {' or the '.join(missing)}, it has "
            f"{', '.join(columns)}; name it with "
            f"{' and '.join(f'--{role}=COLUMN' for role in missing)}"
            f"{more if 'time' in missing else ''}.",
            key=missing[0],
            where=where,
        )
    return found


def find_item(given: str | None, columns: list[str], where: str) -> str:
    """The column of the item in a file that says what the items are."""
    if given is not None:
        return _there(given, columns, where, "--items_id")
    found = _known("item", columns, where, "--items_id")
    found = found or next((name for name in columns if plain(name) in _OF_ITEMS), "")
    if not found:
        raise UserError(
            f"{where}: no column looks like the item, it has {', '.join(columns)}; name it with "
            "--items_id=COLUMN.",
            key="items_id",
            where=where,
        )
    return found


def _known(role, columns, where, option):
    """The one column that is known as this role, or ""."""
    found = [name for name in columns if plain(name) in KNOWN[role]]
    keys = {plain(name) for name in found}
    worse = {bad for good, bad in _BETTER if good in keys}
    worse |= {key.removesuffix("id") for key in keys if key.endswith("id")}
    found = [name for name in found if plain(name) not in worse]
    if len(found) > 1:
        either = f"{', '.join(map(repr, found[:-1]))} and {found[-1]!r} each"
        raise UserError(
            f"{where}: {either} could be the {role}; say which with {option}=COLUMN.",
            key=option[2:],
            where=where,
        )
    return found[0] if found else ""


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
