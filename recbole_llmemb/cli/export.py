"""``recbole-llm export``: vectors, an index, a user encoder and the table of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.token_lists import split_tokens

_DESCRIPTION = """\
Write what another system serves a trained checkpoint from. Each part is read back and compared
with the model.

  recbole-llm export --checkpoint=saved/M.pth --out=served
  recbole-llm export --checkpoint=saved/M.pth --what=all --out=served
  recbole-llm export --checkpoint=saved/M.pth --what=items,index --index=HNSW32 --out=served

parts (--what):
  items, users  vectors whose inner products are the model's scores, and their tokens
  index         a FAISS index over the items
  encoder       history to user vector, by torch.export
  table         the LLM table with a dataset card for the Hugging Face hub
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm export``."""
    from recbole_llmemb.cli.recommend import add_checkpoint_options

    parser = argparse.ArgumentParser(
        prog="recbole-llm export",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_checkpoint_options(parser)
    parser.add_argument("--out", required=True, help="directory to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument(
        "--what", default="items,users", help="parts, or all that the model has (items,users)"
    )
    parser.add_argument(
        "--format", default="safetensors", help="of items and users: safetensors or parquet"
    )
    parser.add_argument("--index", default="Flat", help="FAISS' name of an index (default: Flat)")
    parser.add_argument(
        "--push", metavar="USER/NAME", help="upload the table to the Hugging Face hub, as a dataset"
    )
    parser.add_argument("--public", action="store_true", help="where it is made: for everybody")
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm export``; as :func:`recbole_llmemb.cli.encode.main`."""
    options = build_parser().parse_args(argv)
    from recbole_llmemb.apps.serve.export import PARTS, check, export, export_files
    from recbole_llmemb.cli.recommend import open_checkpoint, say
    from recbole_llmemb.core.directories import require_free
    from recbole_llmemb.core.files import refuse_inputs

    everything = options.what == "all"
    parts = PARTS if everything else split_tokens(options.what, where="--what")
    if options.push and "table" not in parts:
        raise UserError("--push uploads the table; add it to --what (--what=table).")
    _check_names(parts, options, PARTS)
    refuse_inputs(options.out, [options.checkpoint, options.new_items, options.llm_table])
    require_free(Path(options.out), options.overwrite, export_files, "an export")
    recommender = open_checkpoint(options)
    if everything:
        kept = []
        for part in parts:
            try:
                check(recommender, [part], options.format)
                kept.append(part)
            except UserError as why:
                say(f"left out: {part} ({why})")
        parts = kept
    out = export(
        recommender, options.out, parts, options.format, options.index, options.overwrite,
        show_progress=True,
    )  # fmt: skip
    if options.push:
        from recbole_llmemb.apps.serve.export_parts import push_table

        print(push_table(out / "table", options.push, private=not options.public))
    return 0


def _check_names(parts, options, known):
    """What can be refused before anything is read."""
    from recbole_llmemb.apps.serve.export_parts import FORMATS

    if not parts:
        raise UserError(f"--what names nothing; give all, or some of {', '.join(known)}.")
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise UserError(
            f"--what names {unknown[0]!r}; it must be all, or some of {', '.join(known)}."
        )
    if options.format not in FORMATS:
        raise UserError(f"--format is {options.format!r}; it must be {' or '.join(FORMATS)}.")
