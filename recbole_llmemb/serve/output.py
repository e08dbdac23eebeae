"""Recommendations as a table for people, or as jsonl or Parquet for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.errors import UserError
from recbole_llmemb.files import appearing
from recbole_llmemb.serve.matrices import pyarrow
from recbole_llmemb.serve.result import Recommendations

FORMATS = ("table", "jsonl", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
             ".txt": "table", ".md": "table"}  # fmt: skip
_LONGEST_TITLE = 60


def format_of(out, chosen: str | None) -> str:
    """The format asked for, by name or by the file's suffix; a table where neither says.

    Raises
    ------
    UserError
        No such format, a suffix that tells none, or Parquet without a file or its library.
    """
    if chosen is not None and chosen not in FORMATS:
        raise UserError(f"--format is {chosen!r}; it must be one of {', '.join(FORMATS)}.")
    if chosen is None and out is not None:
        suffix = Path(out).suffix.lower()
        chosen = _SUFFIXES.get(suffix)
        if chosen is None and suffix:
            raise UserError(
                f"--out is {out}, whose suffix tells no format; end it in .jsonl, .parquet or "
                f".txt, or add --format ({', '.join(FORMATS)})."
            )
    chosen = chosen or "table"
    if chosen == "parquet":
        if out is None:
            raise UserError("Parquet is no text; name a file with --out.")
        pyarrow()
    return chosen


def write(batches: Iterable[Recommendations], out=None, chosen: str = "table") -> int:
    """Write recommendations batch by batch, so that any number of them fits.

    Parameters
    ----------
    batches : iterable of Recommendations
    out : path-like, optional
        A file, which appears when all of it is there; standard output if not given.
    chosen : {"table", "jsonl", "parquet"}

    Returns
    -------
    int
        People written.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    if out is None:
        return _write_text(batches, sys.stdout, chosen)
    with appearing(out) as fresh:
        if chosen == "parquet":
            return _write_parquet(batches, fresh)
        with open(fresh, "w", encoding="utf-8") as file:
            return _write_text(batches, file, chosen)


def _write_text(batches, file, chosen):
    line = _jsonl if chosen == "jsonl" else _table
    count = 0
    for batch in batches:
        for user, items, popular in batch.rows():
            file.write(line(user, items, popular) + "\n")
            count += 1
        file.flush()
    return count


def _jsonl(user, items, popular):
    row = {"user": user, "items": items} | ({"popular": True} if popular else {})
    return json.dumps(row, ensure_ascii=False)


def _table(user, items, popular):
    why = " (no history: popular items)" if popular else ""
    rows = []
    for rank, item in enumerate(items, start=1):
        title = item.get("title", "")
        title = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
        score = f"{item['score']:.0f}" if popular else f"{item['score']:.4f}"
        rows.append([rank, item["item"], score, title + (" (new)" if item.get("new") else "")])
    headers = ["", "item", "met" if popular else "score", "title"]
    if not any(row[3] for row in rows):
        rows, headers = [row[:3] for row in rows], headers[:3]
    aligned = ("right", "left", "right", "left")[: len(headers)]
    text = tabulate(rows, headers, "simple", disable_numparse=True, colalign=aligned)
    return f"{user}{why}\n{text if rows else '(nothing is left to recommend)'}\n"


def _write_parquet(batches, path):
    arrow, parquet = pyarrow()
    schema = arrow.schema(
        [
            ("user", arrow.string()),
            ("rank", arrow.int32()),
            ("item", arrow.string()),
            ("title", arrow.string()),
            ("score", arrow.float32()),
            ("new", arrow.bool_()),
            ("popular", arrow.bool_()),
        ]
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batches:
            rows = [
                {"user": user, "rank": rank, "popular": popular, "new": False, **item}
                for user, items, popular in batch.rows()
                for rank, item in enumerate(items, start=1)
            ]
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            count += len(batch)
    return count
