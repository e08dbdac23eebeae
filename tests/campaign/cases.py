"""One command in this process, with what it reads in the current folder, and how it ends."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import resource
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SECONDS = 60
SLOW = 20  # seconds after which a case is worth a line
_MEMORY = 6 << 30


class Hang(BaseException):
    """A command took too long."""


@dataclass
class Case:
    """A command, and what it is given."""

    name: str
    argv: list[str]
    named: list[str] = field(default_factory=list)  # One of them a sentence has to hold
    believed: str = ""  # Why exit code 0 without a warning is wrong, if it is
    key: str = ""  # What it is about
    prepare: Callable[[], None] = lambda: None  # Called before


class _Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())


def limit_memory() -> None:
    """Let what is too large fail here, instead of taking the machine with it."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_case(case: Case) -> tuple[str, str]:
    """How a case ends, by the names of :mod:`.counts`, and what it says."""
    from recbole_llmemb.cli.main import main
    from recbole_llmemb.core.errors import causes

    case.prepare()
    out, err, warned = io.StringIO(), io.StringIO(), _Warnings()
    logging.getLogger().addHandler(warned)
    before = [signal.signal(kind, _hang) for kind in (signal.SIGALRM, signal.SIGPROF)]
    # More, as others may be at work here: on a search, whose workers wait for a processor too.
    signal.alarm((6 if case.argv[0] == "tune" else 3) * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status: Any = main(list(case.argv))
            except SystemExit as end:
                status = end.code
        return _judged(case, status, out.getvalue(), err.getvalue(), warned.told)
    except Hang:
        return "hung", f"after {SECONDS} s"
    except (Exception, KeyboardInterrupt) as error:
        if any(isinstance(one, Hang) for one in causes(error)):  # as Ray passes it on
            return "hung", f"after {SECONDS} s"
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
        logging.getLogger().removeHandler(warned)


def _hang(*_):
    raise Hang


def _judged(case: Case, status: Any, out: str, err: str, warned: list[str]) -> tuple[str, str]:
    if status in (0, None):
        printed = out
        if case.argv[0] == "recommend":  # a title may be called so
            printed = " ".join(re.findall(r"^ *\d+  \S+ +(\S+)", out, re.MULTILINE))
        numbers = re.findall(r"(?<![\w.-])(?:nan|-?inf)(?![\w).\]/])", printed)
        given = [*case.argv, case.name.partition(" (")[0].replace("'", "")]  # or in a file
        numbers = [one for one in numbers if not any(w.endswith(f"={one}") for w in given)]
        if numbers:
            return "believed", f"prints {numbers[0]}"
        told = warned or re.search("left out|warning|note:", out + err, re.IGNORECASE)
        return ("believed", case.believed) if case.believed and not told else ("whole", "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    if status != 2 or len(lines) != 1 or "Traceback" in err:
        return "odd", f"exit code {status}: {err[-2000:]}"
    words = [word.lower() for word in case.named]
    words += [word.encode("unicode_escape").decode() for word in words]
    words += [word.replace("//", "/") for word in words]  # as a path
    names = words and not any(word in lines[0].lower() for word in words)
    return ("odd" if names or not re.search(r"[.?]$", lines[0]) else "refused"), lines[0]
