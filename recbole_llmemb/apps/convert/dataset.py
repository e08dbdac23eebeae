"""From files of any kind to a dataset that RecBole reads, with a count of what was dropped."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recbole_llmemb.apps.convert import Converted, ConvertJob, columns, interactions
from recbole_llmemb.apps.convert.columns import AMAZON, ItemLines, line_of
from recbole_llmemb.apps.convert.interactions import Interactions, sizes
from recbole_llmemb.config.values import check_dataset
from recbole_llmemb.core.artifacts import atomic_directory, require_free
from recbole_llmemb.core.errors import UserError, explained, name_some
from recbole_llmemb.core.files import asked_hash, content_of, refuse_inputs
from recbole_llmemb.core.terminal import counted
from recbole_llmemb.records.reader import RecordFile, open_records

_WHAT = "a converted dataset"
_ROWS = 100_000
_MARK = "# Made by recbole-llm convert"
_ASKED = "# Asked for: "
_HAS_ITEMS = "# The .item file beside it was made with it."


def convert(job: ConvertJob, report: Callable = print) -> Converted:
    """Convert files to a dataset; the folder appears whole or not at all.

    ``report``: told in one line each what was found out about the files.
    """
    out = Path(job.out)
    _check(job, out)
    sources = [_open(job, path) for path in job.interactions]
    files = [_open(job, path) for path in job.items]
    settings = job.model_dump(exclude={"out", "overwrite", "progress"})
    asked = asked_hash(settings, [*job.interactions, *job.items])
    again = _ASKED + asked in _settings_lines(out)
    require_free(out, job.overwrite or again, converted_files, _WHAT)
    roles, metadata = _columns(job, sources, files)
    fields = _fields(job, metadata)
    columns.check_names(fields)
    clock = interactions.Clock(job.time_unit, roles["time"])

    with explained("A user or item is no text ({reason}).", UnicodeDecodeError, RecursionError):
        found = interactions.read_interactions(sources, roles, clock, job.min_rating, job.progress)
    named = [f"{role} = {column}" for role, column in roles.items() if column and role != "time"]
    time = f"time = {roles['time']} ({clock})" if roles["time"] else "time = order of the lines"
    report(f"interactions: {', '.join(named)}, {time}")
    if metadata:
        report(f"items: {metadata[0][1]}, text from {', '.join(fields)}")

    with (
        atomic_directory(out, job.overwrite, converted_files, _WHAT, again) as folder,
        tempfile.TemporaryDirectory(".tmp", f".{out.name}.", out.parent) as scratch,
    ):
        lines = None
        if metadata:
            where = Path(scratch) / "items"
            no_text = "A value is no text ({reason}); leave its column out with --item_fields."
            with explained(no_text, UnicodeDecodeError, RecursionError, key="item_fields"):
                lines = columns.gather(
                    metadata, fields, found.items, where, job.progress, job.keep_items == "all"
                )
        kept = _filtered(job, found, lines)
        tokens = found.items if lines is None else lines.tokens
        present = np.zeros(len(tokens), dtype=bool)
        present[kept["item"]] = True
        write_interactions(folder / f"{out.name}.inter", kept, found.users, tokens)
        if lines is not None:
            written = present | (job.keep_items == "all")
            write_items(folder / f"{out.name}.item", lines, written)
        about, settings = _settings(job, kept, lines, present)
        about.append(_ASKED.removeprefix("# ") + asked)
        write_settings(folder / f"{out.name}.yaml", about, settings)
    if lines is not None:
        rows, others = lines.rows, lines.has & ~written
        rows.row("  - of items whose interactions were dropped", others.sum())
        rows.row("item lines written", (lines.has & written).sum())
        if job.keep_items == "all":
            rows.row("  of them without interactions", (lines.has & ~present).sum())
        rows.row("  with nothing in them", (lines.empty & written).sum())
        rows.row("items without metadata", (~lines.has).sum())
        found.rows += rows
    return Converted(out, out / f"{out.name}.yaml", *sizes(kept), lines is not None, found.rows)


# -- before reading -----------------------------------------------------------------------


def _check(job, out):
    if not job.interactions:
        told = "There is nothing to convert; give --interactions=FILE."
        raise UserError(told, key="interactions")
    for key, files in (("interactions", job.interactions), ("items", job.items)):
        if len({os.path.realpath(file) for file in files}) < len(files):
            raise UserError(f"--{key} names the same file twice; give it once.", key=key)
    if any(letter.isspace() for letter in str(out)) or not out.name:
        told = f"--out is {str(out)!r}; give a folder without blanks: its name is the dataset's."
        raise UserError(told, key="out")
    check_dataset(out.name)
    if out.name.strip("'\"").lower() in ("", "none", "null", "~"):
        told = (
            f"--out is {str(out)!r}; its name would be the dataset's, and means that there is none"
        )
        raise UserError(f"{told}; give the folder another.", key="out")
    refuse_inputs(out, [*job.interactions, *job.items])
    require_free(out, True, converted_files, _WHAT)


def _open(job, path) -> RecordFile:
    kind = {"auto": None, "amazon2023": "json"}.get(job.format, job.format)
    delimiter = "\t" if job.delimiter in ("tab", "\\t") else job.delimiter
    return open_records(path, kind, delimiter=delimiter, names=job.columns, encoding=job.encoding)


def _roles(job, sources):
    roles: dict = {}
    for source in sources:
        amazon = AMAZON if job.format == "amazon2023" else dict.fromkeys(AMAZON)
        given = {role: getattr(job, role) or amazon[role] for role in AMAZON}
        for role, column in columns.find(given, source.columns, source.path.name).items():
            if roles.setdefault(role, column) != column:
                told = f"{source.path.name}: the {role} would be {column!r}, but {roles[role]!r} in"
                none = " (none: without)" if role in ("time", "rating") else ""
                advice = f"{sources[0].path.name}; say which with --{role}=COLUMN{none}"
                raise UserError(f"{told} {advice}.", key=role, where=source.path)
    if job.min_rating is not None and not roles["rating"]:
        none = "--rating is none" if job.rating == "none" else "no column looks like them"
        told = f"--min_rating needs ratings, but {none}; name their column with --rating."
        raise UserError(told, key="rating")
    return roles


def _columns(job, sources, files):
    """Roles of the interactions' columns, and each file of items with its item column."""
    roles, problems = {}, []
    try:
        roles = _roles(job, sources)
    except UserError as error:
        problems.append(error)
    metadata = []
    for file in files:
        given = roles.get("item") if roles.get("item") in file.columns else None
        try:
            column = columns.find_item(job.items_id or given, file.columns, file.path.name)
            metadata.append((file, column))
        except UserError as error:
            problems.append(error)
    if problems:  # of all files at once, so that one more try is enough
        first = problems[0]
        raise UserError(" ".join(map(str, problems)), key=first.key, where=first.where)
    return roles, metadata


def _fields(job, metadata):
    fields: list[str] = []
    offered = list(dict.fromkeys(c for source, _ in metadata for c in source.columns))
    if metadata:
        source, item = metadata[0]
        fields = columns.text_fields(offered, job.item_fields, item, source.path.name)
    elif job.item_fields or job.keep_items == "all":
        option = "--item_fields" if job.item_fields else "--keep_items=all"
        raise UserError(f"{option} is about --items; give that file, too.", key="items")
    return fields


# -- after reading ------------------------------------------------------------------------


def _filtered(job, found: Interactions, lines: ItemLines | None) -> pd.DataFrame:
    """The interactions to write, by user and time; the report tells what each step dropped."""
    table, rows = found.table, found.rows
    table = table.iloc[np.lexsort((table["time"], table["user"]))]  # stable
    repeats = interactions.repeated(table, job.dedupe)
    same = {"exact": "user, item and time", "none": "-"}.get(job.dedupe, "user and item")
    rows.row(f"  - repeated (same {same})", repeats.sum())
    table = table[~repeats]
    if lines is not None and job.without_metadata == "drop":
        has = lines.has[table["item"]]
        rows.row("  - of items without metadata", (~has).sum())
        table = table[has]
    users, items = (table[name].to_numpy() for name in ("user", "item"))
    left, rounds = interactions.k_core(users, items, job.min_user, job.min_item)
    kept = table[left]
    gone = [was - now for was, now in zip(sizes(table), sizes(kept))]
    rows.row(
        f"  - fewer than {job.min_user} per user or {job.min_item} per item",
        gone[0],
        f"in {counted(rounds, 'round')}; {gone[1]:,} users and {gone[2]:,} items went with them",
    )
    if not len(kept):
        lost = sorted((row for row in rows[1:] if row.count), key=lambda row: -row.count)
        files = name_some([Path(path).name for path in job.interactions], 3)
        told = f"Nothing is left of {rows[0].count:,} lines of {files}"
        reasons = [
            f"{row.count:,} are {row.what.strip(' -')!r}" + (f" ({row})" if str(row) else "")
            for row in lost
        ]
        told = ": ".join([told, ", ".join(reasons)] if lost else [told])
        advice = "check the columns, or lower --min_user, --min_item and --min_rating"
        advice = next((row.why for row in lost[:1] if row.why), advice)
        raise UserError(f"{told}; {advice}.", key="min_user")
    for what, count in zip(("interactions written", "  users", "  items"), sizes(kept)):
        rows.row(what, count)
    return kept


def _settings(job, kept, lines, present):
    count, users, items = sizes(kept)
    files = ", ".join(Path(path).name for path in [*job.interactions, *job.items])
    about = [
        f"from {files}",
        f"{count:,} interactions of {users:,} users with {items:,} items.",
        "For --config_files; a key of it that is given on the command line wins.",
    ]
    inter = ["user_id", "item_id", "timestamp"]
    inter[2:2] = ["rating"] if "rating" in kept else []
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


# -- writing ------------------------------------------------------------------------------


def converted_files(folder: Path) -> list[str]:
    """What :func:`convert` wrote into a folder, which alone it may replace."""
    lines, name = _settings_lines(folder), folder.name
    if not lines or not lines[0].startswith(_MARK):
        return []
    return [f"{name}.yaml", f"{name}.inter"] + [f"{name}.item"] * (_HAS_ITEMS in lines)


def _settings_lines(folder: Path) -> list[str]:
    try:
        text = content_of(folder / f"{folder.name}.yaml").decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()


def write_interactions(path: Path, table, users: list[str], items: list[str]) -> None:
    """Write ``.inter`` from rows by user, then time; ``users``, ``items``: tokens by number."""
    ratings = ["rating:float"] if "rating" in table else []
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(line_of(["user_id:token", "item_id:token", *ratings, "timestamp:float"]))
        for begin in range(0, len(table), _ROWS):
            piece = table.iloc[begin : begin + _ROWS]
            cells: list[Any] = [map(users.__getitem__, piece["user"])]
            cells.append(map(items.__getitem__, piece["item"]))
            if ratings:
                cells.append(map(_shown, piece["rating"].tolist()))
            cells.append(map(_shown, piece["time"].tolist()))
            file.writelines(map(line_of, zip(*cells)))


def _shown(value: float) -> float:
    return int(value) if value.is_integer() else value


def write_items(path: Path, lines, kept) -> None:
    """Write ``.item`` from the gathered lines of the items that were kept, ``(n_items,)``."""
    with (
        open(lines.path, encoding="utf-8", newline="\n") as source,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        kinds = ["float" if number else "token_seq" for number in lines.numeric]
        fields = [f"{name}:{kind}" for name, kind in zip(lines.fields, kinds)]
        file.write(line_of(["item_id:token", *fields]))
        for line in source:
            number, *cells = line.removesuffix("\n").split("\t")
            if kept[int(number)]:
                file.write(line_of([lines.tokens[int(number)], *cells]))


def write_settings(path: Path, about: list[str], settings: dict[str, tuple]) -> None:
    """Write a property file, the last of the folder: each key, its value and what it means."""
    lines = [_MARK + f" {about[0]}", *(f"# {line}" for line in about[1:])]
    lines += [_HAS_ITEMS] * path.with_suffix(".item").is_file()
    for key, (value, meaning) in settings.items():
        shown = yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]
        lines.append(f"{key}: {shown}  # {meaning}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
