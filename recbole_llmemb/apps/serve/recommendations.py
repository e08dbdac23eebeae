"""What was recommended to whom: a table for people, jsonl or Parquet for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_llmemb.apps.serve.item_index import Catalogue
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, is_stream
from recbole_llmemb.core.imports import optional

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


@dataclass
class Recommendations:
    """Items for some people, best first."""

    users: list[str]  # User tokens, or names of histories
    # (b, k): Positions in ``catalogue.tokens``; 0 where there are fewer than k.
    places: torch.Tensor
    # (b, k): The model's; for popular items how often each was met in training.
    scores: torch.Tensor
    # (b,): Whose items are simply the most popular ones, as there was no history.
    popular: torch.Tensor
    catalogue: Catalogue

    def __len__(self):
        return len(self.users)

    @property
    def items(self) -> list[list[str]]:
        """Item tokens of each row."""
        tokens, counts = self.catalogue.tokens[self.places.numpy()], (self.places > 0).sum(1)
        return [row[:count].tolist() for row, count in zip(tokens, counts.tolist())]

    def rows(self) -> Iterator[tuple[str, list[dict], bool]]:
        """For each row whose it is, its items, and whether they are the popular ones.

        An item is a dictionary with ``item``, ``title`` (if it has one), ``score`` and, for new
        items, ``new`` (True).
        """
        titles, first_new = self.catalogue.titles, self.catalogue.item_count
        facts = zip(self.users, self.items, self.places.tolist(), self.scores.tolist())
        for (user, items, places, scores), popular in zip(facts, self.popular.tolist()):
            row = []
            for item, place, score in zip(items, places, scores):
                named = {"title": titles[item]} if item in titles else {}
                new = {"new": True} if place >= first_new else {}
                row.append({"item": item, **named, "score": score, **new})
            yield user, row, popular

    @classmethod
    def joined(cls, parts: list[Recommendations]) -> Recommendations:
        """Several as one; at least one of them."""
        users = [user for part in parts for user in part.users]
        places = torch.cat([part.places for part in parts])
        scores = torch.cat([part.scores for part in parts])
        popular = torch.cat([part.popular for part in parts])
        return cls(users, places, scores, popular, parts[0].catalogue)


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
        _parquet()
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
        try:
            return set(_parquet().read_schema(path).names) == set(_COLUMNS)
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
    arrow, parquet = optional("pyarrow", "parquet", "Parquet"), _parquet()
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


def _parquet():
    return optional("pyarrow.parquet", "parquet", "Parquet")
