"""Files of rows, read in pieces: csv and tsv, parquet, and json lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llmemb.apps.convert.drop_counter import Tally
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.records import rows as reading

FORMATS = ("auto", "csv", "parquet", "amazon2023")
_ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".data": "csv",
    ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_DELIMITERS = ("\t", ",", ";", "|")
_PEEKED = 1000  # lines of json, whose keys may differ


@dataclass
class Source:
    """One file and how it is read."""

    path: Path
    kind: str
    # Their names; of json lines those that the first thousand have.
    columns: list[str] = field(default_factory=list)
    delimiter: str = ""  # Of a csv file
    header: bool = True  # Whether the first line of a csv file names the columns
    encoding: str = "utf-8"  # Of a text file

    def pieces(
        self, wanted: Sequence[str], malformed: Tally, where: str = "", progress: bool = True
    ) -> Iterator[tuple[list[int], list[list]]]:
        """Read the file once, a piece at a time.

        ``wanted``: columns to read, in this order.
        ``malformed``: told of lines that are not as they should be; they are left out.
        ``where``: what stands before a line's number there.
        ``progress``: whether to show how far it is.
        Yields line numbers (rows of a parquet file, from 1), and a list of values per column; what
        is missing is None or empty.
        """
        reader = {"csv": reading.csv_rows, "jsonl": reading.json_rows}.get(self.kind)
        try:
            if self.kind == "parquet":
                yield from reading.parquet_pieces(self, wanted, progress)
                return
            lines: list[int] = []
            rows: list[list] = []
            for line, row in reader(self, wanted, malformed, where, progress):
                lines.append(line)
                rows.append(row)
                if len(rows) == reading.PIECE:
                    yield lines, [list(column) for column in zip(*rows)]
                    lines, rows = [], []
            if rows:
                yield lines, [list(column) for column in zip(*rows)]
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not {error.encoding} text ({error.reason}); "
                "give its encoding, such as --encoding=latin-1."
            ) from None
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            text = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{self.path} cannot be read: {text}.") from error


def open_source(path, format="auto", delimiter=None, names=None, encoding="utf-8") -> Source:
    """Find out what a file is and which columns it has.

    ``format``: ``auto`` goes by the name's ending; ``.gz`` may follow it.
    ``delimiter``: of a csv file; by default the one its first line has most of.
    ``names``: columns of a csv file without a line that names them.
    ``encoding``: of a text file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the path.")
    kind = {"csv": "csv", "parquet": "parquet", "amazon2023": "jsonl"}.get(format)
    if kind is None:
        endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
        kind = _ENDINGS.get(endings[-1]) if endings else None
    if kind is None:
        raise UserError(
            f"{path}: its name does not tell what it is; give --format={'|'.join(FORMATS[1:])}."
        )
    source = Source(path, kind, encoding=encoding)
    try:
        if kind == "csv":
            _look_at_csv(source, delimiter, names)
        elif kind == "jsonl":
            source.columns = _keys(source)
        else:
            source.columns = list(reading.parquet_file(path).schema_arrow.names)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {error.encoding} text ({error.reason}); give its encoding, such as "
            "--encoding=latin-1."
        ) from None
    except (OSError, EOFError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path} cannot be read: {text}.") from error
    twice = {name for name in source.columns if source.columns.count(name) > 1}
    if twice:
        raise UserError(f"{path} has two columns {sorted(twice)[0]!r}; rename one of them.")
    if not source.columns:
        raise UserError(f"{path} has no columns: it is empty, or not what its name says.")
    return source


def _keys(source):
    found: dict = {}
    for number, line in enumerate(reading.lines_of(source, progress=False)):
        if number == _PEEKED:
            break
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.update(dict.fromkeys(row))
    return [str(key) for key in found]


def _look_at_csv(source, delimiter, names):
    first = next(reading.decoded(source, progress=False), "")
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=first.count)
        if source.path.name.lower().removesuffix(".gz").endswith((".tsv", ".tab")):
            delimiter = "\t"
    if len(delimiter) != 1:
        raise UserError(f"The delimiter is {delimiter!r}; it must be one character.")
    source.delimiter = delimiter
    cells = next(csv.reader([first], delimiter=delimiter), [])
    if names:
        if len(names) != len(cells):
            raise UserError(
                f"{source.path} has {len(cells)} columns in its first line, but {len(names)} are "
                f"named ({', '.join(names)}); name each."
            )
        source.columns, source.header = list(names), False
        return
    source.columns = [cell.strip() for cell in cells]
    if any(_is_number(cell) for cell in cells):
        raise UserError(
            f"{source.path}: the first line does not name the columns ({first.strip()[:60]!r}); "
            "name them in their order, as in --columns=user,item,rating,timestamp."
        )


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
