"""``recbole-llm``: one command, one file per subcommand.

Nothing heavy is imported here, nor by a subcommand before it has looked at its arguments.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from recbole_llmemb import __version__
from recbole_llmemb.core.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Subcommand → what it is for. ``run`` is what happens without one.
COMMANDS = {
    "run": "train and rank a model, doing before it whatever is missing (the default)",
    "encode": "turn item text into an embedding table, or import one",
    "scft": "fine-tune an encoder on a dataset's items before (stage 1 of LLMEmb)",
    "tune": "search for the best settings of a model with Ray Tune",
    "recommend": "top items for users, new users and new items, from a checkpoint",
    "export": "item and user matrices, an index or a user encoder, from a checkpoint",
    "compare": "results side by side: tables, significance, figures, one HTML report",
    "order-test": "what checkpoints lose when histories are shuffled",
    "convert": "csv, parquet or json files to a RecBole dataset",
}
# Those of which the same command finds what was done, when it is given again.
_RESUMED = ("run", "encode", "scft")


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status: 0, 2 for bad input, 130 when interrupted,
    141 when whoever reads the output has enough.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    about = {"-h": "help", "--help": "help", "--version": "version"}
    command = about.get(argv[0], argv[0]) if argv else "run"
    command, argv = ("run", argv) if command.startswith("-") else (command, argv[1:])
    try:
        status = _run(command, argv)
        sys.stdout.flush()  # while a reader that has enough can be told from an error
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; the same command takes up what is done" if command in _RESUMED else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(command: str, argv: list[str]) -> int:
    if command in ("help", "version"):
        print(_usage() if command == "help" else f"recbole-llm {__version__}")
        return 0
    others = {} if command in COMMANDS else _elsewhere()
    if command not in COMMANDS and command not in others:
        names = ", ".join([*COMMANDS, *others])
        raise UserError(f"There is no subcommand {command!r}; it must be one of {names}.")
    try:
        if command in others:
            module = others[command].load()
        else:
            module = importlib.import_module(f"recbole_llmemb.cli.{command.replace('-', '_')}")
        return module.main(argv) or 0
    except ModuleNotFoundError as error:
        if error.name == "recbole":
            from recbole_llmemb import compat

            compat.apply()  # which says how to install it
        raise


def _elsewhere() -> dict[str, EntryPoint]:
    """Subcommands of other packages, which name a module with a ``main`` as an entry point."""
    from importlib.metadata import entry_points

    return {found.name: found for found in entry_points(group="recbole_llmemb.commands")}


def _usage() -> str:
    lines = ["usage: recbole-llm [COMMAND] [--key=value …]", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    lines += [f"  {name:<10} of {found.value}" for name, found in _elsewhere().items()]
    lines += ["", "recbole-llm COMMAND --help tells a command's options."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
