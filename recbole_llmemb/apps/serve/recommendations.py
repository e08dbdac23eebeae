"""What was recommended to whom, for people and programs; and where new items rank among all."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tabulate import tabulate

from recbole_llmemb.apps.serve.item_index import ItemIndex
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, is_stream
from recbole_llmemb.core.imports import optional
from recbole_llmemb.core.terminal import printable, progress_bar, text_table, width
from recbole_llmemb.records.values import one_line

FORMATS = ("table", "jsonl", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
             ".txt": "table"}  # fmt: skip
_LONGEST_TITLE, _SHORTEST_TITLE = 60, 20
_SHOWN = 10  # people in a notebook
_NOTHING = "(nothing is left to recommend)"
# How tables begin that were written here.
_OURS = re.compile(
    rf".*\n(?:\s*item +(?:score|met)(?: +title)?\n--+(?:  -+)+\n|{re.escape(_NOTHING)}\n)"
)
_COLUMNS = {"user": "string", "rank": "int32", "item": "string", "title": "string",
            "score": "float32", "new": "bool_", "popular": "bool_"}  # fmt: skip
_USERS = 64  # scored at a time
_LISTED = 20
_QUANTILES = (0.0, 0.1, 0.5)
_LONGEST_NAME = 26


@dataclass(repr=False)
class Recommendations:
    """Items for some people, best first; shown as a table."""

    users: list[str]  # User tokens, or names of histories
    # (b, k): Positions in the index; 0 where there are fewer than k.
    places: torch.Tensor
    # (b, k): The model's; for popular items how often each was met in training.
    scores: torch.Tensor
    # (b,): Whose items are simply the most popular ones, as there was no history.
    popular: torch.Tensor
    item_index: ItemIndex

    def __len__(self):
        return len(self.users)

    @property
    def items(self) -> list[list[str]]:
        """Item tokens of each row."""
        tokens, counts = self.item_index.tokens[self.places.numpy()], (self.places > 0).sum(1)
        return [row[:count].tolist() for row, count in zip(tokens, counts.tolist())]

    def rows(self) -> Iterator[tuple[str, list[dict], bool]]:
        """For each row whose it is, its items, and whether they are the popular ones.

        An item is a dictionary with ``item``, ``title`` (if it has one), ``score`` and, for new
        items, ``new`` (True).
        """
        titles, first_new = self.item_index.titles, self.item_index.item_count
        facts = zip(self.users, self.items, self.places.tolist(), self.scores.tolist())
        for (user, items, places, scores), popular in zip(facts, self.popular.tolist()):
            row = []
            for item, place, score in zip(items, places, scores):
                named = {"title": titles[item]} if item in titles else {}
                new = {"new": True} if place >= first_new else {}
                row.append({"item": item, **named, "score": score, **new})
            yield user, row, popular

    def records(self) -> list[dict]:
        """One dictionary for each item of each row, with all of the columns of a file."""
        return [
            {"user": user, "rank": rank, "title": None, "new": False, "popular": popular, **item}
            for user, items, popular in self.rows()
            for rank, item in enumerate(items, start=1)
        ]

    def to_pandas(self):
        """A :class:`pandas.DataFrame` with a row for each recommended item.

        Columns: ``user``, ``rank`` (1 is the best), ``item``, ``title``, ``score``, ``new`` (not in
        the dataset) and ``popular`` (the user had no history).
        """
        import pandas as pd

        return pd.DataFrame(self.records(), columns=list(_COLUMNS))

    def __repr__(self):
        more = f"… and {len(self) - _SHOWN} more\n" if len(self) > _SHOWN else ""
        return "\n".join(_table(*row) for row in islice(self.rows(), _SHOWN)) + more

    def _repr_html_(self):
        return self.to_pandas().to_html(index=False, max_rows=_SHOWN * 10)

    @classmethod
    def joined(cls, parts: list[Recommendations]) -> Recommendations:
        """Several as one; at least one of them."""
        users = [user for part in parts for user in part.users]
        tensors = (
            [getattr(part, name) for part in parts] for name in ("places", "scores", "popular")
        )
        places, scores, popular = map(torch.cat, tensors)
        return cls(users, places, scores, popular, parts[0].item_index)


def format_of(out, chosen: str | None) -> str:
    """The format asked for, by name or by the file's suffix; a table where neither says.

    Refused is a file that is there and holds something else than recommendations.
    """
    suffix = Path(out).suffix.lower() if out else ""
    chosen = chosen or _SUFFIXES.get(suffix, "" if suffix else "table")
    if not chosen:
        raise UserError(
            f"--out is {out}, whose suffix tells no format; end it in .jsonl, .parquet or "
            f".txt, or add --format ({', '.join(FORMATS)}).",
            key="out",
        )
    if chosen == "parquet":
        if out is None:
            raise UserError("Parquet is no text; name a file with --out.", key="out")
        _parquet()
    if out and not is_stream(out) and Path(out).is_file() and not _is_ours(Path(out)):
        raise UserError(
            f"{out} holds something else than recommendations, so it is not replaced; move it "
            "away, or give --out another file.",
            key="out",
        )
    return chosen


def _is_ours(path):
    """Whether a file looks like one that was written here, in whichever format; or is empty."""
    with open(path, "rb") as file:
        begins = file.readline(1 << 28)
        rest = file.read(1 << 20)
        file.seek(max(0, path.stat().st_size - (1 << 24)))
        *_, ends = file.read().rstrip(b"\n").rsplit(b"\n", 1)
    if begins.startswith(b"PAR1"):
        try:
            return set(_parquet().read_schema(path).names) == set(_COLUMNS)
        except (OSError, ValueError):
            return False
    if not begins or _OURS.match((begins + rest).decode("utf-8", "replace")):
        return True
    return _is_row(begins) and _is_row(ends)


def _is_row(line: bytes) -> bool:
    try:
        row = json.loads(line)
        kept = [item.keys() >= {"item", "score"} for item in row.pop("items")]
        return all(kept) and {"user"} <= row.keys() <= {"user", "popular"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


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
    line, count = _jsonl if chosen == "jsonl" else _table, 0
    for batch in batches:
        file.writelines(line(*row) + "\n" for row in batch.rows())
        file.flush()
        count += len(batch)
    return count


def _jsonl(user, items, popular):
    row = {"user": user, "items": items} | ({"popular": True} if popular else {})
    return json.dumps(row, ensure_ascii=False)


def _table(user, items, popular):
    items = [{**item, "item": printable(item["item"])} for item in items]
    rows, longest = [], max((len(item["item"]) for item in items), default=0)
    # Beside rank, item and score, each with two blanks, and room for "(new)".
    room = min(_LONGEST_TITLE, max(_SHORTEST_TITLE, width() - longest - 26))
    for rank, item in enumerate(items, start=1):
        title = item.get("title", "")
        title = title if len(title) <= room else title[: room - 1] + "…"
        score = f"{item['score']:.0f}" if popular else f"{item['score']:.4f}"
        rows.append([rank, item["item"], score, title + (" (new)" if item.get("new") else "")])
    columns = 4 if any(row[3] for row in rows) else 3
    headers = ["", "item", "met" if popular else "score", "title"][:columns]
    aligned = ("right", "left", "right", "left")[:columns]
    rows = [row[:columns] for row in rows]
    text = tabulate(rows, headers, "simple", disable_numparse=True, colalign=aligned)
    why = " (no history: popular items)" if popular else ""
    return f"{printable(one_line(user))}{why}\n{text if rows else _NOTHING}\n"


def _write_parquet(batches, path):
    arrow, parquet = optional("pyarrow", "parquet", "Parquet"), _parquet()
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in _COLUMNS.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(arrow.Table.from_pylist(batch.records(), schema))
            count += len(batch)
    return count


def _parquet():
    return optional("pyarrow.parquet", "parquet", "Parquet")


@dataclass
class NewItemReport:
    """Ranks of new items."""

    names: list[str]  # Of the new items: token and title
    # (u, m): For each user the rank of each new item among all items, the best is 1.
    ranks: torch.Tensor
    # For each new item the known item whose vector is most like its own: its name, the cosine.
    nearest: list[tuple[str, float]]
    nearest_ranks: torch.Tensor  # (u, m): The ranks of these
    n_items: int  # Items that are ranked
    topk: int

    def listed(self) -> torch.Tensor:
        """Share of users with each new item among the top k, ``(m,)``."""
        return (self.ranks <= self.topk).double().mean(0)

    def __str__(self):
        quantiles = torch.tensor(_QUANTILES, dtype=torch.double)
        own = self.ranks.double().quantile(quantiles, dim=0).t().tolist()
        beside = self.nearest_ranks.double().median(0).values.tolist()
        shares, by_chance = self.listed(), min(1, self.topk / self.n_items)
        rows = [
            [self.names[i], *(f"{rank:,.0f}" for rank in own[i]), f"{shares[i]:.2%}",
             self.nearest[i][0], f"{self.nearest[i][1]:.2f}", f"{beside[i]:,.0f}"]
            for i in range(min(_LISTED, len(self.names)))
        ]  # fmt: skip
        if len(self.names) > _LISTED:
            rows.append([f"… ({len(self.names)} in all)"])
        headers = ["new item", "best", "10%", "median", f"top {self.topk}"]
        headers += ["nearest known item", "cosine", "its median"]
        aligned = ("left", *["right"] * 4, "left", "right", "right")
        whole = self.ranks.double().median()
        return (
            f"New items among {self.n_items:,}, over {len(self.ranks):,} users: median rank "
            f"{whole:,.0f} (by chance {(self.n_items + 1) / 2:,.0f}),\n"
            f"in the top {self.topk} of {shares.mean():.2%} of them (by chance {by_chance:.2%})\n"
            + text_table(rows, headers, aligned)
        )


def rank_new_items(
    recommender, users: int = 1000, topk: int = 10, seed: int = 0, show_progress=False
) -> NewItemReport:
    """Rank the new items for users of the dataset.

    ``recommender``: with new items.
    ``users``: how many users to ask, drawn at random.
    ``topk``: for the share of users that would be shown an item.
    ``seed``: of the draw.
    """
    index = recommender.item_index
    if not index.new_tokens:
        raise UserError("There are no new items whose ranks could be reported; add some first.")
    asked = recommender.people("all").sample(users, seed)
    queries = recommender.user_vectors(asked).to(recommender.item_vectors.device)
    items, known = recommender.item_vectors[1:], index.item_count - 1
    near, cosines = _nearest(items, known)
    wanted = torch.cat([torch.arange(known, len(items), device=items.device), near])
    ranks = []
    disable = None if show_progress else True
    with progress_bar(total=len(queries), desc="new items", unit="user", disable=disable) as bar:
        for part in queries.split(_USERS):
            ranks.append(_ranks(part @ items.t(), wanted).cpu())
            bar.update(len(part))
    own, beside = torch.cat(ranks).chunk(2, dim=1)
    names = [_name(index, token) for token in index.new_tokens]
    closest = [_name(index, index.tokens[place + 1]) for place in near.tolist()]
    nearest = list(zip(closest, cosines.tolist()))
    return NewItemReport(names, own, nearest, beside, len(items), topk)


fare = rank_new_items  # its name in earlier releases


def _name(index, token) -> str:
    text = f"{token} {index.titles.get(token, '')}".strip()
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def _nearest(items, known):
    """Of each new item the known one of largest cosine, and that."""
    rows = torch.nn.functional.normalize(items, dim=1)
    best = [(part @ rows[:known].t()).max(1) for part in rows[known:].split(_USERS)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def _ranks(scores, columns):
    """Ranks of these columns in each row: one more than how many score higher."""
    ordered = scores.sort(dim=1).values
    own = scores[:, columns].contiguous()
    return scores.shape[1] - torch.searchsorted(ordered, own, right=True) + 1
