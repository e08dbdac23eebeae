"""``recbole-llm recommend``: top items for users, new users and new items, from a checkpoint."""

from __future__ import annotations

import argparse
import sys

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import lines_of
from recbole_llmemb.core.token_lists import split_tokens

_DESCRIPTION = """\
Recommend with a trained checkpoint: to users of its dataset, to people known by a history alone,
and among items that it has never met.

  recbole-llm recommend --checkpoint=saved/M.pth --users=196,186 --topk=10
  recbole-llm recommend --checkpoint=saved/M.pth --users=all --exclude_seen --out=all.parquet
  recbole-llm recommend --checkpoint=saved/M.pth --history="50 181 174"
  recbole-llm recommend --checkpoint=saved/M.pth --users=196 --new_items=new.item

A token that holds a comma or a blank stands in double quotes, as in a csv file, and so does a user
who is called all: --users='"Smith, Anna",u2'  --history='"old item" B'  --users='"all"'
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm recommend``."""
    parser = argparse.ArgumentParser(
        prog="recbole-llm recommend",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_checkpoint_options(parser)
    people = parser.add_argument_group("for whom")
    people.add_argument("--users", help="user tokens of the dataset: u1,u2,… or all")
    people.add_argument(
        "--split",
        default="all",
        help="what is read of users: all they have met, or what evaluation on valid or test shows",
    )
    people.add_argument(
        "--history", action="append", help="item tokens, oldest first: 'A B C'; may be repeated"
    )
    people.add_argument(
        "--history_file", metavar="JSONL", help='lines of {"user": "anna", "history": ["A", "B"]}'
    )
    people.add_argument(
        "--skip_unknown", action="store_true", help="leave unknown items out of histories"
    )
    items = parser.add_argument_group("which items")
    items.add_argument("--topk", type=int, default=10, help="at most so many (default: 10)")
    items.add_argument(
        "--exclude_seen", action="store_true", help="leave out what somebody has met already"
    )
    items.add_argument("--candidates", metavar="FILE", help="choose among these: a token per line")
    items.add_argument("--report_users", type=int, default=1000,
                       help="users over whom the ranks of new items are reported; 0: none "
                       "(default: 1000)")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="FILE", help="default: a table on standard output")
    output.add_argument("--format", help="table, jsonl or parquet (default: by --out's suffix)")
    output.add_argument("--title_field", help="field of the items' titles (default: title or name)")
    output.add_argument("--batch_size", type=int, help="people at a time")
    return parser


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``recommend`` and ``export`` share."""
    parser.add_argument("--checkpoint", required=True, help="a .pth file that a run has saved")
    parser.add_argument("--data_path", help="the folder that holds the dataset's folder now")
    parser.add_argument("--llm_table", help="where the table of the checkpoint is now")
    parser.add_argument("--llm_model", help="where the LLM of an LLM-SRec is now")
    parser.add_argument("--align_teacher", help="where the checkpoint of its CF model is now")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0 (default: auto)")
    parser.add_argument(
        "--new_items",
        metavar="FILE",
        help="items to rank with the rest, without training: .item, .jsonl or a table directory",
    )
    add_trust_option(parser)


def add_trust_option(parser) -> None:
    """``--trust_remote_code``, which a checkpoint cannot say of itself."""
    parser.add_argument(
        "--trust_remote_code",
        "--llm_trust_remote_code",
        action="store_true",
        help="run code that comes with the encoder or LLM of the checkpoint; only where you have "
        "read it",
    )


def main(argv: list[str]) -> int:
    """Run ``recbole-llm recommend``; as :func:`recbole_llmemb.cli.encode.main`."""
    options = build_parser().parse_args(argv)
    _check(options)
    from recbole_llmemb.apps.serve.recommendations import check_out, format_of, write
    from recbole_llmemb.core.files import inputs_of, refuse_inputs

    chosen = format_of(options.out, options.format)
    asked = histories_of(options)
    candidates = None if options.candidates is None else read_candidates(options.candidates)
    typed = options.checkpoint, options.history_file, options.candidates, options.llm_table
    refuse_inputs(options.out, [*typed, options.new_items])
    check_out(options.out)
    recommender = open_checkpoint(options, options.title_field)
    refuse_inputs(options.out, inputs_of(recommender.config))
    if options.users is not None:
        people = recommender.people(users_of(options.users), split=options.split)
    else:
        histories, names, times, places = asked
        people = recommender.people(
            histories=histories, names=names, times=times, places=places,
            skip_unknown=options.skip_unknown,
        )  # fmt: skip
    for note in recommender.notes(people):
        say(f"note: {note}")
    batches = recommender.stream(
        people, options.topk, options.exclude_seen, candidates, options.batch_size,
        show_progress=options.out is not None,
    )  # fmt: skip
    count = write(batches, options.out, chosen)
    if options.out is not None:
        say(f"{options.out}: the best {options.topk} items of {count:,} people")
    if options.new_items and options.report_users:
        from recbole_llmemb.apps.serve.new_item_report import fare

        users = options.report_users
        report = fare(recommender, users, options.topk, show_progress=True)
        print(report, file=sys.stdout if options.out or chosen == "table" else sys.stderr)
    return 0


def _check(options):
    given = [options.users is not None, options.history is not None]
    given.append(options.history_file is not None)
    if sum(given) != 1:
        raise UserError(
            "Recommendations need somebody to be for: give one of --users (tokens, or all), "
            "--history (item tokens) and --history_file (jsonl)."
        )
    if options.users is None and options.split != "all":
        raise UserError("--split is for --users; a history is read as it is given.")
    for name, least in (("topk", 1), ("batch_size", 1), ("report_users", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}.")


def open_checkpoint(options, title_field=None):
    """The recommender that the options ask for, with its new items."""
    from recbole_llmemb.apps.serve import Recommender
    from recbole_llmemb.apps.serve.new_items import caveat

    recommender = Recommender(
        options.checkpoint, options.device, options.data_path, options.llm_table, title_field,
        options.trust_remote_code, options.llm_model, options.align_teacher,
    )  # fmt: skip
    if options.new_items:
        added = recommender.add_items(options.new_items)
        say(f"new items: {len(added):,} beside {recommender.dataset.item_num - 1:,}")
        if note := caveat(recommender.model):
            say(f"note: {note}")
    return recommender


def users_of(text: str):
    """``all``, or the tokens between commas, in quotes where they hold one."""
    if text.strip() == "all":
        return "all"
    tokens = split_tokens(text, where="--users")
    if not tokens:
        raise UserError("--users names nobody; write --users=u1,u2 or --users=all.")
    return tokens


def histories_of(options):
    """Histories, names, times and places of the options, None where users are asked for."""
    if options.history_file is not None:
        from recbole_llmemb.records.histories import read_histories

        return read_histories(options.history_file)
    if options.history is not None:
        histories = [split_tokens(text, " ", "--history") for text in options.history]
        names = [" ".join(tokens) or "(nothing)" for tokens in histories]
        return histories, [f"after {name}" for name in names], None, None
    return None


def read_candidates(path) -> list[str]:
    """Item tokens of a file, one per line."""
    try:
        lines = lines_of(path)
    except FileNotFoundError:
        raise UserError(f"There is no file {path} (--candidates); check the path.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} (--candidates) cannot be read as text: {error}.") from None
    return [line.strip() for line in lines if line.strip()]


def say(text: str) -> None:
    """Tell people something without mixing it into what is written."""
    print(text, file=sys.stderr, flush=True)
