r"""Convert csv, parquet or json files to a dataset that RecBole reads.

  recbole-llm convert --interactions=ratings.csv --items=movies.csv --out=dataset/movies
  recbole-llm convert --interactions=All_Beauty.jsonl.gz --items=meta_All_Beauty.jsonl.gz \
      --out=dataset/beauty2023

Columns are found by their names; where that is not clear, it asks. What was dropped, and why, is
counted in a table at the end, followed by the next command. The dataset's folder appears whole
or not at all.
"""

from __future__ import annotations

import time

from recbole_llmemb.apps import convert
from recbole_llmemb.cli.options import Options


def build_parser() -> Options:
    """The options of ``recbole-llm convert``."""
    return Options("convert", __doc__).add(convert.ConvertJob)


def main(argv: list[str]) -> int:
    """Run ``recbole-llm convert``."""
    began, argv = time.perf_counter(), list(argv)
    for place, word in enumerate(argv):
        if word == "--dedupe" and "".join(argv[place + 1 : place + 2])[:2] in ("", "--"):
            argv[place] = "--dedupe=first"
    job = convert.ConvertJob(**build_parser().typed(argv))
    done = convert.convert(job)
    print(f"\n{done.table()}\n")
    print(f"dataset: {done.path} ({time.perf_counter() - began:.1f} s)")
    print(f"next:    {done.command()}")
    return 0
