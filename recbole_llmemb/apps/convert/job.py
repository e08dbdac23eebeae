"""From files of any kind to a dataset that RecBole reads, with a count of what was dropped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from recbole_llmemb.apps.convert import writing
from recbole_llmemb.apps.convert.columns import AMAZON, find, text_fields
from recbole_llmemb.apps.convert.interactions import (
    Interactions,
    in_order,
    k_core,
    read_interactions,
    repeated,
)
from recbole_llmemb.apps.convert.items import ItemLines, check_names, gather
from recbole_llmemb.apps.convert.report import Converted, rows_of
from recbole_llmemb.apps.convert.times import Clock
from recbole_llmemb.core.checked import Checked
from recbole_llmemb.core.directories import atomic_directory, require_free
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.records.reader import RecordFile, open_records

_WHAT = "a converted dataset"
_COLUMNS = "columns, found by their names where not given"


def _file(help: str, **more):
    return {"description": help, "json_schema_extra": {"metavar": "FILE", "repeat": True, **more}}


def _column(default=None, help: str = "", metavar: str = "COL"):
    extra = {"metavar": metavar, "group": _COLUMNS}
    return Field(default, description=help, json_schema_extra=extra)


def _in(group: str, default, help: str, **bounds):
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class ConvertJob(Checked):
    """What to convert, and how."""

    interactions: Sequence[str | Path] = Field(
        min_length=1, **_file("who did what and when; may be given several times")
    )
    items: Sequence[str | Path] = Field(
        (), **_file("what the items are; may be given several times")
    )
    out: str | Path = Field(description="folder to make, dataset/NAME")
    overwrite: bool = Field(False, description="replace a converted dataset")
    format: Literal["auto", "csv", "parquet", "json", "amazon2023"] = Field(
        "auto", description="by the name's ending, or amazon2023's json lines; .gz may follow"
    )

    user: str | None = _column()
    item: str | None = _column()
    time: str | None = _column(help="or none: lines are in the order of time")
    rating: str | None = _column(help="or none: do without")
    items_id: str | None = _column(help="the item in --items")
    item_fields: Sequence[str] | None = _column(help="what makes an item's text", metavar="A,B,C")
    time_unit: str = _column(
        "auto", "auto, s, ms, us, ns, number, text, or like %d.%m.%Y", metavar="UNIT"
    )

    min_user: int = _in("what to keep", 5, "interactions per user", ge=1)
    min_item: int = _in("what to keep", 5, "interactions per item", ge=1)
    min_rating: float | None = _in("what to keep", None, "drop lower ratings")
    dedupe: Literal["exact", "first", "last", "none"] = _in(
        "what to keep",
        "exact",
        "exact: same user, item and time count once; first, last: same user and item do, and that "
        "one stays",
    )
    without_metadata: Literal["drop", "keep"] = _in(
        "what to keep", "drop", "what happens to items that are not in --items"
    )

    delimiter: str | None = _in("csv files", None, "one character; empty: what the first line has")
    columns: Sequence[str] | None = _in(
        "csv files",
        None,
        "names, where the first line has none; one with a comma in it in double quotes",
    )
    encoding: str = _in("csv files", "utf-8", "of the files")
    progress: bool = Field(True, description="show how far it is")


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
    if any(letter.isspace() for letter in str(out)) or not out.name:
        raise UserError(
            f"--out is {str(out)!r}; give a folder without blanks, as settings files are "
            "separated by them, whose name becomes the dataset's.",
            key="out",
        )
    refuse_inputs(out, [*job.interactions, *job.items])
    require_free(out, job.overwrite, writing.converted_files, _WHAT)


def _open(job, path) -> RecordFile:
    kind = {"auto": None, "amazon2023": "json"}.get(job.format, job.format)
    return open_records(
        path, kind, delimiter=job.delimiter, names=job.columns, encoding=job.encoding
    )


def _roles(job, sources):
    roles: dict = {}
    for source in sources:
        for role in ("user", "item", "rating", "time"):
            given = getattr(job, role) or (AMAZON[role] if job.format == "amazon2023" else None)
            column = find(role, source.columns, given, source.path.name)
            if roles.setdefault(role, column) != column:
                raise UserError(
                    f"{source.path.name}: the {role} would be {column!r}, but {roles[role]!r} in "
                    f"{sources[0].path.name}; say which with --{role}=COLUMN.",
                    key=role,
                    where=source.path,
                )
    if job.min_rating is not None and not roles["rating"]:
        raise UserError(
            "--min_rating needs ratings, but no column looks like them; name it with --rating.",
            key="rating",
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
        raise UserError(
            "--item_fields says what to take of --items; give that file, too.", key="items"
        )
    return fields


# -- after reading ------------------------------------------------------------------------


def _filtered(job, found: Interactions, lines: ItemLines | None):
    """The interactions to write, by user and time, and what each step dropped."""
    steps: dict[str, int] = {}
    kept = found.keep(in_order(found))
    repeats = repeated(kept, job.dedupe)
    steps["repeated"] = int(repeats.sum())
    kept = kept.keep(~repeats)
    if lines is not None and job.without_metadata == "drop":
        has = lines.has[kept.items]
        steps["without_metadata"] = int((~has).sum())
        kept = kept.keep(has)
    before = kept.sizes()
    left, steps["rounds"] = k_core(kept.users, kept.items, job.min_user, job.min_item)
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
