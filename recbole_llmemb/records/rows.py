"""Rows of csv, json and parquet files, one after the other."""

from __future__ import annotations

import csv
import gzip
import io
import json

from tqdm import tqdm

from recbole_llmemb.core.errors import UserError

PIECE = 50_000
_LONGEST_FIELD = 1 << 20


def lines_of(source, progress):
    """Lines of a file as bytes, unpacked; how far it is is told by the bytes on disk."""
    with (
        open(source.path, "rb") as raw,
        tqdm(
            total=source.path.stat().st_size, unit="B", unit_scale=True, ncols=100,
            desc=source.path.name, disable=not progress,
        ) as bar,
    ):  # fmt: skip
        packed = source.path.suffix.lower() == ".gz"
        file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
        for number, line in enumerate(file, 1):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if number % 10_000 == 0:
                bar.update(raw.tell() - bar.n)
        bar.update(raw.tell() - bar.n)


def json_rows(source, wanted, malformed, where, progress):
    """Line number and wanted values of each object; see :meth:`Source.pieces`."""
    for number, line in enumerate(lines_of(source, progress), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # broken encodings included
            row = None
        if not isinstance(row, dict):
            malformed.add([number], where)
            continue
        yield number, [row.get(name) for name in wanted]


def decoded(source, progress):
    """Lines of a file as text; a carriage return that ends none is a blank."""
    for line in lines_of(source, progress):
        text = line.decode(source.encoding)
        yield text.replace("\r\n", "\n").replace("\r", " ") if "\r" in text else text


def csv_rows(source, wanted, malformed, where, progress):
    """Number of the first line and wanted values of each row; see :meth:`Source.pieces`."""
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader(decoded(source, progress), delimiter=source.delimiter)
    places = [source.columns.index(name) for name in wanted]
    width, line = len(source.columns), 1
    try:
        for number, row in enumerate(rows):
            first, line = line, rows.line_num + 1  # a row in quotes may take several lines
            if not row or (number == 0 and source.header):
                continue
            if len(row) != width:
                malformed.add([first], where)
                continue
            yield first, [row[place] for place in places]
    except csv.Error as error:
        raise UserError(
            f"{source.path}, line {line}: {error}; a quote that is never closed may be the reason: "
            "double it, or write tabs between columns and no quotes."
        ) from None


def parquet_file(path):
    """An open parquet file."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path} needs pyarrow, which is not installed: pip install 'recbole-llmemb[parquet]'."
        ) from None
    return pyarrow.parquet.ParquetFile(path)


def parquet_pieces(source, wanted, progress):
    """Row numbers and wanted columns, a piece at a time; see :meth:`Source.pieces`."""
    file = parquet_file(source.path)
    done = 0
    total = file.metadata.num_rows
    with tqdm(
        total=total, unit=" rows", ncols=100, desc=source.path.name, disable=not progress
    ) as bar:
        for batch in file.iter_batches(PIECE, columns=list(wanted)):
            columns = [batch.column(name).to_pylist() for name in wanted]
            yield list(range(done + 1, done + 1 + len(batch))), columns
            done += len(batch)
            bar.update(len(batch))
