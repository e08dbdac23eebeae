"""``recbole-llm order-test``: what checkpoints lose when histories are shuffled."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_llmemb.core.token_lists import split_tokens

_DESCRIPTION = """\
Evaluate checkpoints on their test sets, with histories as they are and with shuffled ones.

  recbole-llm order-test --checkpoint=saved/LLMSRec-ml-100k-….pth
  recbole-llm order-test --checkpoint=A.pth,B.pth --mode=full,uni99 --out=order
  recbole-llm order-test --checkpoint=LLM-SRec=A.pth --checkpoint=SASRec=B.pth
  recbole-llm order-test --checkpoint=A.pth --shuffles=0 --exclude_history=False,True

A model that uses the order of a history must lose by this. The CF model of an LLM-SRec
checkpoint is tested along with it. --out=DIR writes order.json, order.md and order.png.
"""
_CHANGES = ("metrics", "topk", "user_sample", "data_path", "llm_table", "llm_model",
            "align_teacher", "eval_batch_size", "llm_cache_dir", "use_gpu",
            "trust_remote_code")  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm order-test``."""
    from recbole_llmemb.cli.recommend import add_trust_option

    parser = argparse.ArgumentParser(
        prog="recbole-llm order-test",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", action="append", required=True, metavar="[NAME=]FILE",
        help="what to test; again, or separated by commas, for more",
    )  # fmt: skip
    parser.add_argument("--shuffles", type=int, default=5, help="how often (default: 5; 0: not)")
    parser.add_argument("--seed", type=int, default=2020, help="of the first; then seed + 1, …")
    parser.add_argument("--last", type=int, help="shuffle only so many items at the end")
    parser.add_argument("--out", metavar="DIR", help="where to write JSON, Markdown and figure")
    parser.add_argument(
        "--teacher", action=argparse.BooleanOptionalAction, default=True,
        help="whether the CF model of LLM-SRec is tested too",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")

    changed = parser.add_argument_group("evaluation", "default: the checkpoint's settings")
    changed.add_argument("--mode", help="full, or uniNNN for NNN sampled items; a,b for both")
    changed.add_argument(
        "--exclude_history",
        help="whether what a user met is no candidate: True, False or keep_target; a,b for both",
    )
    changed.add_argument("--metrics", default="Hit,NDCG", help="a,b,c (default: %(default)s)")
    changed.add_argument("--topk", default="10,20", help="cut-offs (default: %(default)s)")
    changed.add_argument("--user_sample", type=int, help="only this many users, always the same")
    changed.add_argument("--eval_batch_size", type=int, help="users per batch")
    changed.add_argument("--use_gpu", type=_switch, help="True or False")

    moved = parser.add_argument_group("files", "where they are not any more where they were")
    moved.add_argument("--data_path", help="folder that holds the dataset's folder")
    moved.add_argument("--llm_table", help="the embedding table")
    moved.add_argument("--llm_model", help="the LLM of LLM-SRec")
    moved.add_argument("--align_teacher", help="the checkpoint of its CF model")
    moved.add_argument("--llm_cache_dir", help="the cache of tables and teachers")
    add_trust_option(parser)
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm order-test``.

    Returns 0.
    """
    options = build_parser().parse_args(argv)
    from recbole_llmemb.core.errors import UserError

    for name, least in (("shuffles", 0), ("last", 1), ("user_sample", 1), ("eval_batch_size", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}.")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; it must not be negative.")
    chosen = [_named(text) for given in options.checkpoint for text in _files(given)]
    if not chosen:
        raise UserError("--checkpoint names no file; give the path of a checkpoint.")
    if len(chosen) > 1:  # models' names would not tell them apart
        chosen = [(name or Path(file).stem, file) for name, file in chosen]
    changes = _changes(options)

    from recbole_llmemb.apps.order_test.report import contents_of, to_text, told
    from recbole_llmemb.apps.order_test.shuffling import order_test, settings_of, teacher_of
    from recbole_llmemb.core.out_folder import OutFolder

    folder = OutFolder(options.out, "order.json") if options.out else None
    shared = {"shuffles": options.shuffles, "seed": options.seed, "last": options.last}
    found, seen = [], {str(file) for _, file in chosen}
    for name, file in chosen:
        found += order_test(file, name=name, changes=changes, **shared)
        teacher = teacher_of(file, changes) if options.teacher else None
        if teacher and teacher not in seen:
            seen.add(teacher)
            own = {**settings_of(file), **changes}
            label = f"CF model of {name}" if name else "CF model"
            found += order_test(teacher, name=label, changes=own, **shared)
    print()
    print(to_text(found))
    print(f"\n{told(found)}")
    if folder:
        for file in folder.write(contents_of(found)):
            print(f"written: {file}")
    return 0


def _changes(options):
    """What the options say of the configuration."""
    from recbole_llmemb.core.errors import UserError

    changes = {key: getattr(options, key) for key in _CHANGES}
    changes["metrics"] = _metrics(options.metrics)
    cutoffs = split_tokens(options.topk, where="--topk")
    if not cutoffs or not all(k.isdecimal() and int(k) for k in cutoffs):
        raise UserError(f"--topk is {options.topk!r}; it must be numbers: 10,20.")
    changes["topk"] = [int(k) for k in cutoffs]
    if options.mode is not None:
        changes["modes"] = _modes(options.mode)
    if options.exclude_history is not None:
        changes["exclude_history"] = _histories(options.exclude_history)
    for name in ("llm_table", "align_teacher"):
        given = changes[name]
        if given is not None and not Path(given).exists():
            raise UserError(f"--{name} {given} does not exist; give the one of the checkpoint.")
    changes["show_progress"] = not options.quiet
    return {key: value for key, value in changes.items() if value is not None}


def _metrics(text):
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    from recbole_llmemb.config.recbole_checks import WITHOUT_CUTOFF
    from recbole_llmemb.core.errors import UserError

    offered = {
        name
        for name, kind in metric_types.items()
        if kind == EvaluatorType.RANKING and name not in WITHOUT_CUTOFF
    }
    chosen = split_tokens(text, where="--metrics")
    if not chosen or any(name.lower() not in offered for name in chosen):
        raise UserError(
            f"--metrics is {text!r}; it must be metrics of ranked lists: "
            f"{', '.join(sorted(offered))}."
        )
    return chosen


def _modes(text):
    from recbole_llmemb.config.recbole_checks import check_mode
    from recbole_llmemb.core.errors import UserError

    modes = split_tokens(text, where="--mode")
    if not modes or "labeled" in modes:
        raise UserError(f"--mode is {text!r}; it must be full, uniNNN, popNNN, or several: a,b.")
    for mode in modes:
        check_mode(mode)
    return modes


def _histories(text):
    from recbole_llmemb.config.measure import VALUES
    from recbole_llmemb.config.recbole_config import typed_value
    from recbole_llmemb.core.errors import UserError

    chosen = split_tokens(text, where="--exclude_history")
    found = [typed_value("exclude_history", part) for part in chosen]
    if not found or any(value not in VALUES for value in found):
        raise UserError(
            f"--exclude_history is {text!r}; it must be True, False or keep_target, or several: "
            "a,b."
        )
    return found


def _files(text):
    """Files between commas, in quotes where a name holds one; or the one that is there."""
    return [text] if Path(_named(text)[1]).is_file() else split_tokens(text, where="--checkpoint")


def _named(text):
    """Name (None if there is none) and file of ``NAME=FILE``."""
    name, given, file = text.partition("=")
    if not given or Path(text).is_file():
        return None, text
    return name, file


def _switch(text):
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
