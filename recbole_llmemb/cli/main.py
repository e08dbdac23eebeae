"""``recbole-llm``: one command, one file per subcommand.

Nothing heavy is imported here, nor by a subcommand before it has looked at its arguments.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_llmemb import __version__
from recbole_llmemb.core.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Each in a file of its name, whose first line says what it is for; without any: ``run``.
COMMANDS = (
    "run", "encode", "scft", "tune", "recommend", "export", "compare", "order-test", "convert",
)  # fmt: skip
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
    lines = [
        "usage: recbole-llm [COMMAND] [--key=value …]",
        "",
        "commands (run, if none is given):",
    ]
    for name in COMMANDS:
        file = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
        with open(file, encoding="utf-8") as text:
            about = text.readline().strip('r".\n')
        lines.append(f"  {name:<10} {about}")
    lines += [f"  {name:<10} of {found.value}" for name, found in _elsewhere().items()]
    lines += ["", "recbole-llm COMMAND --help tells a command's options."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
