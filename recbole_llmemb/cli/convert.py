"""``recbole-llm convert``: csv, parquet or jsonl files to a RecBole dataset."""

from __future__ import annotations

import argparse
import time

from recbole_llmemb.core.token_lists import split_tokens

_DESCRIPTION = """\
Convert files of interactions, and of what the items are, to a dataset that RecBole reads.

  recbole-llm convert --interactions=ratings.csv --items=movies.csv --out=dataset/movies
  recbole-llm convert --interactions=All_Beauty.jsonl.gz --items=meta_All_Beauty.jsonl.gz \\
      --out=dataset/beauty2023

Columns are found by their names; where that is not clear, it asks. What was dropped, and why, is
counted in a table at the end, followed by the next command. The dataset's folder appears whole
or not at all.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm convert``."""
    parser = argparse.ArgumentParser(
        prog="recbole-llm convert",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--interactions", action="append", required=True, metavar="FILE",
        help="who did what and when; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--items", action="append", default=[], metavar="FILE",
        help="what the items are; may be given several times",
    )  # fmt: skip
    parser.add_argument("--out", required=True, help="folder to make, dataset/NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace a converted dataset")
    parser.add_argument(
        "--format", default="auto",
        help="auto (by the name's ending), csv, parquet, json or amazon2023; .gz may follow",
    )  # fmt: skip

    columns = parser.add_argument_group("columns", "found by their names where not given")
    columns.add_argument("--user", metavar="COL")
    columns.add_argument("--item", metavar="COL")
    columns.add_argument("--time", metavar="COL", help="or none: lines are in the order of time")
    columns.add_argument("--rating", metavar="COL", help="or none: do without")
    columns.add_argument("--items_id", metavar="COL", help="the item in --items")
    columns.add_argument("--item_fields", metavar="A,B,C", help="what makes an item's text")
    columns.add_argument(
        "--time_unit", default="auto", help="auto, s, ms, us, ns, number, text, or like %%d.%%m.%%Y"
    )

    keep = parser.add_argument_group("what to keep")
    keep.add_argument("--min_user", type=int, default=5, help="interactions per user (default: 5)")
    keep.add_argument("--min_item", type=int, default=5, help="interactions per item (default: 5)")
    keep.add_argument("--min_rating", type=float, help="drop lower ratings")
    keep.add_argument(
        "--dedupe", nargs="?", default="exact", const="first",
        help="exact: same user, item and time count once (default); first, last: same user and "
        "item do, and that one stays; none",
    )  # fmt: skip
    keep.add_argument(
        "--without_metadata", default="drop", help="drop (default) or keep items not in --items"
    )

    files = parser.add_argument_group("csv files")
    files.add_argument("--delimiter", help="one character (default: what the first line has)")
    files.add_argument(
        "--columns",
        metavar="A,B,C",
        help="names, where the first line has none; one with a comma in it in double quotes",
    )
    files.add_argument("--encoding", default="utf-8")
    parser.add_argument(
        "--show_progress", choices=("True", "False"), default="True", help="default: True"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm convert``; parameters and errors as of :mod:`recbole_llmemb.cli.encode`."""
    options = vars(build_parser().parse_args(argv))
    from recbole_llmemb.apps.convert import ConvertJob, convert

    began = time.perf_counter()
    for key in ("item_fields", "columns"):
        options[key] = _names(options[key])
    if options["delimiter"] in ("tab", "\\t"):
        options["delimiter"] = "\t"
    options["progress"] = options.pop("show_progress") == "True"
    done = convert(ConvertJob(**options))
    print(f"\n{done.table()}\n")
    print(f"dataset: {done.path} ({time.perf_counter() - began:.1f} s)")
    print(f"next:    {done.command()}")
    return 0


def _names(text):
    return split_tokens(text) if text else None
