"""Files of records of any kind, read once in pieces: csv, json, Parquet, RecBole's own.

Text is split at line feeds and nowhere else: a carriage return ends a line only before one.
RecBole's atomic files (``.inter``, ``.item``) are split at the separator and nothing else, quotes
are characters; csv files have quotes, in which a line may end. Names may end in ``.gz``.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, NoReturn

from recbole_llmemb.core.errors import UserError, explained, reason_of
from recbole_llmemb.core.files import text_encoding, wrong_encoding
from recbole_llmemb.core.imports import optional
from recbole_llmemb.core.terminal import counted, progress_bar
from recbole_llmemb.records.parse import JSON, csv_rows, ended, json_entries
from recbole_llmemb.records.values import column_values, is_number, is_vector

KINDS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".data": "csv",
    ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".pq": "parquet",
    ".inter": "atomic", ".item": "atomic", ".itememb": "atomic",
}  # fmt: skip

#: Of the columns of RecBole's atomic files.
FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
_DELIMITERS = ("\t", ",", ";", "|")
_PEEKED = 1000  # rows of json, whose keys may differ
_LONGEST_LINE = 1 << 26
_NO_OBJECT = "not a JSON object with a field per attribute"

#: Told of a record that is not as it should be: its number, and what is wrong with it.
OnBad = Callable[[int, str], None]
Rows = Iterator[tuple[int, list[Any]]]  # Number and values
Piece = tuple[list[int], list[list[Any]]]  # Numbers, and values by column


@dataclass
class RecordFile:
    """One file that was looked at, and how it is read."""

    path: Path
    kind: str  # csv, json, parquet or atomic
    columns: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)  # Columns of text, numbers or lists of text
    types: list[str] = field(default_factory=list)  # Of an atomic file's columns
    delimiter: str = "\t"
    header: bool = True  # Whether the first line of a csv file names the columns
    encoding: str | None = "utf-8"  # Of a csv or atomic file; json is UTF-8
    entries: list[Any] | None = None  # Of a json file that is one list

    @property
    def noun(self) -> str:
        """What a record's number counts."""
        return "row" if self.kind == "parquet" or self.entries is not None else "line"

    def pieces(
        self,
        wanted: Sequence[str],
        on_bad: OnBad | None = None,
        progress: bool = False,
        size: int = 50_000,
    ) -> Iterator[Piece]:
        """Numbers of some records, from 1, and a list of values per wanted column.

        What is missing is None or empty. ``on_bad``: by default bad records are refused, else left
        out.
        """
        with self.readable():
            if self.kind == "parquet":
                yield from self._parquet(wanted, progress, size)
                return
            rows = self._rows(wanted, on_bad or self.refuse, progress)
            while piece := list(itertools.islice(rows, size)):
                numbers, values = zip(*piece)
                yield list(numbers), [list(column) for column in zip(*values)]

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Number and wanted values of one record after the other; bad ones are refused."""
        for numbers, columns in self.pieces(wanted, size=512):
            yield from zip(numbers, zip(*columns))

    def values(
        self, on_bad: OnBad | None = None, progress: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Numbers and values of a json file: of its lines, or of its only list's entries."""
        with self.readable():
            if self.entries is not None:
                yield from enumerate(self.entries, start=1)
                return
            for number, line in enumerate(_lines(self, progress, text=False), start=1):
                if not line.strip():
                    continue
                try:
                    value = JSON.decode(line.decode().removeprefix("\ufeff"))
                except (ValueError, RecursionError) as error:  # broken encodings included
                    (on_bad or self.refuse)(number, f"not JSON in one line ({reason_of(error)})")
                    continue
                yield number, value

    def refuse(self, number: int, why: str, key: str | None = None) -> NoReturn:
        """Refuse the record of a number, or with 0 the file."""
        place = f", {self.noun} {number}" if number else ""
        raise UserError(f"{self.path}{place}: {why}.", key=key, where=self.path)

    def _rows(self, wanted: Sequence[str], on_bad: OnBad, progress: bool) -> Rows:
        if self.kind == "json":
            for number, value in self.values(on_bad, progress):
                if isinstance(value, dict):
                    yield number, [value.get(name) for name in wanted]
                else:
                    on_bad(number, _NO_OBJECT)
            return
        places, width = [self.columns.index(name) for name in wanted], len(self.columns)
        spread: list[int] = []
        lines = _lines(self, progress)
        rows = csv_rows(lines, self.delimiter) if self.kind == "csv" else self._atomic(lines)
        for number, row, held in rows:
            if number == 1 and self.header:
                continue
            if isinstance(row, str):
                on_bad(number, row)
                continue
            if len(held) > 1 and all(line.count(self.delimiter) >= width - 1 for line in held):
                spread.append(number)
            if len(row) != width:
                if self.kind == "csv" or any(cell.strip() for cell in row[width:]):
                    fields = f"{len(row)} fields where the first line names {width}"
                    for line in range(number, number + max(1, len(held))):
                        on_bad(line, f"{fields}; check the separator")
                    continue
                row += [""] * (width - len(row))
            yield number, [row[place] for place in places]
        if spread:
            said = f"{self.path}: {counted(len(spread), 'record')} in quotes over several lines"
            said += f", each of which could be one; check their quotes: line {first_lines(spread)}"
            getLogger().warning(said)

    def _atomic(self, lines: Iterator[str]) -> Iterator[tuple[int, Any, list[str]]]:
        for number, line in enumerate(lines, start=1):
            if "\0" in line:  # a hole, maybe over the ends of lines
                self.refuse(number, "it holds a NUL, which is no letter; take it out")
            if line.strip():
                yield number, line.removesuffix("\n").removesuffix("\r").split(self.delimiter), []

    def _parquet(self, wanted: Sequence[str], progress: bool, size: int) -> Iterator[Piece]:
        file, done = _open_parquet(self.path), 0
        with progress_bar(
            total=file.metadata.num_rows, unit=" rows", desc=self.path.name,
            disable=not progress,
        ) as bar:  # fmt: skip
            for batch in file.iter_batches(size, columns=list(dict.fromkeys(wanted))):
                values = [column_values(batch.column(name)) for name in wanted]
                yield list(range(done + 1, done + 1 + len(batch))), values
                done += len(batch)
                bar.update(len(batch))

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Errors of reading as sentences."""
        errors = OSError, EOFError, ValueError, NotImplementedError, zlib.error, csv.Error
        advice = "copy it again or unpack it, and check that it is what its name says"
        told = f"{self.path} cannot be read ({{reason}}); {advice}."
        with explained(told, *errors, where=self.path):
            try:
                yield
            except (UnicodeError, LookupError) as error:
                told = wrong_encoding(self.path, self.encoding, error)
                raise UserError(told, key="encoding", where=self.path) from error


def open_records(
    path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    otherwise: str | None = None,
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
    encoding: str | None = "utf-8",
    peek: int | None = _PEEKED,
) -> RecordFile:
    """Find out what a file is and which columns it has.

    ``kind``: one of :data:`KINDS`; by default the name's ending tells, else it is ``otherwise``.
    ``delimiter``: one character; by default the one that a csv file's first line has most of, and
    a tab in an atomic file. ``names``: columns of a csv file without a line that names them.
    ``peek``: rows of a json file in which to look for columns; None: in all, which are refused if
    they are bad; 0: it need not have any.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        told = f"{path} is no file" if path.exists() else f"There is no file {path}"
        raise UserError(f"{told}; check the path.", where=path)
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    with open(path, "rb") as start:
        begun = start.read(4)
    if begun == b"PK\3\4":
        advice = "unpack it, or if it is Excel's (.xlsx), save it as csv"
        raise UserError(f"{path} is a zip archive; {advice}.", key="format", where=path)
    if begun[:2] == b"\x1f\x8b" and path.suffix.lower() != ".gz":
        raise UserError(f"{path} is packed by gzip; unpack it, or name it .gz.", where=path)
    kind = kind or KINDS.get(endings[-1] if endings else "", otherwise)
    if kind is None:
        told = f"{path}: its name does not tell what it is; give --format=csv, parquet or json."
        raise UserError(told, key="format", where=path)
    file = RecordFile(path, kind, encoding=encoding)
    with file.readable():
        if kind == "parquet":
            schema = _open_parquet(path).schema_arrow
            file.columns = list(schema.names)
            file.text = [name for name in schema.names if _is_text(schema.field(name).type)]
        elif kind == "json":
            file.entries = json_entries(path)
            seen = _json_columns(file, peek)
            file.columns, file.text = list(seen), [name for name, text in seen.items() if text]
        else:
            _look_at_text(file, delimiter, names)
    twice = [name for name in file.columns if file.columns.count(name) > 1]
    if twice:
        file.refuse(0, f"it has two columns {twice[0]!r}; rename one of them")
    if not (file.columns or peek == 0):
        objects = "one object per line or one list, no name in it twice"
        known = {"json": f"not {objects}", "csv": "its first line does not name them"}
        file.refuse(0, f"it has no columns: it is empty, or {known.get(kind, 'damaged')}")
    return file


# -- looking at a file --------------------------------------------------------------------


def _look_at_text(file: RecordFile, delimiter: str | None, names: Sequence[str] | None) -> None:
    lines = _lines(file)
    begun = next(lines, "")
    first = ended(begun).removesuffix("\n")
    if file.kind == "csv" and first[:4] == "sep=" and len(first) == 5:
        said = f"its first line is {first!r}, which is Excel's; take it out"
        file.refuse(0, f"{said} and set delimiter to {first[4:]!r}", "delimiter")
    if "\0" in first:
        file.refuse(0, "zero bytes in its first line; set encoding, perhaps utf-16-le", "encoding")
    if "\r" in begun.rstrip("\r\n") and next(lines, None) is None:
        file.refuse(0, "carriage returns and no line feed; end its lines with line feeds")
    if delimiter is None and file.kind == "csv":
        delimiter = max(_DELIMITERS, key=first.count)
        if {".tsv", ".tab"} & {ending.lower() for ending in file.path.suffixes}:
            delimiter = "\t"
    file.delimiter = delimiter = "\t" if delimiter is None else delimiter
    cells = [cell.strip().partition(":") for cell in first.split(delimiter or None)]
    while file.kind == "atomic" and len(cells) > 1 and not any(cells[-1]):
        cells.pop()  # a separator at the end of the line, as others may have it
    bad = [cell for cell in cells if not (cell[0] and cell[2] in FIELD_TYPES)]
    if file.kind == "atomic" and bad:
        said = f"fields as name:type (of {', '.join(FIELD_TYPES)}), but {''.join(bad[0])[:40]!r} is"
        advice = f"not; check the file and field_separator ({delimiter!r})"
        file.refuse(0, f"the first line must name the {said} {advice}", "field_separator")
    if file.kind == "atomic" or not (bad or names):
        file.kind, file.types = "atomic", [kind for *_, kind in cells]
        file.columns = [name for name, *_ in cells]
        vectors = [name for name, _, kind in cells if kind == "float_seq"]
        file.text = [name for name in file.columns if name not in vectors]
        return
    if len(delimiter) != 1:
        file.refuse(0, f"the delimiter is {delimiter!r}; it must be one character", "delimiter")
    number, found, _ = next(csv_rows(_lines(file), delimiter), (0, [], []))
    if isinstance(found, str):
        file.refuse(number, found)
    found = found if number == 1 else []
    file.columns = [cell.replace("\n", " ").strip() for cell in found]
    if names:
        if len(names) != len(found):
            said = f"{len(names)} are named ({', '.join(names)}); name each"
            file.refuse(0, f"{len(found)} columns in its first line, but {said}", "columns")
        file.columns, file.header = list(names), False
    elif any(map(is_number, found)):
        said = f"the first line does not name the columns ({first.strip()[:60]!r})"
        file.refuse(0, f"{said}; name them in their order, as in --columns=user,item", "columns")
    file.text = file.columns


def _json_columns(file: RecordFile, peek: int | None) -> dict[str, bool]:
    """Columns in order of appearance, and whether they are text in all rows."""
    seen: dict[str, bool] = {}
    on_bad: OnBad = file.refuse if peek is None else lambda number, why: None
    for number, row in itertools.islice(file.values(on_bad), peek):
        if not isinstance(row, dict):
            on_bad(number, _NO_OBJECT)
            continue
        for name, value in row.items():
            nested = isinstance(value, (list, dict))
            seen[name] = seen.get(name, True) and not (nested and is_vector(value))
    return seen


def _open_parquet(path: Path) -> Any:
    return optional("pyarrow.parquet", "parquet", f"Reading {path}").ParquetFile(path)


def _is_text(kind: Any) -> bool:
    """Whether a Parquet column has text, numbers or times, or lists of text."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
        return bool(types.is_string(kind) or types.is_large_string(kind))
    of_bytes = types.is_binary, types.is_large_binary, types.is_fixed_size_binary
    return not (types.is_nested(kind) or any(is_one(kind) for is_one in of_bytes))


def first_lines(numbers: Sequence[int]) -> str:
    """Name the first few lines, for a warning."""
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


# -- lines --------------------------------------------------------------------------------


def _lines(file: RecordFile, progress: bool = False, text: bool = True) -> Iterator[Any]:
    """Lines with their ends, unpacked; how far it is is told by the bytes on disk."""
    size = file.path.stat().st_size
    with (
        open(file.path, "rb") as raw,
        progress_bar(
            total=size, unit="B", unit_scale=True, desc=file.path.name,
            disable=not progress,
        ) as bar,
    ):  # fmt: skip
        packed = file.path.suffix.lower() == ".gz"
        lines: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
        if text:
            lines = io.TextIOWrapper(lines, text_encoding(file.encoding), newline="\n")
        number = 0
        while line := lines.readline(_LONGEST_LINE):  # a packed one may have no end
            number += 1
            if len(line) == _LONGEST_LINE:
                file.refuse(number, "the line is too long for a record; check the file")
            yield line
            if number % 10_000 == 0:
                bar.update(raw.tell() - bar.n)
        bar.update(raw.tell() - bar.n)
