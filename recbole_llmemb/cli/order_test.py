"""Test what checkpoints lose when histories are shuffled.

They are evaluated on their test sets, with histories as they are and with shuffled ones.

  recbole-llm order-test --checkpoint=saved/LLMSRec-ml-100k-….pth
  recbole-llm order-test --checkpoint=A.pth,B.pth --mode=full,uni99 --out=order
  recbole-llm order-test --checkpoint=LLM-SRec=A.pth --checkpoint=SASRec=B.pth
  recbole-llm order-test --checkpoint=A.pth --shuffles=0 --exclude_history=False,True

A model that uses the order of a history must lose by this. The CF model of an LLM-SRec
checkpoint is tested along with it. --out=DIR writes order.json, order.md and order.svg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from recbole_llmemb.cli.options import Options, taken
from recbole_llmemb.cli.recommend import MovedFiles
from recbole_llmemb.config.keys import RANKING
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import split_tokens

_MEASURE = "evaluation (default: the checkpoint's settings)"


def _metric(name: str) -> str:
    from recbole_llmemb.evaluation.metrics import list_metrics

    if name.lower() not in list_metrics():
        raise ValueError
    return name


class OrderTestOptions(Checked):
    """What is tested, and how."""

    checkpoint: list[str] = option(
        ..., "what to test; again, or a,b, for more", repeat=True, metavar="[NAME=]FILE"
    )
    shuffles: int = option(5, "how often (0: not)", ge=0, le=10_000)
    seed: int = option(2020, "of the first; then seed + 1, …", ge=0)
    last: int | None = option(None, "shuffle only so many items at the end", ge=1)
    out: str | None = option(None, "where to write JSON, Markdown and figure", metavar="DIR")
    teacher: bool = option(True, "test the CF model of LLM-SRec, too")
    quiet: bool = option(False, "no progress bars")


class Changes(MovedFiles):
    """What differs from the settings of the checkpoints."""

    mode: list[Annotated[str, StringConstraints(pattern=f"^({RANKING})$")]] | None = option(
        None, "full, or uniNNN for NNN sampled items; a,b for both",
        min_length=1, wanted="full, uniNNN, popNNN, or several: a,b", group=_MEASURE,
    )  # fmt: skip
    exclude_history: list[Literal[False, True, "keep_target"]] | None = option(
        None, "leave a user's history out of the candidates: True, False or keep_target; a,b for "
        "both", min_length=1, wanted="True, False, keep_target, or several: a,b", group=_MEASURE,
    )  # fmt: skip
    metrics: list[Annotated[str, AfterValidator(_metric)]] = option(
        ["Hit", "NDCG"], "of ranked lists",
        min_length=1, wanted="metrics of ranked lists: Hit,NDCG", group=_MEASURE,
    )  # fmt: skip
    topk: list[Annotated[int, Field(ge=1)]] = option(
        [10, 20], "cut-offs", min_length=1, wanted="numbers of at least 1: 10,20", group=_MEASURE
    )
    user_sample: int | None = option(None, "so many users, the same ones", ge=1, group=_MEASURE)
    eval_batch_size: int | None = option(None, "users per batch", ge=1, group=_MEASURE)
    use_gpu: bool | None = option(None, "use a GPU if there is one", group=_MEASURE)
    llm_cache_dir: str | None = option(None, "where the cache of tables and teachers is now")


def build_parser() -> Options:
    """The options of ``recbole-llm order-test``."""
    return Options("order-test", __doc__).add(OrderTestOptions).add(Changes)


def main(argv: list[str]) -> int:
    """Run ``recbole-llm order-test``."""
    typed = build_parser().typed(argv)
    options, changes = taken(OrderTestOptions, typed), taken(Changes, typed)
    chosen = [_named(text) for given in options.checkpoint for text in _files(given)]
    if not chosen:
        raise UserError("--checkpoint names no file; give the path of a checkpoint.")
    if len(chosen) > 1:  # models' names would not tell them apart
        chosen = [(name or Path(file).stem, file) for name, file in chosen]
        if len({name for name, _ in chosen}) < len(chosen):
            told = "--checkpoint gives two models one name; give each its own, as NAME=FILE."
            raise UserError(told, key="checkpoint")

    from recbole_llmemb.apps.order_test import in_words, order_tests, render_files, to_text
    from recbole_llmemb.core.reports import OutFolder

    names = r"order\.(json|md|svg|png)"  # png: of earlier versions
    folder = OutFolder(options.out, "order.json", names) if options.out else None
    found = order_tests(
        chosen, options.teacher, shuffles=options.shuffles, seed=options.seed, last=options.last,
        changes={**changes.model_dump(exclude_none=True), "show_progress": not options.quiet},
    )  # fmt: skip
    print(f"\n{to_text(found)}\n\n{in_words(found)}")
    for file in folder.write(render_files(found)) if folder else ():
        print(f"written: {file}")
    return 0


def _files(text: str) -> list[str]:
    """Files between commas, in quotes where a name holds one; or the one that is there."""
    return [text] if Path(_named(text)[1]).is_file() else split_tokens(text, where="--checkpoint")


def _named(text: str) -> tuple[str | None, str]:
    """Name (None if there is none) and file of ``NAME=FILE``."""
    name, given, file = text.partition("=")
    return (name, file) if given and not Path(text).is_file() else (None, text)
