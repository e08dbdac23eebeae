"""``recbole-llm compare``: results side by side."""

from __future__ import annotations

import argparse

from recbole_llmemb.core.token_lists import split_tokens

_DESCRIPTION = """\
Compare runs by their result files (--result_json): means over seeds, changes, paired tests.

  recbole-llm compare runs/*.json
  recbole-llm compare ids=runs/id-*.json table=runs/table-1.json,runs/table-2.json
  recbole-llm compare runs/*.json --baseline=id --out=report

Runs that differ in their seed only are put together; LABEL=FILE,FILE puts together and names
whatever it is given. Changes are against the first, or --baseline. Where every run was made
with --save_users=True, users are compared one by one.

--out=DIR writes table.md, table.tex, figures/*.png and report.html, one page that needs no
network.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm compare``."""
    parser = argparse.ArgumentParser(
        prog="recbole-llm compare",
        usage="recbole-llm compare FILE … [LABEL=FILE,FILE …] [--out=DIR] [--KEY=VALUE …]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="result files, or LABEL=FILE,FILE")
    parser.add_argument(
        "--labels", action="append", default=[], metavar="LABEL=FILES",
        help="the same as LABEL=FILE,FILE without the option, before the others",
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="LABEL", help="a label, or what only one has")
    parser.add_argument("--metrics", help="columns: a,b,c (default: all that the files have)")
    parser.add_argument("--metric", help="of the figures (default: what training watched)")
    parser.add_argument(
        "--test", choices=("t", "wilcoxon"), default="t", help="paired test over users (default: t)"
    )
    parser.add_argument("--out", metavar="DIR", help="where to write tables, figures and report")
    maps = parser.add_argument_group("item maps", "from the checkpoints, with --out")
    maps.add_argument(
        "--map", choices=("pca", "tsne", "none"), default="pca", help="how (default: pca)"
    )
    maps.add_argument("--category_field", help="field of the .item file that colours the items")
    maps.add_argument("--data_path", help="folder that holds the dataset's folder, if it moved")
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm compare``.

    Returns 0.
    """
    options = build_parser().parse_args(argv)
    from recbole_llmemb.apps.compare.comparison import compare
    from recbole_llmemb.apps.compare.grouping import choose_baseline, read_groups
    from recbole_llmemb.apps.compare.tables import tables_of, to_text
    from recbole_llmemb.core.errors import UserError
    from recbole_llmemb.core.out_folder import OutFolder

    if not (options.files or options.labels):
        raise UserError("There is nothing to compare; give files that --result_json has written.")
    folder = OutFolder(options.out, "report.html") if options.out else None
    groups = choose_baseline(read_groups([*options.labels, *options.files]), options.baseline)
    metrics = split_tokens(options.metrics or "", where="--metrics")
    found = compare(groups, metrics, options.metric, options.test)
    for table in tables_of(found):
        print(to_text(table), end="\n\n")
    noted = len(found.notes)
    for note in found.notes:
        print(note)
    if folder is not None:
        from recbole_llmemb.apps.compare.contents import contents_of

        how = None if options.map == "none" else options.map
        *_, page = folder.write(contents_of(found, how, options.category_field, options.data_path))
        for note in found.notes[noted:]:
            print(note)
        print(f"report: {page}")
    return 0
