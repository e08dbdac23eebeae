"""Which column is the user, the item, the time, the rating; and the text of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llmemb.apps.convert import Report
from recbole_llmemb.core.errors import UserError, name_some, nearest
from recbole_llmemb.records.reader import RecordFile
from recbole_llmemb.records.values import is_number, kept_token, text_of

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
AMAZON = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}

#: Columns that say something of an item, in the order in which an item's text has them.
TEXT = (
    "title", "name", "producttitle", "productname", "movietitle", "booktitle", "itemname",
    "brand", "store", "author", "authors", "artist", "director", "publisher", "maincategory",
    "category", "categories", "genre", "genres", "class", "tags", "keywords", "releaseyear",
    "year", "price", "features", "description", "abstract", "summary",
)  # fmt: skip
# What others have made of an item is known from interactions, those that are tested included.
_OF_RATINGS = {
    "averagerating", "avgrating", "meanrating", "rating", "ratings", "stars", "ratingnumber",
    "ratingcount", "ratingscount", "numratings", "reviewcount", "numreviews",
}  # fmt: skip
# Names that RecBole uses for the interactions.
_TAKEN = {"user_id", "item_id", "rating", "timestamp"}


def find(given: dict[str, str | None], columns: list[str], where: str) -> dict[str, str]:
    """The columns of an interaction file by role; "" for one that is not needed.

    ``given``: the name that somebody gave for each role, if any; ``none``: there is to be none.
    """
    found, missing = {}, []
    for role, name in given.items():
        if name == "none" and name not in columns and role in ("time", "rating"):
            found[role] = ""
            continue
        found[role] = _find(role, name, columns, where, role)
        if not found[role] and role != "rating":
            missing.append(role)
    if missing:  # all at once, so that one more try is enough
        more = ", or --time=none where the lines are in the order of time"
        raise _none_known(missing, missing, columns, where, more if "time" in missing else "")
    for role, column in found.items():
        other = next(one for one in found if found[one] == column)
        if column and other != role:
            told = f"{where}: {column!r} cannot be both the {other} and the {role}"
            advice = f"name another column with --{other} or --{role}"
            raise UserError(f"{told}; {advice}.", key=role, where=where)
    return found


def find_item(given: str | None, columns: list[str], where: str) -> str:
    """The column of the item in a file that says what the items are."""
    found = _find("item", given, columns, where, "items_id")
    found = found or next((name for name in columns if plain(name) in _OF_ITEMS), "")
    if not found:
        raise _none_known(["item"], ["items_id"], columns, where)
    return found


def _none_known(roles, options, columns, where, more="") -> UserError:
    told = f"{where}: no column looks like the {' or the '.join(roles)}"
    name = " and ".join(f"--{option}=COLUMN" for option in options)
    more += "" if len(columns) > 1 else ", or set --delimiter (of json: one object per record)"
    told = f"{told}, it has {', '.join(columns)}; name it with {name}{more}."
    return UserError(told, key=options[0], where=where)


def _find(role, given, columns, where, option):
    """The column that ``option`` names, or else the one that is known as this role, or ""."""
    if given is not None:
        return _there(given, columns, where, option)
    found = [name for name in columns if plain(name) in KNOWN[role]]
    keys = {plain(name) for name in found}
    worse = {bad for good, bad in _BETTER if good in keys}
    worse |= {key.removesuffix("id") for key in keys if key.endswith("id")}
    found = [name for name in found if plain(name) not in worse]
    if len(found) > 1:
        either = f"{', '.join(map(repr, found[:-1]))} and {found[-1]!r} each"
        told = f"{where}: {either} could be the {role}; say which with --{option}=COLUMN."
        raise UserError(told, key=option, where=where)
    return found[0] if found else ""


def text_fields(columns: list[str], given: list[str] | None, item: str, where: str) -> list[str]:
    """The columns that make an item's text: those given, those known, or all of them."""
    others = [name for name in columns if name != item]
    if given:
        return list(dict.fromkeys(_there(name, others, where, "item_fields") for name in given))
    others = [name for name in others if plain(name) not in _OF_RATINGS]
    if not others:
        told = f"{where} has nothing but the items' ids, or what ratings of them have given"
        raise UserError(f"{told}; give a file that says more.", key="items", where=where)
    known = [name for name in others if plain(name) in TEXT]
    return sorted(known, key=lambda name: TEXT.index(plain(name))) or others


def plain(name: str) -> str:
    """A column's name without case, blanks, underscores and hyphens."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _there(name: str, columns: list[str], where: str, option: str) -> str:
    """A column that somebody named, which must be there."""
    if name not in columns:
        hint = "".join(f"; did you mean {near}?" for near in nearest(name, columns, 1)) or "."
        told = f"{where} has no column {name!r} (--{option}), it has {', '.join(columns)}{hint}"
        raise UserError(told, key=option, where=where)
    return name


@dataclass
class ItemLines:
    """Lines of the items to keep, on disk."""

    path: Path  # One line per item, without a header: number of the item, then its fields
    tokens: list[str]  # Items by number: those of interactions, then any others that are kept
    fields: list[str]  # Names of the fields, as RecBole will know them
    numeric: list[bool]  # Which hold numbers in all lines where they hold anything
    has: np.ndarray  # (n_items,): Items of which there is a line
    empty: np.ndarray  # (n_items,): Of these, the ones with nothing in it
    rows: Report  # What was read and left out


def check_names(columns: Sequence[str]) -> None:
    """Refuse columns that would be one field, as an ``.item`` file names fields."""
    names = [_name(column) for column in columns]
    twice = [column for column, name in zip(columns, names) if names.count(name) > 1]
    if twice:
        told = f"The columns {name_some(twice)} would both be the field {_name(twice[0])}"
        raise UserError(f"{told}; name those to keep with --item_fields.", key="item_fields")


def gather(
    files: Sequence[tuple[RecordFile, str]],
    fields: Sequence[str],
    item_tokens: Sequence[str],
    path: Path,
    progress: bool = True,
    others: bool = False,
) -> ItemLines:
    """Read files of items once; keep on disk what is said of those with interactions.

    ``files`` (RecordFile, str): each with its column of the item.
    ``others``: keep the items without interactions, too.
    """
    numbers = {name: number for number, name in enumerate(item_tokens)}
    has, empty = set(), set()
    rows = Report()
    read, malformed = rows.row("item lines read"), rows.row("  - malformed lines")
    no_item = rows.row("  - without item")
    odd = rows.row("  - whose item is no plain text or whole number")
    repeated = rows.row("  - of an item that was there already")
    unmet = rows.row("  - of items without interactions")
    kinds: list[set[bool]] = [set() for _ in fields]  # Whether what a field holds are numbers
    with open(path, "w", encoding="utf-8", newline="") as output:
        for file, column in files:
            where = "line " if len(files) == 1 else f"{file.path.name} line "
            # A file may lack a column that another one has.
            own = [name for name in fields if name in file.columns]
            for lines, columns in file.pieces([column, *own], malformed.within(where), progress):
                read.count += len(lines)
                for line, (given, *values) in zip(lines, zip(*columns)):
                    item = kept_token(given)
                    if item and others:
                        numbers.setdefault(item, len(numbers))
                    number = numbers.get(item or "")
                    if item is None:
                        odd.add([line], where)
                    elif not item:
                        no_item.add([line], where)
                    elif number is None:
                        unmet.count += 1
                    elif number in has:
                        repeated.add([line], where)
                    else:
                        said = dict(zip(own, map(text_of, values)))
                        cells = [said.get(name, "") for name in fields]
                        has.add(number)
                        if not any(cells):
                            empty.add(number)
                        for kind, cell in zip(kinds, cells):
                            if cell:
                                kind.add(is_number(cell))
                        output.write(line_of([number, *cells]))
    read.count += malformed.count
    if not odd.count:
        rows.remove(odd)
    numeric = [kind == {True} for kind in kinds]
    has_line, bare = (np.isin(np.arange(len(numbers)), list(some)) for some in (has, empty))
    names = [_name(field) for field in fields]
    return ItemLines(path, list(numbers), names, numeric, has_line, bare, rows)


def _name(column):
    name = "_".join(column.replace(":", " ").split())
    return f"item_{name}" if name in _TAKEN else name


def line_of(cells) -> str:
    """A line of an atomic file; the cells hold neither tabs nor line breaks."""
    return "\t".join(map(str, cells)) + "\n"
