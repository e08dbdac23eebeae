"""From files of any kind to a dataset that RecBole reads, with a count of what was dropped."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llmemb.apps.convert import filters, writing
from recbole_llmemb.apps.convert.columns import AMAZON, find, text_fields
from recbole_llmemb.apps.convert.interactions import Interactions, read_interactions
from recbole_llmemb.apps.convert.items import ItemLines, check_names, gather
from recbole_llmemb.apps.convert.report import Converted, rows_of
from recbole_llmemb.apps.convert.times import Clock
from recbole_llmemb.core.directories import atomic_directory, require_free
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.records.sources import FORMATS, Source, open_source

_WHAT = "a converted dataset"


@dataclass
class ConvertJob:
    """What to convert, and how."""

    interactions: Sequence[str]  # interactions, items: Files; ``items`` may be empty
    out: str  # The dataset's folder, whose name is the dataset's
    items: Sequence[str] = ()
    format: str = "auto"  # One of ``auto``, ``csv``, ``parquet``, ``amazon2023``
    # user, item, time, rating, items_id: Names of columns (``items_id``: the item in ``items``);
    # found by their names where not given. ``none`` for ``time`` takes the lines in their order,
    # for ``rating`` leaves it out.
    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    items_id: str | None = None
    time_unit: str = "auto"  # See :class:`~recbole_llmemb.apps.convert.times.Clock`
    item_fields: Sequence[str] | None = None  # Columns that make an item's text
    min_user: int = 5  # min_user, min_item: Interactions that every user and item has at least
    min_item: int = 5
    min_rating: float | None = None  # Lower ratings are dropped
    dedupe: str = "exact"  # See :func:`~recbole_llmemb.apps.convert.filters.repeated`
    without_metadata: str = "drop"  # What happens to items that ``items`` do not have
    # delimiter, columns, encoding: Of csv files, see
    # :func:`~recbole_llmemb.records.sources.open_source`.
    delimiter: str | None = None
    columns: Sequence[str] | None = None
    encoding: str = "utf-8"
    overwrite: bool = False  # Whether to replace a dataset that was converted before
    progress: bool = True


def convert(job: ConvertJob, report: Callable = print) -> Converted:
    """Convert files to a dataset; the folder appears whole or not at all.

    ``report``: told in one line each what was found out about the files.
    """
    out = Path(job.out)
    _check(job, out)
    sources = [_open(job, path) for path in job.interactions]
    roles = _roles(job, sources)
    metadata = [_open(job, path) for path in job.items]
    metadata = [(source, _item_column(job, source, roles["item"])) for source in metadata]
    fields = _fields(job, metadata)
    check_names(fields)
    clock = Clock(job.time_unit, roles["time"] or "")

    found = read_interactions(sources, roles, clock, job.min_rating, job.progress)
    named = [f"{role} = {column}" for role, column in roles.items() if column and role != "time"]
    time = f"time = {roles['time']} ({clock})" if roles["time"] else "time = order of the lines"
    report(f"interactions: {', '.join(named)}, {time}")
    if metadata:
        report(f"items: {metadata[0][1]}, text from {', '.join(fields)}")

    name = out.name
    with (
        atomic_directory(out, job.overwrite, writing.converted_files, _WHAT) as folder,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{name}.") as scratch,
    ):
        lines = None
        if metadata:
            where = Path(scratch) / "items"
            lines = gather(metadata, fields, found.item_tokens, where, job.progress)
        kept, steps = _filtered(job, found, lines)
        present = np.zeros(len(found.item_tokens), dtype=bool)
        present[kept.items] = True
        writing.write_interactions(folder / f"{name}.inter", kept)
        if lines is not None:
            writing.write_items(folder / f"{name}.item", lines, found.item_tokens, present)
        about, settings = _settings(job, kept, lines, present)
        writing.write_settings(folder / f"{name}.yaml", about, settings)
    sizes = kept.sizes()
    rows = rows_of(job, found, lines, steps, present, sizes)
    return Converted(out, out / f"{name}.yaml", *sizes, lines is not None, rows)


# -- before reading -----------------------------------------------------------------------


def _check(job, out):
    for key, allowed in (
        ("format", FORMATS),
        ("dedupe", filters.DEDUPE),
        ("without_metadata", ("drop", "keep")),
    ):
        value = getattr(job, key)
        if value not in allowed:
            raise UserError(f"--{key} is {value!r}; it must be one of {', '.join(allowed)}.")
    for key in ("min_user", "min_item"):
        if getattr(job, key) < 1:
            raise UserError(f"--{key} is {getattr(job, key)}; it must be at least 1.")
    if not job.interactions:
        raise UserError("There is nothing to convert; give --interactions=FILE.")
    if any(letter.isspace() for letter in str(out)) or not out.name:
        raise UserError(
            f"--out is {str(out)!r}; give a folder without blanks, as settings files are "
            "separated by them, whose name becomes the dataset's."
        )
    refuse_inputs(out, [*job.interactions, *job.items])
    require_free(out, job.overwrite, writing.converted_files, _WHAT)


def _open(job, path) -> Source:
    return open_source(path, job.format, job.delimiter, job.columns, job.encoding)


def _roles(job, sources):
    roles: dict = {}
    for source in sources:
        for role in ("user", "item", "rating", "time"):
            given = getattr(job, role) or (AMAZON[role] if job.format == "amazon2023" else None)
            column = find(role, source.columns, given, source.path.name)
            if roles.setdefault(role, column) != column:
                raise UserError(
                    f"{source.path.name}: the {role} would be {column!r}, but {roles[role]!r} in "
                    f"{sources[0].path.name}; say which with --{role}=COLUMN."
                )
    if job.min_rating is not None and not math.isfinite(job.min_rating):
        raise UserError(f"--min_rating is {job.min_rating}; it must be a number.")
    if job.min_rating is not None and not roles["rating"]:
        raise UserError(
            "--min_rating needs ratings, but no column looks like them; name it with --rating."
        )
    return roles


def _item_column(job, source, same):
    given = job.items_id
    if given is None and same in source.columns:
        given = same
    return find("item", source.columns, given, source.path.name, "--items_id")


def _fields(job, metadata):
    fields: list[str] = []
    offered = list(dict.fromkeys(c for source, _ in metadata for c in source.columns))
    if metadata:
        source, item = metadata[0]
        fields = text_fields(offered, job.item_fields, item, source.path.name)
    elif job.item_fields:
        raise UserError("--item_fields says what to take of --items; give that file, too.")
    return fields


# -- after reading ------------------------------------------------------------------------


def _filtered(job, found: Interactions, lines: ItemLines | None):
    """The interactions to write, by user and time, and what each step dropped."""
    steps: dict[str, int] = {}
    kept = found.keep(filters.in_order(found))
    repeats = filters.repeated(kept, job.dedupe)
    steps["repeated"] = int(repeats.sum())
    kept = kept.keep(~repeats)
    if lines is not None and job.without_metadata == "drop":
        has = lines.has[kept.items]
        steps["without_metadata"] = int((~has).sum())
        kept = kept.keep(has)
    before = kept.sizes()
    left, steps["rounds"] = filters.k_core(kept.users, kept.items, job.min_user, job.min_item)
    kept = kept.keep(left)
    after = kept.sizes()
    steps["k_core"], steps["k_core_users"], steps["k_core_items"] = (
        was - now for was, now in zip(before, after)
    )
    if not len(kept):
        raise UserError(
            f"Nothing is left of {found.read:,} lines: {len(found):,} of them could be used, "
            f"{before[0]:,} after duplicates and items without metadata, and none has at least "
            f"{job.min_user} interactions per user and {job.min_item} per item; lower --min_user "
            "and --min_item, or check the columns."
        )
    return kept, steps


def _settings(job, kept, lines, present):
    sizes = kept.sizes()
    files = ", ".join(Path(path).name for path in [*job.interactions, *job.items])
    about = [
        f"from {files}",
        f"{sizes[0]:,} interactions of {sizes[1]:,} users with {sizes[2]:,} items.",
        "For --config_files; a key of it that is given on the command line wins.",
    ]
    inter = ["user_id", "item_id", "timestamp"]
    inter[2:2] = [] if kept.ratings is None else ["rating"]
    settings: dict = {"load_col": ({"inter": inter}, "What RecBole reads.")}
    if lines is not None:
        settings["item_text_fields"] = (lines.fields, "What an item's text is made of.")
        prompt = "The item has the following attributes: "
        settings["item_prompt"] = (prompt, "What stands before them; name your domain.")
        if (present & ~lines.has).any():
            settings["llm_missing"] = ("mean", "Items without metadata get the mean vector.")
    shares = {"tail_item_threshold": "Tail items: the 80% least popular.",
              "short_user_threshold": "Short users: the 80% shortest."}  # fmt: skip
    settings |= {key: (0.8, meaning) for key, meaning in shares.items()}
    return about, settings
