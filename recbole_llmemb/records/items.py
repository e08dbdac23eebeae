"""What a dataset's items are, in words, and histories of users that nobody knows, from files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError, explained, name_some, refuse_twice
from recbole_llmemb.core.files import NO_TEXT, split_tokens
from recbole_llmemb.records.reader import RecordFile, first_lines, open_records
from recbole_llmemb.records.values import is_token, text_of, token_of, wrong_token

_TITLES = ("title", "name")
#: What a field of categories is usually called.
CATEGORY_FIELDS = (
    "category", "categories", "genre", "genres", "class", "main_category", "main_cat",
)  # fmt: skip


@dataclass
class ItemText:
    """Items of a dataset and what their file says about them."""

    tokens: list[str]  # Item tokens in file order, unique
    # For each item its attributes, name to text, in file order; missing ones are not there.
    attributes: list[dict[str, str]]
    fields: list[str]  # The attribute names that were read


@dataclass
class ItemFile:
    """An item file that was looked at, but not read: it is read in one direction, never held."""

    file: RecordFile
    id_field: str
    fields: list[str]  # The attributes that :meth:`rows` gives, in this order

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Item token and attributes of each row; missing ones are not there.

        Lines of text without an item are left out with a warning, as RecBole's dataset goes
        without them.
        """
        bare: list[int] = []
        typed = self.file.kind in ("json", "parquet")
        for number, (given, *values) in self.file.rows([self.id_field, *self.fields]):
            if not (given or typed):
                bare.append(number)
                continue
            try:
                token, texts = self._token(given, number), list(map(text_of, values))
            except (UnicodeDecodeError, RecursionError):
                nested = bytes, list, dict
                bad = [n for n, value in zip(self.fields, values) if isinstance(value, nested)]
                said = f"{name_some(bad)} is no text; leave it out (item_text_fields)"
                said = said if bad else f"{self.id_field} is no text; mend it"
                self.file.refuse(number, said, "item_text_fields")
            yield token, {name: text for name, text in zip(self.fields, texts) if text}
        if bare:
            said = f"{len(bare)} lines left out, which have no {self.id_field}"
            getLogger().warning(f"{self.file.path}: {said}: line {first_lines(bare)}")

    def read(self) -> ItemText:
        """All of it; an item that stands there twice is refused."""
        found = ItemText([], [], self.fields)
        for token, attributes in self.rows():
            found.tokens.append(token)
            found.attributes.append(attributes)
        check_tokens(found.tokens, self)
        return found

    def _token(self, given: Any, number: int) -> str:
        token = token_of(given)
        wrong = wrong_token(token)
        if not is_token(given):
            wrong = f"is {given!r}; it must be text or a whole number, below 2**53 if it is a float"
        if wrong:
            self.file.refuse(number, f"the item token ({self.id_field}) {wrong}")
        return token


def open_items(
    path: str | os.PathLike[str],
    fields: Sequence[str] | str | None = None,
    id_field: str = "item_id",
    field_separator: str = "\t",
    encoding: str = "utf-8",
) -> ItemFile:
    """Look at an item file, which its suffix tells the kind of, without holding its rows.

    ``path``: csv, json or Parquet, or else RecBole's ``.item`` format, whose first line names the
    fields as ``name:type``.
    ``fields``: the attributes to read, in this order. By default all that are text (vectors and
    nested values are none) but the id, in file order.
    ``field_separator``, ``encoding``: as in RecBole's settings; of files of text.
    """
    path = Path(path)
    if not path.is_file():
        told = f"There is no item file {path}; provide it, or give a ready table (llm_table)."
        raise UserError(told, where=path)
    separator = None if field_separator == "\t" else field_separator
    file = open_records(path, otherwise="atomic", delimiter=separator, encoding=encoding, peek=None)
    if isinstance(fields, str):
        fields = [name.strip() for name in fields.strip("[] ").split(",") if name.strip()]
    others = [name for name in file.columns if name != id_field]
    if id_field not in file.columns:
        said = f"it has no field {id_field!r} for the item token, but {', '.join(others)}"
        advice = "set ITEM_ID_FIELD (--item_id_field) to one of these, or rename it"
        file.refuse(0, f"{said}: {advice}", "ITEM_ID_FIELD")
    unknown = [name for name in fields or () if name not in file.columns]
    if unknown:
        said = f"{name_some(unknown)} (item_text_fields), but {', '.join(others)}"
        file.refuse(0, f"it has no field {said}", "item_text_fields")
    return ItemFile(file, id_field, list(fields or (n for n in file.text if n != id_field)))


def read_items(
    path: str | os.PathLike[str],
    fields: Sequence[str] | str | None = None,
    id_field: str = "item_id",
    field_separator: str = "\t",
    encoding: str = "utf-8",
) -> ItemText:
    """Read item tokens and attribute text from an item file.

    Values without words (empty, ``NaN``, ``NULL``, …) are left out; tokens are as they stand. The
    parameters are those of :func:`open_items`.
    """
    return open_items(path, fields, id_field, field_separator, encoding).read()


def open_dataset_items(
    path: str | os.PathLike[str], config: Any, also: Sequence[str] = ()
) -> ItemFile:
    """Look at an item file as a run's settings say how.

    ``also``: fields to read even if they are not text by default, where there are such.
    """
    file = open_items(
        path,
        id_field=config["ITEM_ID_FIELD"],
        field_separator=config["field_separator"],
        encoding=config["encoding"] or "utf-8",
    )
    there = [name for name in also if name in file.file.columns]
    file.fields = list(dict.fromkeys([*file.fields, *there]))
    return file


def check_tokens(tokens: Sequence[str], items: ItemFile) -> None:
    """Refuse a file without items, and one that has an item twice."""
    path = items.file.path
    if not tokens:
        raise UserError(f"{path} has no items below its first line.", where=path)
    other = f"set item_id_field, if it is not {items.id_field} that names them"
    refuse_twice(tokens, path, f"keep one line per item, or {other}")


# -- titles -------------------------------------------------------------------------------


def item_titles(config: Any, field: str | None = None) -> dict[str, str]:
    """Titles by item token, from the dataset's ``.item`` file.

    ``field``: empty: ``item_title_field``, else a field called title or name, or ending so, else
    the first one that the model's text is made of.
    Returns without items that have none; empty where there is no item file. Of several lines of
    an item the first counts, as in training.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        if field:
            raise UserError(f"There is no {path}, so items have no {field!r}; leave --title_field.")
        return {}
    found = open_dataset_items(path, config)
    chosen = field or config["item_title_field"] or _title_field(found.fields, config)
    if field and field not in found.fields:
        told = f"{path} has no field {field!r}, but {', '.join(found.fields) or 'none'}"
        raise UserError(f"{told}; set --title_field to one.", key="title_field", where=path)
    first: dict[str, dict[str, str]] = {}
    for token, attributes in found.rows():
        first.setdefault(token, attributes)
    return {token: one[chosen] for token, one in first.items() if chosen in one}


def first_category(text: str) -> str:
    """The first of several categories: up to a comma or the like, else the first word."""
    text = text.strip(" []'\"")
    for mark in ("|", ";", ">", ","):
        if mark in text:
            return text.partition(mark)[0].strip(" '\"")
    return text.partition(" ")[0]


def title_of(attributes: dict[str, str], config: Any) -> str:
    """The title among an item's attributes; empty where there is none."""
    field = config["item_title_field"] or _title_field(list(attributes), config)
    return attributes.get(field, "")


def _title_field(fields: list[str], config: Any) -> str:
    for name in _TITLES:
        for field in fields:
            if field.lower() == name or field.lower().endswith(f"_{name}"):
                return field
    used = [field for field in config["item_text_fields"] or () if field in fields]
    return next(iter([*used, *fields]), "")


def read_histories(
    path: str | os.PathLike[str],
) -> tuple[list[list[str]], list[str], list[list[float] | None], list[str]]:
    """Histories from a file with a record per history: json lines, or any other that is known.

    A record has ``history`` (a list of item tokens, oldest first, or one string with spaces
    between them) and perhaps ``user`` (what to call it) and ``times`` (a number per item); a line
    of json may be such a list alone.

    Returns lists of histories, names, times (each a list or None) and places (file and line).
    """
    histories: list[list[str]] = []
    times: list[list[float] | None] = []
    names, places = [], []
    file = open_records(path, otherwise="json", peek=0)
    rows = ((number, dict(zip(file.columns, row))) for number, row in file.rows(file.columns))
    for number, value in file.values() if file.kind == "json" else rows:
        place = f"{file.noun} {number}"
        where = f"{path}, {place}"
        value = {"history": value} if isinstance(value, list) else value
        history = value.get("history") if isinstance(value, dict) else None
        if isinstance(history, str):
            history = split_tokens(history, " ", where)
        if not isinstance(history, list):
            told = f'{where} has no history; write {{"history": ["item", "item"]}}, or the list.'
            if file.kind != "json":
                told = f"{where} has no history; call a column so, of items with blanks between."
            raise UserError(told, where=path)
        if wrong := [token for token in history if not is_token(token) or not token_of(token)]:
            told = f"{where} has an item {wrong[0]!r:.100}; write text, or a whole number."
            raise UserError(told, where=path)
        times.append(_times(value.get("times"), len(history), where))
        histories.append([token_of(token) for token in history])
        user = value.get("user")
        name = token_of(user) if is_token(user) else "\0"
        if NO_TEXT.search(name):
            told = f"{where} has a user {user!r:.100}; write text, or a whole number."
            raise UserError(told, where=path)
        names.append(name or place)
        places.append(where)
    if not histories:
        told = "is empty" if file.kind == "json" else "has nothing below its line of names"
        advice = "give one history per line" + ", below user,history" * (file.kind != "json")
        raise UserError(f"{path} {told}; {advice}.", where=path)
    return histories, names, times, places


def _times(given: Any, count: int, where: str) -> list[float] | None:
    if given is None or given == "":
        return None
    given = given.split() if isinstance(given, str) else given
    if not (isinstance(given, list) and len(given) == count):
        raise UserError(f"{where} has times that are not a list with one number per item.")
    wrong = f"{where} has times that are not all numbers."
    if any(isinstance(time, bool) for time in given):
        raise UserError(wrong)
    with explained(wrong, TypeError, ValueError, OverflowError):
        found = [float(time) for time in given]
    if not all(map(math.isfinite, found)):
        raise UserError(wrong)
    if found != sorted(found):
        raise UserError(f"{where} has times that fall; write the oldest item first.")
    return found
