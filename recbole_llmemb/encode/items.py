"""The raw text of RecBole's ``.item`` files.

RecBole itself splits text into ids when it loads a dataset, so the text is read here, beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_llmemb.errors import UserError, name_some

# What pandas, and so RecBole, reads as a missing value.
_MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"]
    + ["<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
)

# A field in quotes whose inner quotes are all doubled: what a CSV writer makes of awkward text.
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass
class ItemText:
    """Items of a dataset and what their file says about them.

    Attributes
    ----------
    tokens : list of str
        Item tokens in file order, unique.
    attributes : list of dict
        For each item its attributes, name to text, in file order; missing ones are not there.
    fields : list of str
        The attribute names that were read.
    """

    tokens: list[str]
    attributes: list[dict[str, str]]
    fields: list[str]


def read_items(
    path: str | os.PathLike,
    fields: Sequence[str] | None = None,
    id_field: str = "item_id",
    field_separator: str = "\t",
    encoding: str = "utf-8",
) -> ItemText:
    """Read item tokens and attribute text from an atomic ``.item`` file.

    Lines are split at the separator and nothing else, so that a stray quote in a title does not
    swallow the lines after it; only fields entirely in quotes lose them. Values that RecBole
    would read as missing (empty, ``NaN``, ``NULL``, …) are left out.

    Parameters
    ----------
    path : path
        The file; its first line names the fields as ``name:type``.
    fields : sequence of str, optional
        The attributes to read, in this order. By default all but the id and ``float_seq`` ones
        (vectors are no text), in file order.
    id_field : str
        The field of the item token.
    field_separator : str
        As RecBole's ``field_separator``.
    encoding : str
        As RecBole's ``encoding``.

    Raises
    ------
    UserError
        When the file is absent or not as said, a field is unknown, a token is empty or occurs
        twice.
    """
    path = Path(path)
    try:
        with open(path, encoding=encoding) as file:
            lines = file.read().split("\n")
    except FileNotFoundError as error:
        raise UserError(
            f"There is no item file {path}; the item text is needed to encode the items: provide "
            "it, or give a ready table (llm_table)."
        ) from error
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"The item file {path} cannot be read: {error}.") from error

    names, kinds = _read_header(lines[0], field_separator, path)
    if id_field not in names:
        raise UserError(
            f"{path} has no field {id_field!r} for the item token; it has {', '.join(names)}: "
            "set ITEM_ID_FIELD to one of these."
        )
    wanted = _choose(fields, names, kinds, id_field, path)
    columns = [(name, names.index(name)) for name in wanted]
    id_column = names.index(id_field)

    tokens: list[str] = []
    attributes: list[dict[str, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values = line.split(field_separator)
        if len(values) > len(names):
            raise UserError(
                f"{path}, line {number}: {len(values)} fields where the first line names "
                f"{len(names)}; check the field separator."
            )
        values = [_unquote(value) for value in values]
        token = values[id_column] if id_column < len(values) else ""
        if not token:
            raise UserError(f"{path}, line {number}: the item token ({id_field}) is empty.")
        tokens.append(token)
        attributes.append(
            {
                name: values[column].strip()
                for name, column in columns
                if column < len(values) and values[column].strip() not in _MISSING
            }
        )
    if not tokens:
        raise UserError(f"{path} has no items below its first line.")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = dict.fromkeys(token for token in tokens if token in seen or seen.add(token))
        raise UserError(
            f"{path}: {len(twice)} item token(s) occur more than once: {name_some(twice)}; "
            "keep one line per item."
        )
    return ItemText(tokens=tokens, attributes=attributes, fields=wanted)


def _read_header(line: str, separator: str, path: Path) -> tuple[list[str], list[str]]:
    names, kinds = [], []
    for column in line.split(separator):
        name, colon, kind = column.strip().rpartition(":")
        if not colon or not name:
            raise UserError(
                f"{path}: the first line must name the fields as name:type, "
                f"but {column[:40]!r} is not; check the file and the field separator."
            )
        names.append(name)
        kinds.append(kind)
    return names, kinds


def _choose(
    fields: Sequence[str] | None, names: list[str], kinds: list[str], id_field: str, path: Path
) -> list[str]:
    if not fields:
        return [
            name
            for name, kind in zip(names, kinds, strict=True)
            if name != id_field and kind != "float_seq"
        ]
    if isinstance(fields, str):
        fields = [name.strip() for name in fields.strip("[] ").split(",") if name.strip()]
    unknown = [name for name in fields if name not in names]
    if unknown:
        raise UserError(
            f"{path} has no field {name_some(unknown)} (item_text_fields); "
            f"it has {', '.join(name for name in names if name != id_field)}."
        )
    return list(fields)


def _unquote(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    return quoted.group(1).replace('""', '"') if quoted else value
