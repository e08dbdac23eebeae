"""Recommend with a trained checkpoint, to users and among new items.

To users of its dataset, to people known by a history alone, and among items that it has never met.

  recbole-llm recommend --checkpoint=saved/M.pth --users=196,186 --topk=10
  recbole-llm recommend --checkpoint=saved/M.pth --users=all --exclude_seen --out=all.parquet
  recbole-llm recommend --checkpoint=saved/M.pth --history="50 181 174"
  recbole-llm recommend --checkpoint=saved/M.pth --users=196 --new_items=new.item

A token that holds a comma or a blank stands in double quotes, as in a csv file, and so does a user
who is called all: --users='"Smith, Anna",u2'  --history='"old item" B'  --users='"all"'
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from recbole_llmemb.apps import serve
from recbole_llmemb.cli.options import Options
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import inputs_of, lines_of, refuse_inputs, split_tokens
from recbole_llmemb.records.items import read_histories

_WHO, _ITEMS, _OUTPUT = "for whom", "which items", "output"


def _existing(path: str) -> str:
    if not os.path.exists(path):
        raise ValueError
    return path


def _moved(description: str) -> Any:
    return option(None, description, wanted="a path that exists")


Existing = Annotated[str, AfterValidator(_existing)]


class MovedFiles(Checked):
    """Where what a checkpoint was trained on is now, and what it cannot say of itself."""

    data_path: str | None = option(None, "the folder that holds the dataset's folder now")
    llm_table: Existing | None = _moved("where the table of the checkpoint is now")
    llm_model: str | None = option(None, "where the LLM of an LLM-SRec is now")
    align_teacher: Existing | None = _moved("where the checkpoint of its CF model is now")
    trust_remote_code: bool = option(
        False, "run code that comes with its encoder or LLM; only where you have read it",
        also=["llm_trust_remote_code"],
    )  # fmt: skip


class CheckpointOptions(MovedFiles):
    """What ``recommend`` and ``export`` share."""

    checkpoint: str = option(..., "a .pth file that a run has saved")
    device: str = option("auto", "auto, cpu or cuda:0")
    new_items: str | None = option(
        None, "items to rank without training: .item, .jsonl or a table directory", metavar="FILE"
    )


class RecommendOptions(CheckpointOptions):
    """For whom, among which items, and where to."""

    users: str | None = option(None, "user tokens of the dataset: u1,u2,… or all", group=_WHO)
    split: Literal["all", "valid", "test"] = option(
        "all", "read all that users have met, or what evaluation on valid or test shows", group=_WHO
    )
    history: list[str] = option(
        [], "item tokens, oldest first: 'A B C', again for more", group=_WHO, repeat=True,
        metavar="ITEMS",
    )  # fmt: skip
    history_file: str | None = option(
        None, 'lines of {"user": "anna", "history": ["A", "B"]}', group=_WHO, metavar="JSONL"
    )
    skip_unknown: bool = option(False, "leave unknown items out of histories", group=_WHO)
    topk: int = option(10, "at most so many", group=_ITEMS, ge=1)
    exclude_seen: bool = option(False, "leave out what somebody has met already", group=_ITEMS)
    candidates: str | None = option(
        None, "choose among these: a token per line", group=_ITEMS, metavar="FILE"
    )
    report_users: int = option(1000, "whom new items are ranked for; 0: none", group=_ITEMS, ge=0)
    out: str | None = option(
        None, "where to write; without, a table on standard output", group=_OUTPUT, metavar="FILE",
        pattern="[^/]$", wanted="the name of a file",
    )  # fmt: skip
    format: Literal["table", "jsonl", "parquet"] | None = option(
        None, "by default as the suffix of --out says", group=_OUTPUT
    )
    title_field: str | None = option(None, "of the items; else title or name", group=_OUTPUT)
    batch_size: int | None = option(None, "people at a time", group=_OUTPUT, ge=1)


def main(argv: list[str]) -> int:
    """Run ``recbole-llm recommend``."""
    options = Options("recommend", __doc__).read(RecommendOptions, argv)
    whom = _whom(options)
    candidates = None if options.candidates is None else read_candidates(options.candidates)
    typed = options.checkpoint, options.history_file, options.candidates, options.llm_table
    refuse_inputs(options.out, [*typed, options.new_items])

    if options.out is None and getattr(sys.stdout, "name", None) == os.devnull:  # by main
        raise UserError("Standard output is closed; give --out a file.", key="out")

    chosen = serve.format_of(options.out, options.format)
    recommender = open_checkpoint(options, options.title_field)
    refuse_inputs(options.out, inputs_of(recommender.config))
    people = recommender.people(**whom)
    for note in recommender.notes(people):
        say(f"note: {note}")
    batches = recommender.stream(
        people, options.topk, options.exclude_seen, candidates, options.batch_size,
        show_progress=options.out is not None,
    )  # fmt: skip
    count = serve.write(batches, options.out, chosen)
    if options.out is not None:
        most = min(options.topk, len(recommender.item_index) - 1)
        say(f"{options.out}: the best {most} items of {count:,} people")
    if options.new_items and options.report_users:
        users = options.report_users
        report = serve.rank_new_items(recommender, users, options.topk, show_progress=True)
        print(report, file=sys.stdout if options.out or chosen == "table" else sys.stderr)
    return 0


def open_checkpoint(options: CheckpointOptions, title_field: str | None = None):
    """The recommender that the options ask for, with its new items."""
    places = options.model_dump(exclude={"new_items"}, include=set(CheckpointOptions.model_fields))
    recommender = serve.Recommender(**places, title_field=title_field)
    if options.new_items:
        added = recommender.add_items(options.new_items)
        say(f"new items: {len(added):,} beside {recommender.dataset.item_num - 1:,}")
        if recommender.known_again:
            again = f"{recommender.known_again:,} of the file's items"
            say(f"note: known already, and as they were: {again}")
        if recommender.without_text:
            say(f"note: left out, as nothing is said of them: {recommender.without_text:,}")
        if note := recommender.method.new_item_note():
            say(f"note: {note}")
    return recommender


def _whom(options: RecommendOptions) -> dict[str, Any]:
    """For whom, as :meth:`Recommender.people` takes it."""
    users, file = options.users, options.history_file
    asked = {
        "--users": users is not None,
        "--history": options.history,
        "--history_file": file is not None,
    }
    given = [name for name, value in asked.items() if value]
    if len(given) != 1:
        told = f"got {' and '.join(given)}" if given else "need somebody to be for"
        advice = "give one of --users (tokens, or all), --history (item tokens) and --history_file"
        raise UserError(f"Recommendations {told}; {advice}.", key="users")
    if users is not None:
        return {"users": users_of(users), "split": options.split}
    if options.split != "all":
        raise UserError("--split is for --users; a history is read as it is given.", key="split")
    whom: dict[str, Any] = {"skip_unknown": options.skip_unknown}
    if file is not None:
        read = zip(("histories", "names", "times", "places"), read_histories(file))
        return whom | dict(read)
    histories = [split_tokens(text, " ", "--history") for text in options.history]
    names = [f"after {' '.join(tokens) or '(nothing)'}" for tokens in histories]
    return whom | {"histories": histories, "names": names}


def users_of(text: str) -> str | list[str]:
    """``all``, or the tokens between commas, in quotes where they hold one."""
    if text.strip() == "all":
        return "all"
    tokens = split_tokens(text, where="--users")
    if not tokens:
        raise UserError("--users names nobody; write --users=u1,u2 or --users=all.", key="users")
    return tokens


def read_candidates(path: str) -> list[str]:
    """Item tokens of a file, one per line."""
    sentence = f"{path} (--candidates) cannot be read as text ({{reason}}); check the path."
    with explained(sentence, OSError, ValueError, key="candidates", where=path):
        return [line for line in lines_of(path) if line.strip(" \t")]  # other blanks are tokens


def say(text: str) -> None:
    """Tell people something without mixing it into what is written."""
    print(text, file=sys.stderr, flush=True)
