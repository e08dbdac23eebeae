"""Compare runs by their result files: tables, tests and figures.

Means over seeds, changes and paired tests, from files that --result_json has written.

  recbole-llm compare runs/*.json
  recbole-llm compare ids=runs/id-*.json table=runs/table-1.json,runs/table-2.json
  recbole-llm compare runs/*.json --baseline=id --out=report

Runs that differ in their seed only are put together; LABEL=FILE,FILE puts together and names
whatever it is given. Changes are against the first, or --baseline. Where every run was made
with --save_users=True, users are compared one by one.

--out=DIR writes table.md, table.tex, figures/*.svg and report.html, one page that needs no
network.
"""

from __future__ import annotations

from textwrap import fill
from typing import Literal

from recbole_llmemb.apps import compare
from recbole_llmemb.cli.options import Options
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.terminal import width

_MAPS = "item maps (from the checkpoints, with --out)"


class CompareOptions(Checked):
    """Options of a comparison."""

    files: list[str] = option(
        [], "result files, or LABEL=FILE,FILE", positional=True, metavar="FILE"
    )
    labels: list[str] = option(
        [], "as LABEL=FILE,FILE alone, before the others", repeat=True, metavar="LABEL=FILES"
    )
    baseline: str | None = option(None, "a label, or what only one has", metavar="LABEL")
    metrics: list[str] = option([], "columns (default: all that the files have)")
    metric: str | None = option(None, "of the figures (default: what training watched)")
    test: Literal["t", "wilcoxon"] = option("t", "paired test over users")
    out: str | None = option(None, "where to write tables, figures and report", metavar="DIR")
    map: Literal["pca", "tsne", "none"] = option("pca", "how", group=_MAPS)
    category_field: str | None = option(None, "item field that colors them", group=_MAPS)
    data_path: str | None = option(None, "folder of the dataset's folder now", group=_MAPS)


def main(argv: list[str]) -> int:
    """Run ``recbole-llm compare``."""
    options = Options("compare", __doc__).read(CompareOptions, argv)
    from recbole_llmemb.core.reports import OutFolder

    if not (options.files or options.labels):
        raise UserError("There is nothing to compare; give files that --result_json has written.")
    groups = compare.read_groups([*options.labels, *options.files])
    groups = compare.choose_baseline(groups, options.baseline)
    found = compare.compare(groups, options.metrics, options.metric, options.test)
    folder = OutFolder(options.out, compare.LISTING, compare.NAMES) if options.out else None
    for table in compare.tables_of(found):
        print(compare.to_text(table), end="\n\n")
    for line in [*(f"{found.main}: {each}" for each in compare.verdict(found)), *found.notes]:
        print(fill(line, width()))
    if folder is not None:
        noted = len(found.notes)
        how = None if options.map == "none" else options.map
        files = compare.render_files(found, how, options.category_field, options.data_path)
        *_, page = folder.write(files)
        print(*found.notes[noted:], f"report: {page}", sep="\n")
    return 0
