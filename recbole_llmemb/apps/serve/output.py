"""Recommendations as a table for people, or as jsonl or Parquet for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.apps.serve.result import Recommendations
from recbole_llmemb.apps.serve.vector_files import pyarrow
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, is_stream

FORMATS = ("table", "jsonl", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
             ".txt": "table", ".md": "table"}  # fmt: skip
_LONGEST_TITLE = 60
_NOTHING = "(nothing is left to recommend)"
_COLUMNS = {
    "user": "string",
    "rank": "int32",
    "item": "string",
    "title": "string",
    "score": "float32",
    "new": "bool_",
    "popular": "bool_",
}


def format_of(out, chosen: str | None) -> str:
    """The format asked for, by name or by the file's suffix; a table where neither says."""
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


def check_out(out) -> None:
    """Refuse a file that is there and holds something else than recommendations."""
    if out is None or is_stream(out) or not Path(out).is_file() or _is_ours(Path(out)):
        return
    raise UserError(
        f"{out} holds something else than recommendations, so it is not replaced; move it away, or "
        "give --out another file."
    )


def _is_ours(path):
    """Whether a file looks like one that was written here, in whichever format; or is empty."""
    with open(path, "rb") as file:
        first, second = file.readline(), file.readline().decode("utf-8", "replace")
    if first.startswith(b"PAR1"):
        _, parquet = pyarrow()
        try:
            return set(parquet.read_schema(path).names) == set(_COLUMNS)
        except (OSError, ValueError):
            return False
    with contextlib.suppress(ValueError):
        row = json.loads(first)
        if isinstance(row, dict) and {"user", "items"} <= set(row):
            return True
    return (
        not first
        or second.split()[:2] in (["item", "score"], ["item", "met"])
        or second.startswith(_NOTHING)
    )


def write(batches: Iterable[Recommendations], out=None, chosen: str = "table") -> int:
    """Write recommendations batch by batch, so that any number of them fits.

    ``out``: A file, which appears when all of it is there; standard output if not given.
    Returns people written.
    """
    if out is None:
        return _write_text(batches, sys.stdout, chosen)
    with atomic_file(out) as fresh:
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
    return f"{user}{why}\n{text if rows else _NOTHING}\n"


def _write_parquet(batches, path):
    arrow, parquet = pyarrow()
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in _COLUMNS.items()])
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
