"""What to convert, and how: the fields of a job, of which command options are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recbole_llmemb.core.checked import Checked, option

_COLUMN = {"group": "columns, found by their names where not given", "metavar": "COL"}
_KEEP, _CSV = "what to keep", "csv files"


class ConvertJob(Checked):
    """What to convert, and how."""

    interactions: Sequence[str | Path] = option(
        ..., "who did what and when; may be given several times", metavar="FILE", repeat=True
    )
    items: Sequence[str | Path] = option(
        (), "what the items are; may be given several times", metavar="FILE", repeat=True
    )
    out: str | Path = option(..., "folder to make, dataset/NAME")
    overwrite: bool = option(False, "replace a converted dataset")
    format: Literal["auto", "csv", "parquet", "json", "amazon2023"] = option(
        "auto", "by the name's ending, or what it is; .gz may follow"
    )
    progress: bool = option(True, "tell how far it is", name="show_progress")

    user: str | None = option(None, "who", **_COLUMN)
    item: str | None = option(None, "what", **_COLUMN)
    time: str | None = option(None, "when; none: lines are in the order of time", **_COLUMN)
    rating: str | None = option(None, "how much it was liked; none: do without", **_COLUMN)
    items_id: str | None = option(None, "the item in --items", **_COLUMN)
    item_fields: Sequence[str] | None = option(
        None, "what makes an item's text", group=_COLUMN["group"]
    )
    time_unit: str = option(
        "auto", "auto, s, ms, us, ns, number, text, or like %d.%m.%Y", group=_COLUMN["group"]
    )

    min_user: int = option(5, "interactions per user", ge=1, group=_KEEP)
    min_item: int = option(5, "interactions per item", ge=1, group=_KEEP)
    min_rating: float | None = option(None, "drop lower ratings", group=_KEEP)
    dedupe: Literal["exact", "first", "last", "none"] = option(
        "exact",
        "exact: same user, item and time count once; first (or --dedupe alone), last: same user "
        "and item do, and that one stays",
        group=_KEEP,
    )
    without_metadata: Literal["drop", "keep"] = option(
        "drop", "what to do with items that --items do not have", group=_KEEP
    )
    keep_items: Literal["bought", "all"] = option(
        "bought",
        "all: items of --items stay in the .item file whose interactions are not there or were "
        "dropped; they are no part of training, and recommend --new_items ranks them",
        group=_KEEP,
    )

    delimiter: str | None = option(
        None, "one character, or tab (default: what the first line has)", group=_CSV
    )
    columns: Sequence[str] | None = option(
        None,
        "names, where the first line has none; one with a comma in it in double quotes",
        group=_CSV,
    )
    encoding: str = option("utf-8", "of the files", group=_CSV)
