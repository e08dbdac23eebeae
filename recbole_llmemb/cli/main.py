"""``recbole-llm``: one command, one file per subcommand.

Nothing heavy is imported here, nor by a subcommand before it has looked at its arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_llmemb import __version__
from recbole_llmemb.core.errors import UserError, causes, explained, in_a_sentence, storage_error
from recbole_llmemb.core.files import NO_TEXT
from recbole_llmemb.core.terminal import printable

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
    _open_streams()
    logging.raiseExceptions = False  # a log that cannot be written stops nothing
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _pass_over_storage
    if any(word.startswith("error") for word in sys.warnoptions):
        warnings.simplefilter("default")  # those of libraries are no errors of ours
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as the package has left it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _refuse_broken(argv)
        with explained("The working folder is gone ({reason}); change into another.", OSError):
            os.getcwd()  # without which MKL ends the process
        status = _run(command, argv)
        sys.stdout.flush()  # while a reader that has enough can be told from an error
        return status
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _interrupted(command)
    except BrokenPipeError:  # whoever reads the output has enough, as `head` does
        _silence()
        return 141
    except Exception as error:
        if any(isinstance(one, KeyboardInterrupt) for one in causes(error)):
            return _interrupted(command)  # libraries make others of it while they are imported
        sentence = in_a_sentence(error)
        if sentence is None:
            raise
        return _refuse(sentence)


def _open_streams() -> None:
    """Closed streams say nothing; characters that a terminal lacks are written as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _refuse_broken(argv: list[str]) -> None:
    for word in argv:
        if NO_TEXT.search(word):
            shown = word.encode("utf-8", "backslashreplace").decode()
            raise UserError(f"Argument {shown[:80]!r} is no text; write it in UTF-8.")


def _refuse(sentence: str) -> int:
    _end_bars()
    with contextlib.suppress(OSError):
        print(f"error: {printable(sentence)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _silence()
    return 2


def _silence() -> None:
    """Let Python write what is left for a standard output that takes no more to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_bars() -> None:
    """Let what is said stand below the bars of work that has ended in the midst."""
    if tqdm := sys.modules.get("tqdm"):
        with contextlib.suppress(OSError):
            for bar in list(tqdm.tqdm._instances):
                bar.close()


def _interrupted(command: str) -> int:
    _end_bars()
    again = "; the same command takes up what is done" if command in _RESUMED else ""
    print(f"interrupted{again}", file=sys.stderr)
    return 130


def _pass_over_storage(failed: threading.ExceptHookArgs) -> None:
    """A thread's failure on a full disk is told once, by the work that needs what it wrote."""
    if failed.exc_value is None or storage_error(failed.exc_value) is None:
        threading.__excepthook__(failed)


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
