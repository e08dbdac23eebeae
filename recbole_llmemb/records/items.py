"""The raw text of items.

RecBole itself splits text into ids when it loads a dataset, so the text is read here, beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.records.item_files import (
    JSON_SUFFIXES,
    PARQUET_SUFFIXES,
    AtomicItems,
    ItemFile,
    JsonItems,
    ParquetItems,
)


@dataclass
class ItemText:
    """Items of a dataset and what their file says about them."""

    tokens: list[str]  # Item tokens in file order, unique
    # For each item its attributes, name to text, in file order; missing ones are not there.
    attributes: list[dict[str, str]]
    fields: list[str]  # The attribute names that were read


def open_items(
    path: str | os.PathLike,
    fields: Sequence[str] | None = None,
    id_field: str = "item_id",
    field_separator: str = "\t",
    encoding: str = "utf-8",
    seen: bool = False,
) -> ItemFile:
    """Look at an item file, which its suffix tells the kind of, without holding its rows.

    ``path``: ``.parquet``, ``.jsonl`` (one object per line), or else RecBole's ``.item`` format,
    whose first line names the fields as ``name:type``.
    ``fields``: the attributes to read, in this order. By default all that are text (vectors and
    nested values are none) but the id, in file order.
    ``id_field``: the field of the item token.
    ``field_separator``, ``encoding``: as in RecBole's settings; of ``.item`` files.
    ``seen``: ``fields`` were found in this very file before.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        return ParquetItems(path, fields, id_field)
    if suffix in JSON_SUFFIXES:
        return JsonItems(path, fields, id_field, seen)
    return AtomicItems(path, fields, id_field, field_separator, encoding)


def read_items(
    path: str | os.PathLike,
    fields: Sequence[str] | None = None,
    id_field: str = "item_id",
    field_separator: str = "\t",
    encoding: str = "utf-8",
) -> ItemText:
    """Read item tokens and attribute text from an item file.

    Values without words (empty, ``NaN``, ``NULL``, …) are left out; tokens are as they stand. The
    parameters are those of :func:`open_items`.
    """
    file = open_items(path, fields, id_field, field_separator, encoding)
    tokens: list[str] = []
    attributes: list[dict[str, str]] = []
    for token, texts in file.rows():
        tokens.append(token)
        attributes.append(texts)
    check_tokens(tokens, file.path)
    return ItemText(tokens=tokens, attributes=attributes, fields=file.fields)


def check_tokens(tokens: Sequence[str], path: Path) -> None:
    """Refuse a file without items, and one that has an item twice."""
    if not tokens:
        raise UserError(f"{path} has no items below its first line.")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = dict.fromkeys(token for token in tokens if token in seen or seen.add(token))
        raise UserError(
            f"{path}: {len(twice)} item token(s) occur more than once: {name_some(twice)}; "
            "keep one line per item."
        )
