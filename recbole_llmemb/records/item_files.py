"""Files that hold items, row by row: RecBole's ``.item`` files, JSON lines, Parquet.

A file is read in one direction and never held whole. Every row has a place, from which another
process may read on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.core.files import text_encoding, wrong_encoding
from recbole_llmemb.records.values import is_broken, is_token, is_vector, text_of, token_of

Row = tuple[str, dict[str, str]]

PARQUET_SUFFIXES = (".parquet", ".pq")
JSON_SUFFIXES = (".jsonl", ".ndjson")

_ROWS_AT_ONCE = 4096


class ItemFile:
    """An item file that was looked at, but not read.

    ``fields``: The attributes that :meth:`rows` gives, in this order.
    """

    def __init__(self, path: Path, id_field: str):
        self.path, self.id_field = path, id_field
        self.fields: list[str] = []
        self._place: Callable[[], int] = lambda: 0

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Item token and attributes of each row, from a place on; missing ones are not there."""
        raise NotImplementedError

    def place(self) -> int:
        """Where the row begins that comes after the one that :meth:`rows` gave last."""
        return self._place()

    def _choose(self, wanted: Sequence[str] | str | None, names: list[str], text: list[str]):
        """Set :attr:`fields`: those asked for, else all of ``text``."""
        if self.id_field not in names:
            raise UserError(
                f"{self.path} has no field {self.id_field!r} for the item token; it has "
                f"{', '.join(names)}: set ITEM_ID_FIELD (--item_id_field) to one of these, or "
                f"rename it to {self.id_field}, if that is its name in other files."
            )
        if isinstance(wanted, str):
            wanted = [name.strip() for name in wanted.strip("[] ").split(",") if name.strip()]
        unknown = [name for name in wanted or () if name not in names]
        if unknown:
            raise UserError(
                f"{self.path} has no field {name_some(unknown)} (item_text_fields); "
                f"it has {', '.join(name for name in names if name != self.id_field)}."
            )
        self.fields = list(wanted) if wanted else [name for name in text if name != self.id_field]

    def _row(self, where: str, values: dict[str, Any]) -> Row:
        """A row of values that have types."""
        given = values.get(self.id_field)
        if not is_token(given):
            raise UserError(
                f"{self.path}, {where}: the item token ({self.id_field}) is {given!r}; it must be "
                "text or a whole number."
            )
        token = token_of(given)
        self._check_token(token, where)
        texts = {}
        for name in self.fields:
            value = values.get(name)
            if isinstance(value, bytes):
                raise UserError(
                    f"{self.path}, {where}: {name} is no text; leave it out (item_text_fields)."
                )
            if text := text_of(value):
                texts[name] = text
        return token, texts

    def _check_token(self, token: str, where: str) -> None:
        if not token:
            raise UserError(f"{self.path}, {where}: the item token ({self.id_field}) is empty.")
        if "\n" in token or "\r" in token:
            raise UserError(f"{self.path}, {where}: the item token {token!r} holds a line break.")
        if is_broken(token):
            raise UserError(f"{self.path}, {where}: the item token {token!r} is no text.")


class _TextFile(ItemFile):
    encoding = "utf-8"

    def _lines(self, start: int = 0) -> Iterator[str]:
        """Lines without their ends. A place is what ``tell`` gives, whatever the encoding."""
        try:
            with open(self.path, encoding=text_encoding(self.encoding), newline="\n") as file:
                if start:
                    file.seek(start)
                self._place = file.tell
                while line := file.readline():
                    yield line.removesuffix("\n").removesuffix("\r")
        except FileNotFoundError as error:
            raise UserError(
                f"There is no item file {self.path}; the item text is needed to encode the items: "
                "provide it, or give a ready table (llm_table)."
            ) from error
        except (UnicodeError, LookupError) as error:
            raise UserError(wrong_encoding(self.path, self.encoding, error)) from error
        except (OSError, ValueError) as error:
            raise UserError(f"The item file {self.path} cannot be read: {error}.") from error


class AtomicItems(_TextFile):
    """RecBole's ``.item`` file; its first line names the fields as ``name:type``.

    Lines are split at the separator and nothing else: quotes are characters. Those without an
    item are left out with a warning.
    """

    _told = False

    def __init__(self, path, fields, id_field, field_separator="\t", encoding="utf-8"):
        super().__init__(path, id_field)
        self.encoding, self._separator = encoding, field_separator
        lines = self._lines()
        first = next(lines, "")
        lines.close()
        names, kinds = self._read_header(first)
        # Vectors are no text.
        text = [n for n, kind in zip(names, kinds, strict=True) if kind != "float_seq"]
        self._choose(fields, names, text)
        self._names = names

    def _read_header(self, line: str) -> tuple[list[str], list[str]]:
        names, kinds = [], []
        for column in line.split(self._separator):
            name, colon, kind = column.strip().rpartition(":")
            if not colon or not name:
                raise UserError(
                    f"{self.path}: the first line must name the fields as name:type, "
                    f"but {column[:40]!r} is not; check the file and the field separator."
                )
            names.append(name)
            kinds.append(kind)
        return names, kinds

    def rows(self, start: int = 0) -> Iterator[Row]:
        columns, bare = [(name, self._names.index(name)) for name in self.fields], []
        id_column = self._names.index(self.id_field)
        lines = self._lines(start)
        if not start:
            next(lines)
        for number, line in enumerate(lines, start=2):
            if not line.strip():
                continue
            values = line.split(self._separator)
            if any(value.strip() for value in values[len(self._names) :]):
                raise UserError(
                    f"{self.path}, line {number}: {len(values)} fields where the first line names "
                    f"{len(self._names)}; check the field separator."
                )
            token = values[id_column] if id_column < len(values) else ""
            if not token:  # RecBole's dataset goes without such lines, too
                bare.append(number)
                continue
            self._check_token(token, f"line {number}")
            texts = {}
            for name, column in columns:
                if text := text_of(values[column]) if column < len(values) else "":
                    texts[name] = text
            yield token, texts
        if bare and not start and not self._told:
            self._told = True
            named = ", ".join(map(str, bare[:5])) + (", …" if len(bare) > 5 else "")
            getLogger().warning(
                f"{self.path}: {len(bare)} lines left out, which have no {self.id_field}: "
                f"line {named}"
            )


class JsonItems(_TextFile):
    """One JSON object per line. Objects may have different fields.

    ``seen``: the fields were read from this file before: it is not read through for them again.
    """

    def __init__(self, path, fields, id_field, seen=False):
        super().__init__(path, id_field)
        if seen:
            self.fields = list(fields)
            return
        names: dict[str, bool] = {}  # in order of appearance, and whether it is text so far
        for _, values in self._objects():
            for name, value in values.items():
                names[name] = names.get(name, True) and not is_vector(value)
        if not names:
            raise UserError(f"{path} has no items.")
        self._choose(fields, list(names), [name for name, is_text in names.items() if is_text])

    def _objects(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._lines(start), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"{self.path}, line {number} is not JSON: {reason}.") from error
            if not isinstance(values, dict):
                raise UserError(
                    f"{self.path}, line {number} is not a JSON object with a field per attribute."
                )
            yield number, values

    def rows(self, start: int = 0) -> Iterator[Row]:
        for number, values in self._objects(start):
            yield self._row(f"line {number}", values)


class ParquetItems(ItemFile):
    """A Parquet file; places are row numbers, and rows are skipped by row group."""

    def __init__(self, path, fields, id_field):
        super().__init__(path, id_field)
        schema = self._open().schema_arrow
        names = list(schema.names)
        self._choose(fields, names, [name for name in names if _is_text(schema.field(name).type)])

    def _open(self):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(
                f"Reading {self.path} needs pyarrow: pip install 'recbole-llmemb[parquet]'."
            ) from error
        if not self.path.is_file():
            raise UserError(f"There is no item file {self.path}.")
        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        reason = str(error).partition("\n")[0].rstrip(".")
        return UserError(f"The item file {self.path} cannot be read: {reason}.")

    def rows(self, start: int = 0) -> Iterator[Row]:
        file = self._open()
        group, number = 0, 0
        while group < file.num_row_groups:
            size = file.metadata.row_group(group).num_rows
            if number + size > start:
                break
            group, number = group + 1, number + size
        batches = self._batches(file, range(group, file.num_row_groups))
        self._place = lambda: number
        for values in itertools.chain.from_iterable(map(_rows_of, batches)):
            number += 1
            if number > start:
                yield self._row(f"row {number}", values)

    def _batches(self, file, groups: range):
        import pyarrow

        columns = list(dict.fromkeys([self.id_field, *self.fields]))
        batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=list(groups), columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError) as error:
                raise self._unreadable(error) from error
            if batch is None:
                return
            yield batch


def _rows_of(batch) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        yield dict(zip(names, values, strict=True))


def _is_text(kind) -> bool:
    """Whether a Parquet column has text or numbers, or lists of text."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        return types.is_string(kind.value_type) or types.is_large_string(kind.value_type)
    return not types.is_nested(kind) and not (
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
