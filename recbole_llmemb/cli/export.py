"""Write what another system serves a trained checkpoint from.

Each part is read back and compared with the model.

  recbole-llm export --checkpoint=saved/M.pth --out=served
  recbole-llm export --checkpoint=saved/M.pth --what=all --out=served
  recbole-llm export --checkpoint=saved/M.pth --what=items,index --index=HNSW32 --out=served

parts (--what):
  items, users  vectors whose inner products are the model's scores, and their tokens
  index         a FAISS index over the items
  encoder       history to user vector, by torch.export
  table         the LLM table with a dataset card for the Hugging Face hub
"""

from __future__ import annotations

import re
from typing import Literal

from recbole_llmemb.cli.options import Options
from recbole_llmemb.cli.recommend import CheckpointOptions, open_checkpoint, say
from recbole_llmemb.core.checked import option
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import refuse_inputs

_PARTS = ("items", "users", "index", "encoder", "table")


class ExportOptions(CheckpointOptions):
    """Which parts, and where to."""

    out: str = option(..., "directory to make", min_length=1)
    overwrite: bool = option(False, "replace an export that is there")
    what: list[Literal["all", "items", "users", "index", "encoder", "table"]] = option(
        ["items", "users"], "parts, or all that the model has", metavar="PARTS"
    )
    format: Literal["safetensors", "parquet"] = option("safetensors", "of items and users")
    index: str = option("Flat", "FAISS' name of an index")
    push: str | None = option(
        None, "upload the table to the Hugging Face hub, as a dataset", metavar="USER/NAME"
    )
    public: bool = option(False, "where it is made: for everybody")


def main(argv: list[str]) -> int:
    """Run ``recbole-llm export``."""
    options = Options("export", __doc__).read(ExportOptions, argv)
    parts: list[str] = [*_PARTS] if "all" in options.what else [*options.what]
    if not parts:
        raise UserError(f"--what names nothing; give all, or some of {', '.join(_PARTS)}.")
    if options.push is not None and not options.push.strip():
        raise UserError("--push is empty; name a repository, or leave it off.", key="push")
    if options.index != ExportOptions.model_fields["index"].default and "index" not in parts:
        raise UserError(
            "--index is for the index; add it to --what, or leave --index.", key="index"
        )
    if options.push and "table" not in parts:
        raise UserError("--push uploads the table; add it to --what (--what=table).", key="push")
    if options.push and not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]{0,95}", options.push, re.A):
        told = f"--push is {options.push!r:.100}, which is no name on the hub; write USER/NAME."
        raise UserError(told, key="push")
    if options.public and not options.push:
        raise UserError("--public is for --push; add it, or leave --public.", key="public")
    refuse_inputs(options.out, [options.checkpoint, options.new_items, options.llm_table])

    from recbole_llmemb.apps.serve import export  # only now: it loads libraries

    export.require_room(options.out)
    recommender = open_checkpoint(options)
    for part in _PARTS if "all" in options.what else ():
        try:
            export.check(recommender, part, options.format)
        except UserError as why:
            say(f"left out: {part} ({why})")
            parts.remove(part)
    out = export.export(
        recommender, options.out, parts, options.format, options.index, options.overwrite,
        show_progress=True,
    )  # fmt: skip
    if options.push:
        print(export.hub.push_table(out / "table", options.push, private=not options.public))
    return 0
